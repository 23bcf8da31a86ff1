//! Faults of RabbitMQ and of the network. Each test counts: every request that was published has
//! its outcome or still waits.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kit::{Answer, Context, FieldTable, NodeOptions, Process, Trackfinity};

use crate::world::{DEAD, EXCHANGE, REQUEST, REQUESTS, RESULTS, SOON, id, start_worker};

const LEDGER: &str = "ledger";
const CONCURRENCY: usize = 64;
/// Long enough for a node to come back on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// A worker under load, whose outcomes go to a durable queue.
struct Load {
    ctx: Context,
    trackfinity: Trackfinity,
    worker: Process,
    published: usize,
}

impl Load {
    /// Starts a worker that reaches the broker at `amqp_url`.
    async fn start(ctx: &Context, amqp_url: &str, settings: &[(&str, &str)]) -> Self {
        let trackfinity = Trackfinity::start(|_| Answer::unlocked().after(Duration::from_millis(5)));
        trackfinity.record(false);
        let worker = start_worker(ctx, amqp_url, &trackfinity.url(), settings).await;
        let amqp = ctx.amqp().await;
        amqp.declare_queue(LEDGER, FieldTable::default()).await;
        amqp.bind(LEDGER, RESULTS, "unlock.#").await;
        Self { ctx: ctx.clone(), trackfinity, worker, published: 0 }
    }

    async fn publish(&mut self, count: usize) {
        let requests = (self.published..self.published + count)
            .map(|n| (id(&n.to_string()), format!(r#"{{"customer_id":{n}}}"#).into_bytes()));
        self.ctx.amqp().await.publish_all(EXCHANGE, REQUEST, requests).await;
        self.published += count;
    }

    async fn wait_calls(&self, count: usize) {
        self.trackfinity.wait_count(count as u64, LONG).await;
    }

    async fn wait_says(&self, text: &str) {
        self.worker.wait_for_line(|line| line.contains(text), LONG).await;
    }

    /// Waits until every request has its outcome. At most `repeats` outcomes are duplicates, no
    /// request remains, and there is no dead letter.
    async fn finish(self, repeats: usize) {
        let amqp = self.ctx.amqp().await;
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        kit::eventually("every request has its outcome", LONG, async || {
            for outcome in amqp.drain(LEDGER).await {
                assert_eq!(outcome.json()["status"], "unlocked", "{}", outcome.text());
                let message_id = outcome.properties.message_id().as_ref().expect("a message id").to_string();
                *outcomes.entry(message_id).or_default() += 1;
            }
            if outcomes.len() == self.published {
                Ok(())
            } else {
                Err(format!("{} of {}", outcomes.len(), self.published))
            }
        })
        .await;
        self.worker.signal(kit::Signal::TERM);
        assert!(self.worker.wait_exit(SOON).await.success());
        for queue in [REQUESTS, DEAD] {
            assert_eq!(amqp.ready_count(queue).await, 0, "{queue}");
        }
        for outcome in amqp.drain(LEDGER).await {
            *outcomes
                .entry(outcome.properties.message_id().clone().expect("an id").to_string())
                .or_default() += 1;
        }
        let repeated: usize = outcomes.values().map(|count| count - 1).sum();
        assert!(repeated <= repeats, "{repeated} outcomes came again");
    }
}

#[test]
fn a_broker_that_is_killed_and_comes_back_loses_nothing() {
    kit::run_on_own_node_within(LONG * 2, NodeOptions::default(), async |ctx| {
        let mut load = Load::start(&ctx, ctx.amqp_url(), &[]).await;
        load.publish(2_000).await;
        load.wait_calls(500).await;
        ctx.node().kill().await;
        load.wait_says("not consuming").await;
        ctx.node().restart().await;
        load.publish(200).await;
        load.finish(2 * CONCURRENCY).await;
    });
}

#[test]
fn a_broker_that_freezes_is_noticed_and_loses_nothing() {
    kit::run_on_own_node_within(LONG * 2, NodeOptions::default(), async |ctx| {
        let url = format!("{}?heartbeat=2", ctx.amqp_url());
        let mut load = Load::start(&ctx, &url, &[]).await;
        load.publish(2_000).await;
        load.wait_calls(500).await;
        ctx.node().freeze().await;
        let frozen = Instant::now();
        load.wait_says("not consuming").await;
        assert!(frozen.elapsed() < Duration::from_secs(12), "noticed after {:?}", frozen.elapsed());
        ctx.node().thaw().await;
        load.finish(2 * CONCURRENCY).await;
    });
}

#[test]
fn connections_closed_by_an_operator_are_opened_again() {
    kit::run_on_own_node_within(LONG * 2, NodeOptions::default(), async |ctx| {
        let mut load = Load::start(&ctx, ctx.amqp_url(), &[]).await;
        load.publish(2_000).await;
        for calls in [300, 900] {
            load.wait_calls(calls).await;
            ctx.node().close_all_connections().await;
        }
        load.wait_says("CONNECTION_FORCED").await;
        load.finish(3 * CONCURRENCY).await;
    });
}

#[test]
fn an_alarm_delays_requests_in_flight_until_it_clears() {
    kit::run_on_own_node_within(LONG * 2, NodeOptions::default(), async |ctx| {
        let mut load = Load::start(&ctx, ctx.amqp_url(), &[]).await;
        load.trackfinity.answer_with(|_| Answer::unlocked().after(Duration::from_millis(500)));
        load.publish(1_000).await;
        load.wait_calls(1).await;
        ctx.node().memory_alarm(true).await;
        load.wait_says("RabbitMQ blocks publishing").await;
        // Nothing new is consumed when the concurrency limit is reached.
        let mut before = 0;
        kit::eventually("calls come to a stop", LONG, async || {
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            let calls = load.trackfinity.count();
            std::mem::replace(&mut before, calls) == calls
        })
        .await;
        assert!(before < 1_000, "calls go on during the alarm");
        ctx.node().memory_alarm(false).await;
        load.wait_says("takes messages again").await;
        load.trackfinity.answer_with(|_| Answer::unlocked());
        load.finish(0).await;
    });
}

#[test]
fn a_delivery_unacknowledged_for_too_long_costs_a_session_but_no_request() {
    kit::run_on_own_node_within(LONG * 2, NodeOptions::default(), async |ctx| {
        // By default RabbitMQ checks the timeout every minute.
        let eval = "application:set_env(rabbit, channel_tick_interval, 500), \
                    application:set_env(rabbit, consumer_timeout, 1500), \
                    application:set_env(rabbit, quorum_tick_interval, 500).";
        ctx.node().rabbitmqctl(&["eval", eval]).await.expect("set");
        let mut load = Load::start(&ctx, ctx.amqp_url(), &[("TRACKFINITY__TIMEOUT", "60s")]).await;
        load.trackfinity.answer_with(|_| Answer::unlocked().after(Duration::from_secs(40)));
        load.publish(3).await;
        load.wait_calls(3).await;
        load.wait_says("not consuming").await;
        load.trackfinity.answer_with(|_| Answer::unlocked());
        load.finish(3).await;
    });
}

#[test]
fn a_queue_deleted_under_the_consumer_is_declared_again() {
    kit::run(async |ctx| {
        let mut load = Load::start(&ctx, ctx.amqp_url(), &[]).await;
        load.publish(50).await;
        load.wait_calls(50).await;
        kit::eventually("all settled", SOON, async || {
            let queue = ctx.vhost().management().queue(REQUESTS).await;
            queue.is_some_and(|queue| queue["messages"] == 0)
        })
        .await;
        ctx.vhost().management().delete_queue(REQUESTS).await;
        load.wait_says("cancelled the consumer").await;
        kit::eventually("the queue is back and bound", SOON, async || {
            let bindings = ctx.vhost().management().bindings().await;
            bindings.iter().any(|of| of["destination"] == REQUESTS && of["source"] == "trackfinity.unlock")
        })
        .await;
        load.publish(50).await;
        load.finish(0).await;
    });
}

#[test]
fn a_deleted_results_exchange_is_declared_again_and_outcomes_wait_meanwhile() {
    kit::run_within(LONG, async |ctx| {
        let mut load = Load::start(&ctx, ctx.amqp_url(), &[("RESULTS__REQUIRE_SUBSCRIBER", "true")]).await;
        load.publish(50).await;
        load.wait_calls(50).await;
        ctx.vhost().management().delete_exchange(RESULTS).await;
        load.publish(50).await;
        load.wait_says("no exchange 'trackfinity.unlock.results'").await;
        load.wait_says("outcomes can't be published").await;
        ctx.amqp().await.bind(LEDGER, RESULTS, "unlock.#").await;
        load.finish(0).await;
    });
}

#[test]
fn a_network_that_is_cut_several_times_loses_nothing() {
    kit::run_within(LONG, async |ctx| {
        let (line, url) = ctx.cutter().await;
        let mut load = Load::start(&ctx, &url, &[]).await;
        load.publish(2_000).await;
        let cuts = 4;
        for cut in 1..=cuts {
            load.wait_calls(cut * 300).await;
            line.cut().await;
            load.wait_says("not consuming").await;
            line.restore().await;
        }
        load.finish((cuts + 1) * CONCURRENCY).await;
    });
}

#[test]
fn a_slow_network_loses_nothing() {
    kit::run_within(LONG, async |ctx| {
        let (line, url) = ctx.cutter().await;
        let mut load = Load::start(&ctx, &url, &[]).await;
        line.delay(Duration::from_millis(50));
        load.publish(300).await;
        load.finish(0).await;
    });
}

#[test]
fn a_half_open_connection_is_noticed_and_loses_nothing() {
    kit::run_within(LONG, async |ctx| {
        let (line, url) = ctx.cutter().await;
        let mut load = Load::start(&ctx, &format!("{url}?heartbeat=2"), &[]).await;
        load.publish(1_000).await;
        load.wait_calls(300).await;
        line.half_open();
        load.wait_says("not consuming").await;
        line.cut().await;
        line.restore().await;
        load.finish(2 * CONCURRENCY).await;
    });
}

#[test]
fn a_listener_whose_queue_does_not_confirm_causes_no_duplicates() {
    kit::run_on_own_node_within(LONG * 2, NodeOptions::default(), async |ctx| {
        let mut load = Load::start(&ctx, ctx.amqp_url(), &[]).await;
        let amqp = ctx.amqp().await;
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), kit::AMQPValue::LongString("quorum".into()));
        amqp.declare_queue("stuck", quorum).await;
        amqp.bind("stuck", RESULTS, "unlock.#").await;
        // A channel finds a queue's leader at the first message, and does not look for it again.
        load.publish(1).await;
        kit::eventually("one outcome is published", SOON, async || amqp.ready_count("stuck").await == 1)
            .await;
        suspend(&ctx, "stuck", true).await;
        load.publish(9).await;
        load.wait_calls(10).await;
        kit::eventually("all outcomes are published", SOON, async || amqp.ready_count(LEDGER).await == 10)
            .await;
        // Long enough to see a repeated publish.
        let until = Instant::now() + Duration::from_secs(15);
        while Instant::now() < until {
            assert_eq!(amqp.ready_count(LEDGER).await, 10, "outcomes are published again");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        suspend(&ctx, "stuck", false).await;
        assert_eq!(load.trackfinity.count(), 10, "no request was called for again");
        load.finish(0).await;
    });
}

/// Suspends a quorum queue's process, or resumes it.
async fn suspend(ctx: &Context, queue: &str, suspended: bool) {
    let server = format!("'{}_{queue}'", ctx.vhost().name());
    let action = if suspended { "suspend" } else { "resume" };
    ctx.node().rabbitmqctl(&["eval", &format!("sys:{action}({server}).")]).await.expect("done");
}

#[test]
fn a_broker_that_never_answers_does_not_use_ever_more_threads() {
    kit::run_within(LONG, async |ctx| {
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("amqp://guest:guest@{}/%2f", mute.local_addr().expect("an address"));
        let (tries, tried) = tokio::sync::watch::channel(0);
        ctx.spawn(async move {
            let mut connections = Vec::new();
            loop {
                connections.push(mute.accept().await);
                tries.send_replace(connections.len());
            }
        });
        let worker = ctx.start(&crate::world::unlocker(&url, "http://127.0.0.1:1").arg("run"));
        let threads = || std::fs::read_dir(format!("/proc/{}/task", worker.pid())).expect("threads").count();
        worker.wait_for_line(|line| line.contains("no answer within"), LONG).await;
        let before = threads();
        kit::eventually("four tries", LONG, async || *tried.borrow() >= 4).await;
        kit::eventually("their threads are gone", SOON, async || threads() <= before).await;
    });
}
