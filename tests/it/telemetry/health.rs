//! `/livez` and `/readyz`.

use std::time::{Duration, Instant};

use kit::{Answer, FieldTable, Trackfinity};
use serde_json::Value;

use super::*;
use crate::world::{DEAD, EXCHANGE, REQUEST, RESULTS, requests};

async fn assert_live(base: &str) {
    assert_eq!(get(&format!("{base}/livez")).await.0, 200);
}

/// Waits until the worker is ready, and returns the response.
async fn ready(base: &str) -> Value {
    wait_ready(base, 200, |_| true).await
}

/// Waits until the worker is not ready with this code, and returns the response.
async fn not_ready(base: &str, code: &str) -> Value {
    let said = wait_ready(base, 503, |said| said["code"] == code).await;
    assert!(said["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{said}");
    assert_live(base).await;
    said
}

async fn wait_ready(base: &str, status: u16, wanted: impl Fn(&Value) -> bool) -> Value {
    kit::eventually(&format!("/readyz {status}"), SOON, async || {
        let (seen, body) = try_get(&format!("{base}/readyz")).await.map_err(|error| error.to_string())?;
        let said: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        if seen == status && wanted(&said) { Ok(said) } else { Err(format!("{seen} {body}")) }
    })
    .await
}

#[test]
fn a_worker_is_ready_while_it_consumes_and_not_while_the_broker_is_away() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let (cutter, url) = ctx.cutter().await;
        cutter.cut().await;
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let env = [listen, ("UNLOCKER__BROKER__URL", url)];
        let worker = ctx.start(&settings(unlocker(ctx.amqp_url(), &trackfinity.url()).arg("run"), &env));
        worker.wait_for_line(|line| line.contains("health and metrics are served"), SOON).await;
        not_ready(&base, "not_connected").await;
        for _time in 0..2 {
            cutter.restore().await;
            ready(&base).await;
            assert_live(&base).await;
            cutter.cut().await;
            let said = not_ready(&base, "not_connected").await;
            assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("RabbitMQ")), "{said}");
        }
        assert_eq!(get(&format!("{base}/metrics")).await.0, 200, "metrics are there all the same");
    });
}

#[test]
fn a_worker_is_not_ready_while_the_topology_is_wrong() {
    kit::run(async |ctx| {
        let queue = "trackfinity.unlock.retry.8s";
        let amqp = ctx.amqp().await;
        amqp.declare_queue(queue, FieldTable::default()).await;
        let (listen, base) = ops();
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let _worker =
            ctx.start(&settings(unlocker(ctx.amqp_url(), &trackfinity.url()).arg("run"), &[listen]));
        let said = not_ready(&base, "topology").await;
        assert!(said["reason"].as_str().is_some_and(|reason| reason.contains(queue)), "{said}");
        ctx.vhost().management().delete_queue(queue).await;
        ready(&base).await;
    });
}

#[test]
fn a_broker_that_is_away_is_no_longer_reported_as_a_wrong_topology() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let (line, url) = ctx.cutter().await;
        let env = [listen, ("UNLOCKER__BROKER__DECLARE", "false".to_owned())];
        let _worker = ctx.start(&settings(unlocker(&url, "http://127.0.0.1:1").arg("run"), &env));
        not_ready(&base, "topology").await;
        line.cut().await;
        not_ready(&base, "not_connected").await;
        line.restore().await;
        not_ready(&base, "topology").await;
    });
}

#[test]
fn a_worker_is_not_ready_while_the_topology_is_wrong_in_mid_session() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let first = ctx.start(&unlocker(ctx.amqp_url(), "http://127.0.0.1:1").arg("run"));
        first.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
        first.signal(kit::Signal::TERM);
        first.wait_exit(SOON).await;
        let env = [listen, ("UNLOCKER__BROKER__DECLARE", "false".to_owned())];
        let world = world(ctx, &env, |_| Answer::status(400)).await;
        ready(&base).await;
        world.ctx.vhost().management().delete_exchange(DEAD).await;
        world.unlock("1").await;
        let said = not_ready(&base, "topology").await;
        assert!(said["reason"].as_str().is_some_and(|reason| reason.contains(DEAD)), "{said}");
        let management = world.ctx.vhost().management();
        let exchange = format!("/api/exchanges/{}/{DEAD}", world.ctx.vhost().name());
        management
            .put(&exchange, serde_json::json!({"type": "fanout", "durable": true}))
            .await
            .expect("made");
        world.amqp.bind(DEAD, DEAD, "").await;
        ready(&base).await;
    });
}

#[test]
fn a_worker_is_not_ready_while_no_dead_letter_can_be_published() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let first = ctx.start(&unlocker(ctx.amqp_url(), "http://127.0.0.1:1").arg("run"));
        first.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
        first.signal(kit::Signal::TERM);
        first.wait_exit(SOON).await;
        ctx.vhost().management().delete_binding(DEAD, DEAD, "").await;
        let env = [listen, ("UNLOCKER__BROKER__DECLARE", "false".to_owned())];
        let world = world(ctx, &env, |_| Answer::status(400)).await;
        ready(&base).await;
        world.unlock("1").await;
        let said = not_ready(&base, "publish").await;
        assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("dead letters")), "{said}");
        world.amqp.bind(DEAD, DEAD, "").await;
        ready(&base).await;
    });
}

#[test]
fn a_worker_stays_ready_and_names_what_a_listener_refuses() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let world = world(ctx, &[listen], |_| Answer::unlocked()).await;
        let mut full = FieldTable::default();
        full.insert("x-max-length".into(), kit::AMQPValue::LongLongInt(0));
        full.insert("x-overflow".into(), kit::AMQPValue::LongString("reject-publish".into()));
        world.amqp.declare_queue("full", full).await;
        world.amqp.bind("full", RESULTS, "unlock.unlocked").await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(10)).await;
        let named = |said: &Value| said["refused_outcomes"] == serde_json::json!(["unlock.unlocked"]);
        wait_ready(&base, 200, named).await;
        kit::eventually("the metric", SOON, async || {
            let metrics = get(&format!("{base}/metrics")).await.1;
            let labels = [("status", "unlocked"), ("cause", "refused")];
            sample(&metrics, "unlocker_outcomes_postponed_total", &labels).is_some_and(|n| n >= 1.0)
        })
        .await;
        world.ctx.vhost().management().delete_queue("full").await;
        world.unlock("more").await;
        wait_ready(&base, 200, |said| said["refused_outcomes"] == serde_json::json!([])).await;
    });
}

#[test]
fn a_worker_is_not_ready_while_paused_for_an_endpoint_fault() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let env = [listen, ("UNLOCKER__PAUSE__PROBE_DELAY", "200ms".to_owned())];
        let world = world(ctx, &env, |_| Answer::status(401)).await;
        ready(&base).await;
        world.unlock("1").await;
        let said = not_ready(&base, "endpoint_fault").await;
        assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("api_key")), "{said}");
        world.trackfinity.answer_with(|_| Answer::unlocked());
        assert_eq!(ready(&base).await["paused"], Value::Null);
        assert_eq!(world.outcome().await["status"], "unlocked");
    });
}

#[test]
fn a_worker_stays_ready_while_paused_for_failures() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let env = [
            listen,
            ("UNLOCKER__PAUSE__AFTER_FAILURES", "2".to_owned()),
            ("UNLOCKER__PAUSE__PROBE_DELAY", "100ms".to_owned()),
        ];
        let world = world(ctx, &env, |_| Answer::status(503)).await;
        for n in 0..3 {
            world.unlock(&n.to_string()).await;
        }
        wait_ready(&base, 200, |said| said["paused"]["cause"] == "failures").await;
        // During the whole pause, also while probes run.
        let calls = world.trackfinity.count();
        kit::eventually("some probes", SOON, async || {
            assert_eq!(get(&format!("{base}/readyz")).await.0, 200);
            world.trackfinity.count() >= calls + 3
        })
        .await;
        assert_live(&base).await;
    });
}

#[test]
fn health_answers_at_once_under_full_load() {
    const REQUESTS: usize = 5_000;
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let env = [listen, ("UNLOCKER__WORKER__CONCURRENCY", "1024".to_owned())];
        let world = world(ctx, &env, |_| Answer::unlocked()).await;
        world.trackfinity.record(false);
        let (mut slowest, mut looks) = (Duration::ZERO, 0);
        let client = http();
        let look = async {
            while world.outcomes.len() < REQUESTS {
                for path in ["livez", "readyz"] {
                    let asked = Instant::now();
                    let reply = client.get(format!("{base}/{path}")).send().await.expect("an answer");
                    assert_eq!(reply.status().as_u16(), 200, "{path}");
                    slowest = slowest.max(asked.elapsed());
                    looks += 1;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::join!(world.amqp.publish_all(EXCHANGE, REQUEST, requests(REQUESTS)), look);
        eprintln!("{looks} looks under load, the slowest {slowest:?}");
        assert!(looks > 20, "{looks} looks");
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        world.stop().await;
    });
}

#[test]
fn an_address_that_is_taken_is_said_and_ends_the_start() {
    kit::run(async |ctx| {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address").to_string();
        let env = [("UNLOCKER__OPS__LISTEN", address.clone())];
        let worker = ctx.start(&settings(unlocker(ctx.amqp_url(), "http://127.0.0.1:1").arg("run"), &env));
        assert_eq!(worker.wait_exit(SOON).await.code(), Some(1));
        let says = |line: &String| line.contains("ops.listen") && line.contains(&address);
        assert!(worker.stderr().iter().any(says), "{:#?}", worker.stderr());
    });
}
