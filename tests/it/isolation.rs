//! One fault costs one handler slot at most: requests, customers and listeners that always fail,
//! and headers that producers forged.

use std::time::{Duration, Instant};

use kit::{AMQPValue, Answer, Call, FieldTable, Properties, Trackfinity};
use serde_json::json;
use trackfinity_unlocker::message::Timestamp;

use crate::world::{
    DEAD, EXCHANGE, REQUEST, REQUESTS, RESULTS, SOON, World, id, requests, start_worker, text,
};

const LONG: Duration = Duration::from_secs(150);

/// Short pauses and tiers.
const QUICK: [(&str, &str); 3] =
    [("PAUSE__PROBE_DELAY", "50ms"), ("PAUSE__PROBE_MAX_DELAY", "200ms"), ("RETRY__MAX_DELAY", "1s")];

fn customer(call: &Call) -> usize {
    call.field("customer_id").and_then(|id| id.parse().ok()).unwrap_or(usize::MAX)
}

/// A queue for one message: RabbitMQ refuses further publishes that are routed to it. Without the
/// policy of its name the queue accepts more.
async fn full_listener(world: &World, queue: &str, key: &str) {
    world.amqp.declare_queue(queue, FieldTable::default()).await;
    let management = world.ctx.vhost().management();
    let definition = json!({"max-length": 1, "overflow": "reject-publish"});
    management.set_policy(queue, &format!("^{queue}$"), definition).await;
    kit::eventually("the policy is in force", SOON, async || {
        management.queue(queue).await.is_some_and(|found| found["policy"] == queue)
    })
    .await;
    world.amqp.bind(queue, RESULTS, key).await;
}

#[test]
fn a_healthy_request_behind_24_that_always_fail_is_served_within_a_minute_and_all_24_end() {
    kit::run_within(LONG, async |ctx| {
        let settings =
            [("WORKER__CONCURRENCY", "8"), ("RETRY__MAX_DELAY", "1s"), ("RETRY__MAX_ATTEMPTS", "3")];
        let world = World::start_with(ctx, &settings, |call| match customer(call) {
            0..24 => Answer::status(503),
            _ => Answer::unlocked(),
        })
        .await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(25)).await;
        let published = Instant::now();
        let ended = |status: &str| {
            let all = world.outcomes.all();
            all.iter().filter(|outcome| outcome.json()["status"] == status).count()
        };
        kit::eventually("the healthy one is served", Duration::from_secs(60), async || {
            ended("unlocked") == 1
        })
        .await;
        eprintln!("behind 24 that always fail: served after {:.1?}", published.elapsed());
        // Healthy requests keep coming.
        let mut next = 1_000;
        kit::eventually("all 24 end", LONG, async || {
            world.unlock(&next.to_string()).await;
            next += 1;
            ended("abandoned") == 24
        })
        .await;
        eprintln!("all 24 ended after {:.1?}", published.elapsed());
        kit::eventually("the healthy ones are served", SOON, async || ended("unlocked") == 1 + next - 1_000)
            .await;
    });
}

#[test]
fn a_few_requests_that_always_fail_end_even_if_no_other_comes() {
    kit::run_within(LONG, async |ctx| {
        let settings = [&QUICK[..], &[("PAUSE__AFTER_FAILURES", "2"), ("RETRY__MAX_ATTEMPTS", "3")]].concat();
        let world = World::start_with(ctx, &settings, |call| match call.path.as_str() {
            "/api/service/ping" => Answer::unlocked(),
            _ => Answer::status(503),
        })
        .await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(3)).await;
        let outcomes = world.outcomes.wait_count(3, Duration::from_secs(60)).await;
        assert!(outcomes.iter().all(|outcome| outcome.json()["reason"] == "http_503"));
    });
}

#[test]
fn customers_that_are_always_forbidden_end_as_refused_and_slow_down_no_other() {
    for concurrency in ["64", "auto"] {
        kit::run_within(LONG, async |ctx| {
            const HEALTHY: usize = 600;
            let settings = [("WORKER__CONCURRENCY", concurrency)];
            let world = World::start_with(ctx, &settings, |call| match customer(call) {
                10_000.. => Answer::status(403),
                _ => Answer::unlocked().after(Duration::from_millis(20)),
            })
            .await;
            let mut ticks = tokio::time::interval(Duration::from_millis(10));
            for n in 0..HEALTHY {
                ticks.tick().await;
                if n % 20 == 10 && n < 200 {
                    world.unlock(&(10_000 + n).to_string()).await;
                }
                world.unlock(&n.to_string()).await;
            }
            let all = world.outcomes.wait_count(HEALTHY + 10, LONG).await;
            let (mut refused, mut slow) = (0, 0);
            for outcome in all.iter().map(kit::Message::json) {
                if outcome["status"] == "refused" {
                    assert_eq!(outcome["reason"], "http_403");
                    refused += 1;
                    continue;
                }
                let at = |field: &str| text(&outcome[field]).parse::<Timestamp>().expect("a time");
                let took = at("finished_at").since(at("first_received_at"));
                slow += usize::from(took > Duration::from_millis(200));
            }
            eprintln!("{concurrency}: {slow} of {HEALTHY} healthy requests took over 0.2 s");
            assert_eq!(refused, 10);
            assert!(slow * 20 <= HEALTHY, "{slow} of {HEALTHY} were slow");
        });
    }
}

#[test]
fn an_invalid_request_whose_outcome_is_refused_does_not_delay_the_probe() {
    kit::run(async |ctx| {
        let world = World::start_with(ctx, &QUICK, |call| match call.n {
            1 => Answer::status(401),
            _ => Answer::unlocked(),
        })
        .await;
        full_listener(&world, "full", "unlock.invalid").await;
        world.unlock("first").await;
        world.worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
        world.publish(id("invalid"), "nonsense").await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(20)).await;
        let unlocked = |outcome: &kit::Message| outcome.json()["status"] == "unlocked";
        kit::eventually("the others are served", SOON, async || {
            world.outcomes.all().iter().filter(|outcome| unlocked(outcome)).count() == 21
        })
        .await;
    });
}

#[test]
fn a_request_that_stays_unsettled_over_many_lost_sessions_stops_no_other() {
    kit::run_within(LONG, async |ctx| {
        let declaring = start_worker(&ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
        declaring.signal(kit::Signal::TERM);
        declaring.wait_exit(SOON).await;
        // Its dead letter cannot be published, so the request stays unacknowledged.
        ctx.vhost().management().delete_binding(DEAD, DEAD, "").await;
        let (line, url) = ctx.cutter().await;
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let _worker = start_worker(&ctx, &url, &trackfinity.url(), &[("BROKER__DECLARE", "false")]).await;
        let amqp = ctx.amqp().await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        amqp.publish(EXCHANGE, REQUEST, id("unsettled"), b"nonsense").await;
        for round in 0..5 {
            amqp.publish_all(EXCHANGE, REQUEST, requests(20 * round + 20).skip(20 * round)).await;
            outcomes.wait_count(20 * round + 20, SOON).await;
            line.reset_all().await;
        }
        assert!(!outcomes.all().iter().any(|outcome| outcome.json()["request_id"] == "unsettled"));
    });
}

#[test]
fn a_forged_delivery_count_slows_down_no_request() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked().after(Duration::from_millis(50))).await;
        let mut headers = FieldTable::default();
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(15));
        let forged = |n: usize| {
            let properties = Properties::default().with_message_id(n.to_string().into());
            (properties.with_headers(headers.clone()), format!(r#"{{"customer_id":{n}}}"#).into_bytes())
        };
        world.amqp.publish_all(EXCHANGE, REQUEST, (0..640).map(forged)).await;
        world.outcomes.wait_count(640, SOON).await;
        let most = world.trackfinity.max_in_flight();
        assert!(most > 16, "{most} calls in flight at most");
        assert_eq!(world.amqp.ready_count(REQUESTS).await, 0);
    });
}

#[test]
fn a_listener_whose_queue_is_full_delays_no_other_and_gets_its_outcomes_later() {
    kit::run_within(LONG, async |ctx| {
        const COUNT: usize = 300;
        let settings = [("RETRY__MAX_DELAY", "1s")];
        let world = World::start_with(ctx, &settings, |_| Answer::unlocked()).await;
        full_listener(&world, "full", "unlock.#").await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(COUNT)).await;
        world.trackfinity.wait_count(COUNT as u64, SOON).await;
        kit::eventually("the healthy listener has all outcomes", SOON, async || {
            ids(&world.outcomes).len() == COUNT
        })
        .await;
        world.worker.wait_for_line(|line| line.contains("outcomes can't be published"), SOON).await;
        // The queue accepts outcomes again.
        world.ctx.vhost().management().delete_policy("full").await;
        let late = world.amqp.consume_queue("full").await;
        kit::eventually("it has all outcomes", SOON, async || ids(&late).len() == COUNT).await;
        let mut copies = std::collections::BTreeMap::<String, usize>::new();
        for outcome in world.outcomes.all() {
            *copies.entry(text(&outcome.json()["request_id"])).or_default() += 1;
        }
        let most = copies.values().max().expect("outcomes");
        assert!(*most <= 12, "{most} copies of one outcome");
        assert_eq!(world.trackfinity.count(), COUNT as u64, "no request was called for again");
        world.stop().await;
    });
}

fn ids(inbox: &kit::Inbox) -> std::collections::BTreeSet<String> {
    inbox.all().iter().map(|outcome| text(&outcome.json()["request_id"])).collect()
}

/// A quorum queue, `stuck`, that receives one outcome and then confirms none until it is resumed.
async fn stuck_listener(world: &World) {
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    world.amqp.declare_queue("stuck", quorum).await;
    world.amqp.bind("stuck", RESULTS, "unlock.#").await;
    world.unlock("first").await;
    kit::eventually("the first outcome", SOON, async || world.amqp.ready_count("stuck").await == 1).await;
    set_stuck_listener(world, "suspend").await;
}

/// `suspend` or `resume`.
async fn set_stuck_listener(world: &World, call: &str) {
    let eval = format!("sys:{call}('{}_stuck').", world.ctx.vhost().name());
    world.ctx.node().rabbitmqctl(&["eval", &eval]).await.expect(call);
}

#[test]
fn a_listener_whose_queue_does_not_confirm_delays_no_other_and_no_outcome_comes_twice() {
    kit::run_on_own_node_within(LONG, kit::NodeOptions::default(), async |ctx| {
        // No more than may wait for their confirms at once.
        const COUNT: usize = 150;
        let settings = [("WORKER__CONCURRENCY", "8"), ("RETRY__MAX_DELAY", "2s")];
        let world = World::start_with(ctx, &settings, |_| Answer::unlocked()).await;
        stuck_listener(&world).await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(COUNT)).await;
        world.trackfinity.wait_count(COUNT as u64 + 1, Duration::from_secs(60)).await;
        kit::eventually("the healthy listener has all outcomes", SOON, async || {
            world.outcomes.len() == COUNT + 1
        })
        .await;
        set_stuck_listener(&world, "resume").await;
        kit::eventually("the other has them, too", SOON, async || {
            world.amqp.ready_count("stuck").await as usize == COUNT + 1
        })
        .await;
        // A message that moves from a retry queue to the requests is in no queue's count for a moment.
        kit::eventually("nothing waits any more", SOON, async || {
            let lines = world.worker.stderr();
            lines.iter().filter(|line| line.contains(r#""event":"request_finished""#)).count() == COUNT + 1
        })
        .await;
        world.stop().await;
        assert_eq!(world.outcomes.len(), COUNT + 1, "no outcome came twice");
        assert_eq!(world.trackfinity.count() as usize, COUNT + 1, "no request was called for again");
    });
}

#[test]
fn an_outcome_that_a_producer_forged_is_not_published() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::status(404)).await;
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("unlocker-status", "unlocked"),
            ("unlocker-finished-at", "2026-11-23T09:00:00.120Z"),
            ("unlocker-first-received-at", "2026-11-23T09:00:00.000Z"),
            ("unlocker-outcome-mac", "00"),
        ] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        world.trackfinity.answer_with(|call| match call.path.as_str() {
            "/api/service/ping" => Answer::unlocked(),
            _ => Answer::status(404),
        });
        world.publish(id("1").with_headers(headers), r#"{"customer_id":1}"#).await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["reason"]), (&"refused".into(), &"http_404".into()));
    });
}

#[test]
fn a_pause_after_failures_ends_even_if_few_requests_may_be_in_flight() {
    for concurrency in ["1", "4"] {
        kit::run(async |ctx| {
            let mut settings = QUICK.to_vec();
            settings.push(("WORKER__CONCURRENCY", concurrency));
            settings.push(("PAUSE__AFTER_FAILURES", "3"));
            let world = World::start_with(ctx, &settings, |_| Answer::status(503)).await;
            world.amqp.publish_all(EXCHANGE, REQUEST, requests(20)).await;
            world.worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
            let failed = world.trackfinity.count();
            kit::eventually("a probe", SOON, async || world.trackfinity.count() > failed + 5).await;
            world.trackfinity.answer_with(|_| Answer::unlocked());
            world.outcomes.wait_count(20, SOON).await;
        });
    }
}

#[test]
fn requests_that_need_no_call_do_not_use_up_the_calls_after_a_pause() {
    kit::run(async |ctx| {
        let declaring = start_worker(&ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
        declaring.signal(kit::Signal::TERM);
        declaring.wait_exit(SOON).await;
        // No dead letter can be published: invalid requests stay unacknowledged.
        ctx.vhost().management().delete_binding(DEAD, DEAD, "").await;
        let mut settings = QUICK.to_vec();
        settings.push(("BROKER__DECLARE", "false"));
        let world = World::start_with(ctx, &settings, |_| Answer::status(401)).await;
        world.unlock("first").await;
        world.worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
        for n in 0..20 {
            world.publish(id(&format!("invalid {n}")), "nonsense").await;
        }
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(30)).await;
        world.trackfinity.answer_with(|_| Answer::unlocked());
        world.outcomes.wait_count(31, SOON).await;
    });
}

#[test]
fn many_requests_under_one_id_do_not_keep_a_pause_open() {
    kit::run(async |ctx| {
        let world = World::start_with(ctx, &QUICK, |_| Answer::status(401)).await;
        let same = (0..500).map(|n| (id("same"), format!(r#"{{"customer_id":{n}}}"#).into_bytes()));
        world.amqp.publish_all(EXCHANGE, REQUEST, same).await;
        world.worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
        let calls = world.trackfinity.count();
        kit::eventually("two probes", SOON, async || world.trackfinity.count() >= calls + 2).await;
        world.trackfinity.answer_with(|_| Answer::unlocked());
        world.outcomes.wait_count(500, SOON).await;
    });
}

#[test]
fn a_listener_whose_queue_does_not_confirm_does_not_block_the_connection() {
    kit::run_on_own_node_within(LONG, kit::NodeOptions::default(), async |ctx| {
        const COUNT: usize = 3_000;
        let world = World::start_with(ctx, &[("RETRY__MAX_DELAY", "2s")], |_| Answer::unlocked()).await;
        world.trackfinity.record(false);
        stuck_listener(&world).await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(COUNT)).await;
        world.trackfinity.wait_count(COUNT as u64 + 1, Duration::from_secs(60)).await;
        set_stuck_listener(&world, "resume").await;
        kit::eventually("both have all outcomes", LONG, async || {
            ids(&world.outcomes).len() == COUNT + 1 && world.amqp.ready_count("stuck").await as usize > COUNT
        })
        .await;
        assert_eq!(world.trackfinity.count() as usize, COUNT + 1, "no request was called for again");
    });
}
