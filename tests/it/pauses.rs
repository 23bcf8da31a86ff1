//! When calls to Trackfinity stop, and how they start again.

use std::time::{Duration, Instant};

use kit::{Answer, Context, Process, Program, Trackfinity};
use serde_json::json;

use crate::world::{self, DEAD, EXCHANGE, REQUEST, RESULTS, SOON, Secrets, World, id, requests, unlocker};

const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_wrong_key_causes_no_dead_letter_and_few_calls_and_a_new_key_ends_the_pause_without_a_restart() {
    const WAITING: usize = 5_000;
    kit::run_within(LONG * 2, async |ctx| {
        let secrets = Secrets::new();
        let key = secrets.write("key", "wrong");
        let trackfinity = Trackfinity::start(|call| match call.header("api-key") {
            Some("right") => Answer::unlocked(),
            _ => Answer::status(401),
        });
        let program = file_key_worker(&ctx, &trackfinity, &key);
        // Creates the topology and 5,000 requests before the worker with the key starts.
        let declaring = world::start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        declaring.signal(kit::Signal::TERM);
        declaring.wait_exit(SOON).await;
        let amqp = ctx.amqp().await;
        amqp.publish_all(EXCHANGE, REQUEST, requests(WAITING)).await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;

        let worker = ctx.start(&program);
        let advice =
            |line: &str| line.contains("Check trackfinity.api_key") && line.contains("ADMIN_API_ALLOWED_IPS");
        worker.wait_for_line(advice, SOON).await;
        let paused = Instant::now();
        let watched = Duration::from_secs(8);
        tokio::time::sleep(watched).await;
        let after_first = trackfinity.count().saturating_sub(64) as f64;
        let rate = after_first / paused.elapsed().as_secs_f64();
        assert!(rate < 2.0, "{rate} calls a second");
        assert_eq!(worker.stderr().iter().filter(|line| advice(line)).count(), 1, "it is logged once");
        assert_eq!(amqp.ready_count(DEAD).await, 0);
        assert!(outcomes.is_empty());

        secrets.write("key", "right\n");
        let all = outcomes.wait_count(WAITING, LONG).await;
        assert!(
            all.iter()
                .all(|outcome| outcome.json()["status"] == "unlocked" && outcome.json()["attempts"] == 1)
        );
        assert_eq!(amqp.ready_count(DEAD).await, 0);
        eprintln!(
            "wrong key: {} calls before the new key at {rate:.2} a second",
            trackfinity.count() as usize - WAITING
        );
    });
}

fn file_key_worker(ctx: &Context, trackfinity: &Trackfinity, key: &std::path::Path) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker"))
        .arg("run")
        .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
        .env("UNLOCKER__TRACKFINITY__BASE_URL", trackfinity.url())
        .env("UNLOCKER__TRACKFINITY__API_KEY_FILE", key)
        .env("UNLOCKER__TRACKFINITY__API_USERNAME", "user")
        .env("UNLOCKER__OPS__LISTEN", "")
}

#[test]
fn a_broker_url_in_a_file_is_read_again_at_each_reconnect() {
    kit::run(async |ctx| {
        let secrets = Secrets::new();
        let url = secrets.write("url", &format!("amqp://guest:guest@127.0.0.1:{}", kit::free_port()));
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let program = unlocker(ctx.amqp_url(), &trackfinity.url())
            .arg("run")
            .env("UNLOCKER__BROKER__URL", "")
            .env("UNLOCKER__BROKER__URL_FILE", &url);
        let worker = ctx.start(&program);
        worker.wait_for_line(|line| line.contains("RabbitMQ cannot be reached"), SOON).await;
        secrets.write("url", ctx.amqp_url());
        worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
    });
}

#[test]
fn an_outage_causes_no_dead_letter_burns_no_attempt_by_probing_and_ends_within_the_longest_probe_delay() {
    const WAITING: usize = 5_000;
    kit::run_within(LONG * 2, async |ctx| {
        // An outage of ten minutes with 1 s to 30 s between probes, in a hundredth of the time.
        let settings = [("PAUSE__PROBE_DELAY", "10ms"), ("PAUSE__PROBE_MAX_DELAY", "300ms")];
        let world = World::start_with(ctx, &settings, |_| Answer::status(503)).await;
        world.trackfinity.record(false);
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(WAITING)).await;
        world.worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
        kit::eventually("many probes", SOON, async || world.trackfinity.count() > 64 + 25).await;
        assert!(world.outcomes.is_empty());
        assert_eq!(world.amqp.ready_count(DEAD).await, 0);
        world.trackfinity.answer_with(|_| Answer::unlocked());
        let back = Instant::now();
        world.outcomes.wait_count(64, LONG).await;
        let took = back.elapsed();
        assert!(took < Duration::from_secs(2), "throughput was back after {took:?}");
        let all = world.outcomes.wait_count(WAITING, LONG).await;
        let attempts: Vec<_> =
            all.iter().map(|outcome| outcome.json()["attempts"].as_u64().expect("a number")).collect();
        assert!(
            attempts.iter().all(|attempts| *attempts <= 2),
            "at most one attempt was burned, before the pause"
        );
        // Those that opened the breaker, and those in flight with them.
        assert!(attempts.iter().filter(|attempts| **attempts == 2).count() <= 2 * 64);
        assert_eq!(world.amqp.ready_count(DEAD).await, 0);
        world.stop().await;
    });
}

#[test]
fn a_paused_worker_leaves_the_backlog_in_the_queue() {
    kit::run(async |ctx| {
        let settings = [("PAUSE__PROBE_DELAY", "1h"), ("PAUSE__PROBE_MAX_DELAY", "1h")];
        let world = World::start_with(ctx, &settings, |_| Answer::status(401)).await;
        world.unlock("first").await;
        world.worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
        for n in 0..20 {
            world.unlock(&n.to_string()).await;
        }
        // Requests that were delivered before the consumer was cancelled wait in a tier, and come
        // back.
        kit::eventually("all wait in the queue", SOON, async || {
            world.amqp.ready_count(world::REQUESTS).await == 21
        })
        .await;
        assert_eq!(world.trackfinity.count(), 1);
        world.worker.signal(kit::Signal::TERM);
        assert!(world.worker.wait_exit(SOON).await.success());
        assert_eq!(world.amqp.ready_count(world::REQUESTS).await, 21);
    });
}

/// Requests that wait for a call while calls are paused, each with one behind it that needs none.
const WAITING: usize = 40;

/// Starts a worker in front of them, whose pause has no probe, and waits until those that need no call
/// are settled and the others wait in the queue.
async fn settle_without_calls(ctx: &Context, amqp_url: &str, trackfinity: &Trackfinity) -> Process {
    let declaring = world::start_worker(ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
    declaring.signal(kit::Signal::TERM);
    declaring.wait_exit(SOON).await;
    let amqp = ctx.amqp().await;
    let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
    for (n, (properties, body)) in requests(WAITING).enumerate() {
        amqp.publish(EXCHANGE, REQUEST, properties, &body).await;
        let expired = r#"{"customer_id":1,"expires_at":"2026-01-01T00:00:00Z"}"#;
        let body = if n % 2 == 0 { "nonsense" } else { expired };
        amqp.publish(EXCHANGE, REQUEST, id(&format!("no-call-{n}")), body.as_bytes()).await;
    }
    // With few requests in flight almost all are in the queue when the pause begins.
    let settings =
        [("WORKER__CONCURRENCY", "4"), ("PAUSE__PROBE_DELAY", "1h"), ("PAUSE__PROBE_MAX_DELAY", "1h")];
    let worker = world::start_worker(ctx, amqp_url, &trackfinity.url(), &settings).await;
    let outcomes = outcomes.wait_count(WAITING, SOON).await;
    assert!(outcomes.iter().all(|outcome| outcome.json()["status"] != "unlocked"));
    assert!(trackfinity.count() <= 8, "{} calls", trackfinity.count());
    let wait = async || amqp.ready_count(world::REQUESTS).await as usize == WAITING;
    kit::eventually("the others wait in the queue", SOON, wait).await;
    worker
}

#[test]
fn requests_that_need_no_call_do_not_wait_behind_the_others_of_a_pause() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::status(401));
        let worker = settle_without_calls(&ctx, ctx.amqp_url(), &trackfinity).await;
        worker.signal(kit::Signal::TERM);
        assert!(worker.wait_exit(SOON).await.success());
        let left = ctx.amqp().await.drain(world::REQUESTS).await;
        assert!(left.iter().all(|message| !message.redelivered), "returned: that counts as a delivery");
        let ids = left.iter().map(|message| {
            let id = message.properties.message_id().as_ref().expect("an id");
            id.as_str().parse::<usize>().expect("a number")
        });
        // Those that were in flight when the pause began are behind the others.
        let in_flight = 8;
        let ids: Vec<_> = ids.filter(|id| *id >= in_flight).collect();
        assert!(ids.is_sorted() && ids.len() == WAITING - in_flight, "{ids:?}");
    });
}

#[test]
fn a_user_without_the_default_exchange_settles_them_too_and_holds_none() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::status(401));
        let management = ctx.vhost().management();
        let user = format!("worker-{}", ctx.vhost().name());
        management.create_user(&user, "p", "").await;
        let own = r"^trackfinity\.unlock(\..+)?$";
        management.set_permissions(&user, own, own, own).await;
        let url = ctx.vhost().amqp_url_as(&user, "p");
        let worker = settle_without_calls(&ctx, &url, &trackfinity).await;
        worker.signal(kit::Signal::TERM);
        assert!(worker.wait_exit(SOON).await.success());
        management.delete_user(&user).await;
        assert!(
            !worker.stderr().iter().any(|line| line.contains("publish_failed")),
            "{:#?}",
            worker.stderr()
        );
    });
}

#[test]
fn a_probe_that_finds_an_invalid_request_goes_on_to_the_next() {
    kit::run(async |ctx| {
        let settings = [("PAUSE__PROBE_DELAY", "50ms"), ("PAUSE__PROBE_MAX_DELAY", "50ms")];
        let world = World::start_with(ctx, &settings, |call| match call.n {
            1 => Answer::status(401),
            _ => Answer::unlocked(),
        })
        .await;
        world.unlock("1").await;
        world.worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
        world.publish(id("2"), "nonsense").await;
        let outcomes = world.outcomes(2).await;
        assert_eq!(outcomes["1"]["status"], "unlocked");
        assert_eq!(outcomes["2"]["status"], "invalid");
        world.worker.wait_for_line(|line| line.contains("calls are made again"), SOON).await;
    });
}

#[test]
fn a_tenth_of_failures_does_not_lower_the_throughput_of_healthy_requests() {
    const COUNT: usize = 1_500;
    const BATCH: usize = 25;
    kit::run_within(LONG * 2, async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let mut rates: [Vec<f64>; 2] = Default::default();
        // In turns, because the machine is shared.
        for round in 0..6 {
            let failing = round % 2;
            let served = std::sync::Mutex::new(std::collections::BTreeSet::new());
            world.trackfinity.answer_with(move |call| {
                let number: usize = call.field("customer_id").and_then(|n| n.parse().ok()).unwrap_or(0);
                let first = served.lock().expect("no panic").insert(number);
                let down = failing == 1 && first && number.is_multiple_of(10);
                let answer = if down { Answer::status(503) } else { Answer::unlocked() };
                answer.after(Duration::from_millis(50))
            });
            let before = world.outcomes.len();
            let started = Instant::now();
            // A steady 250 a second, like real producers.
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            for batch in 0..COUNT / BATCH {
                ticks.tick().await;
                world
                    .amqp
                    .publish_all(EXCHANGE, REQUEST, requests(COUNT).skip(batch * BATCH).take(BATCH))
                    .await;
            }
            let healthy = COUNT - COUNT / 10;
            kit::eventually("the healthy ones are finished", LONG, async || {
                let outcomes = world.outcomes.all().split_off(before);
                let tenth = |outcome: &kit::Message| {
                    let id = world::text(&outcome.json()["request_id"]);
                    id.parse::<usize>().expect("a number").is_multiple_of(10)
                };
                outcomes.iter().filter(|outcome| !tenth(outcome)).count() == healthy
            })
            .await;
            rates[failing].push(healthy as f64 / started.elapsed().as_secs_f64());
            world.outcomes.wait_count(before + COUNT, LONG).await;
        }
        let median = |rates: &mut Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let (without, with) = (median(&mut rates[0]), median(&mut rates[1]));
        eprintln!("healthy requests: {without:.0}/s without failures, {with:.0}/s with a tenth of them");
        assert!(with >= 0.9 * without, "{with:.0}/s of {without:.0}/s");
    });
}

#[test]
fn after_a_429_that_asks_for_no_wait_calls_are_rare() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::status(429).header("retry-after", "0")).await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(500)).await;
        world.worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
        let (since, before) = (Instant::now(), world.trackfinity.count().max(64));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let rate = (world.trackfinity.count().saturating_sub(before)) as f64 / since.elapsed().as_secs_f64();
        assert!(rate < 2.0, "{rate} calls a second");
    });
}

#[test]
fn a_pause_does_not_raise_the_number_of_calls_in_flight() {
    kit::run(async |ctx| {
        let settings = [
            ("WORKER__CONCURRENCY", "8"),
            ("PAUSE__PROBE_DELAY", "20ms"),
            ("PAUSE__PROBE_MAX_DELAY", "20ms"),
        ];
        let world = World::start_with(ctx, &settings, |call| match call.n % 12 {
            9 => Answer::status(429).header("retry-after", "0"),
            0 | 10 | 11 => Answer::unlocked(),
            _ => Answer::unlocked().after(Duration::from_millis(1_500)),
        })
        .await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(60)).await;
        world.outcomes.wait_count(60, SOON).await;
        let most = world.trackfinity.max_in_flight();
        assert!(most <= 8 + 1, "{most} calls in flight: eight, and a probe");
    });
}

#[test]
fn a_single_request_does_not_probe_for_ever() {
    kit::run(async |ctx| {
        let settings = [
            ("PAUSE__AFTER_FAILURES", "1"),
            ("PAUSE__PROBE_DELAY", "50ms"),
            ("PAUSE__PROBE_MAX_DELAY", "50ms"),
            ("RETRY__MAX_DELAY", "1s"),
            ("RETRY__GIVE_UP_AFTER", "4s"),
        ];
        let world = World::start_with(ctx, &settings, |_| Answer::status(503)).await;
        world.unlock("1").await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["attempts"]), (&json!("abandoned"), &json!(1)));
    });
}

#[test]
fn a_probe_whose_dead_letter_cannot_be_published_delays_no_other_request() {
    kit::run(async |ctx| {
        let settings = [("PAUSE__PROBE_DELAY", "50ms"), ("BROKER__DECLARE", "false")];
        let declaring = world::start_worker(&ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
        declaring.signal(kit::Signal::TERM);
        declaring.wait_exit(SOON).await;
        ctx.vhost().management().delete_binding(DEAD, DEAD, "").await;
        let world = World::start_with(ctx, &settings, |call| match call.n {
            1 => Answer::status(401),
            2 => Answer::status(400),
            _ => Answer::unlocked(),
        })
        .await;
        world.unlock("probe").await;
        world.worker.wait_for_line(|line| line.contains("calls are made again"), SOON).await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(20)).await;
        world.outcomes.wait_count(20, SOON).await;
    });
}

#[test]
fn the_rate_limit_spaces_out_calls() {
    kit::run(async |ctx| {
        let world = World::start_with(ctx, &[("WORKER__RATE_LIMIT", "20")], |_| Answer::unlocked()).await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(60)).await;
        world.outcomes.wait_count(60, SOON).await;
        let calls = world.trackfinity.calls();
        let at: Vec<_> = calls.iter().map(|call| call.at).collect();
        for window in at.windows(21) {
            let span = window[20] - window[0];
            assert!(span >= Duration::from_millis(900), "21 calls in {span:?}");
        }
        assert!(at[59] - at[0] < Duration::from_secs(6), "the limit does not slow down calls below it");
    });
}

#[test]
fn certificates_are_checked() {
    kit::run(async |ctx| {
        let (issued, expired, unknown) =
            (kit::Certificate::issued(), kit::Certificate::expired(), kit::Certificate::self_signed());
        let amqp = ctx.amqp().await;
        let mut outcomes = None;
        let rows = [
            ("issued by a known authority", &issued, &issued, "unlocked"),
            ("expired", &expired, &expired, "abandoned"),
            ("signed by itself", &unknown, &issued, "abandoned"),
        ];
        let secrets = Secrets::new();
        for (row, certificate, trusted, status) in rows {
            let trackfinity = Trackfinity::start_tls(certificate, |_| Answer::unlocked());
            let authority = secrets.write(row, trusted.authority_pem());
            let program = unlocker(ctx.amqp_url(), &trackfinity.url())
                .arg("run")
                .env("SSL_CERT_FILE", authority)
                .env("UNLOCKER__RETRY__MAX_ATTEMPTS", "1");
            let worker = ctx.start(&program);
            worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
            if outcomes.is_none() {
                outcomes = Some(amqp.consume_into(RESULTS, "unlock.#").await);
            }
            amqp.publish(EXCHANGE, REQUEST, id("1"), br#"{"customer_id":1}"#).await;
            let outcome = outcomes.as_ref().expect("an inbox").next(SOON).await.json();
            assert_eq!(outcome["status"], status, "{row}: {outcome}");
            if status == "abandoned" {
                assert_eq!(outcome["reason"], json!("connection"), "{row}: {outcome}");
                assert_eq!(trackfinity.count(), 0, "{row}: nothing was sent");
            }
            worker.signal(kit::Signal::TERM);
            assert!(worker.wait_exit(SOON).await.success());
        }
    });
}
