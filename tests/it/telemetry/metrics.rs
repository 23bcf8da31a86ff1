//! The metrics at `/metrics` and by OTLP.

use std::time::{Duration, Instant};

use kit::{Answer, Otlp};
use trackfinity_unlocker::message::Timestamp;

use super::*;
use crate::world::{DEAD, EXCHANGE, REQUEST, id, requests};

/// A metric's name, labels of the series that is meant, and its expected value.
type Figure<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// The value of the one series that has these labels, whatever others it has.
pub fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut found = text.lines().filter(|line| {
        let series = line.rsplit_once(' ').map_or("", |(series, _)| series);
        series.split('{').next() == Some(name)
            && labels.iter().all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")))
    });
    let line = found.next()?;
    assert!(found.next().is_none(), "{name} {labels:?} is ambiguous in\n{text}");
    line.rsplit_once(' ').and_then(|(_, value)| value.parse().ok())
}

pub async fn scrape(base: &str) -> String {
    let (status, text) = get(&format!("{base}/metrics")).await;
    assert_eq!(status, 200);
    text
}

#[test]
fn a_scrape_shows_the_results_of_the_requests_and_what_waits() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let world = world(ctx, &[listen], |call| match call.field("orderid").as_deref() {
            Some(order) if order.starts_with("bad") => Answer::json(400, r#"{"error":"bad-answer-77"}"#),
            Some(order) if order.starts_with("slow") => Answer::status(503).header("retry-after", "900"),
            _ => Answer::unlocked(),
        })
        .await;
        let publish = async |kind: &str, n: usize| {
            let body = format!(r#"{{"customer_id":"customer-{kind}-{n}","orderid":"{kind}-order-{n}"}}"#);
            let properties = id(&format!("message-{kind}-{n}"))
                .with_correlation_id(format!("correlation-{kind}-{n}").into())
                .with_reply_to(format!("reply-{kind}-{n}").into())
                .with_headers(traced());
            world.publish(properties, body).await;
        };
        for n in 0..3 {
            publish("good", n).await;
        }
        for n in 0..2 {
            publish("bad", n).await;
        }
        publish("slow", 0).await;
        world.publish(id("message-invalid"), "no JSON").await;
        world.outcomes.wait_count(6, SOON).await;
        let tier = "trackfinity.unlock.retry.1024s";
        kit::eventually("a retry waits", SOON, async || world.amqp.ready_count(tier).await == 1).await;

        let rows: &[Figure] = &[
            ("unlocker_requests_total", &[("status", "unlocked"), ("reason", "")], 3.0),
            ("unlocker_requests_total", &[("status", "refused"), ("reason", "http_400")], 2.0),
            ("unlocker_requests_total", &[("status", "invalid"), ("reason", "malformed")], 1.0),
            ("unlocker_attempts_total", &[("result", "unlocked")], 3.0),
            ("unlocker_retries_scheduled_total", &[("tier", "1024s")], 1.0),
            ("unlocker_dead_lettered_total", &[("status", "refused")], 2.0),
            ("unlocker_dead_lettered_total", &[("status", "invalid")], 1.0),
            ("unlocker_in_flight", &[], 0.0),
            ("unlocker_concurrency_limit", &[], 64.0),
            ("unlocker_paused", &[("cause", "endpoint_fault")], 0.0),
            ("unlocker_paused", &[("cause", "failures")], 0.0),
            ("unlocker_paused", &[("cause", "rate_limited")], 0.0),
            ("unlocker_broker_connected", &[], 1.0),
            ("unlocker_queue_messages", &[("queue", "requests")], 0.0),
            ("unlocker_queue_messages", &[("queue", "dead")], 3.0),
            ("unlocker_queue_messages", &[("queue", "retry")], 1.0),
            ("messaging_process_duration_seconds_count", &[("error_type", "http_400")], 2.0),
            ("messaging_process_duration_seconds_count", &[("error_type", "http_503")], 1.0),
            ("http_client_request_duration_seconds_count", &[("http_response_status_code", "200")], 3.0),
            ("http_client_request_duration_seconds_count", &[("http_response_status_code", "400")], 2.0),
            ("http_client_request_duration_seconds_count", &[("http_response_status_code", "503")], 1.0),
            (
                "http_client_request_duration_seconds_bucket",
                &[("le", "0.005"), ("error_type", "503")],
                f64::NAN,
            ),
            ("http_client_request_duration_seconds_bucket", &[("le", "10"), ("error_type", "503")], 1.0),
            ("unlocker_request_duration_seconds_count", &[("status", "unlocked")], 3.0),
        ];
        let text = kit::eventually("the figures", SOON, async || {
            let text = scrape(&base).await;
            for (name, labels, expected) in rows {
                match sample(&text, name, labels) {
                    Some(_) if expected.is_nan() => {}
                    Some(value) if value == *expected => {}
                    other => {
                        return Err(format!("{name} {labels:?} is {other:?}, not {expected}, in\n{text}"));
                    }
                }
            }
            Ok(text)
        })
        .await;
        for private in
            ["good", "bad-", "slow", "message-", "customer-", "correlation", "order-", "reply", "answer-"]
        {
            let line = text.lines().find(|line| !line.starts_with('#') && line.contains(private));
            assert_eq!(line, None, "{private} is no label");
        }
        assert!(!text.contains(TRACE_ID));
        let helped = |name: &str| text.lines().any(|line| line.starts_with(&format!("# HELP {name} ")));
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap_or_default();
            assert!(helped(name), "{name} is not described");
        }
        world.stop().await;
        assert_eq!(world.amqp.ready_count(DEAD).await, 3, "counting consumed none of them");
    });
}

#[test]
fn the_wait_in_the_queue_is_measured_at_the_first_receipt_alone() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let world = world(ctx, &[listen], two_503s).await;
        let now = Timestamp::now().as_secs();
        world.publish(id("waited").with_timestamp(now - 100), r#"{"customer_id":1}"#).await;
        assert_eq!(world.outcome().await["attempts"], 3);
        world.publish(id("milliseconds").with_timestamp(now * 1000), r#"{"customer_id":1}"#).await;
        world.publish(id("no timestamp"), r#"{"customer_id":1}"#).await;
        world.outcomes.wait_count(2, SOON).await;
        let text = scrape(&base).await;
        assert_eq!(sample(&text, "unlocker_queue_wait_seconds_count", &[]), Some(1.0));
        let sum = sample(&text, "unlocker_queue_wait_seconds_sum", &[]).expect("a sum");
        assert!((100.0..130.0).contains(&sum), "{sum} s");
        world.stop().await;
    });
}

#[test]
fn a_scrape_shows_a_pause_the_backlog_and_unroutable_outcomes() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let env = [listen, ("UNLOCKER__PAUSE__PROBE_DELAY", "300ms".to_owned())];
        let world = world(ctx, &env, |_| Answer::status(401)).await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(200)).await;
        kit::eventually("a pause and a backlog", SOON, async || {
            let text = scrape(&base).await;
            let paused = |cause| sample(&text, "unlocker_paused", &[("cause", cause)]);
            let waiting =
                |queue| sample(&text, "unlocker_queue_messages", &[("queue", queue)]).unwrap_or(0.0);
            let all = waiting("requests") + waiting("retry");
            let matches = paused("endpoint_fault") == Some(1.0) && paused("failures") == Some(0.0);
            if matches && (195.0..=200.0).contains(&all) { Ok(()) } else { Err(text) }
        })
        .await;
        let crate::world::World { ctx: _ctx, trackfinity, amqp, outcomes, worker: _worker } = world;
        drop(outcomes);
        trackfinity.answer_with(|_| Answer::unlocked());
        kit::eventually("all outcomes are counted", SOON, async || {
            let text = scrape(&base).await;
            let figure = |name, labels: &[_]| sample(&text, name, labels);
            let matches = figure("unlocker_requests_total", &[("status", "unlocked")]) == Some(200.0)
                && figure("unlocker_publish_unroutable_total", &[("kind", "outcome")]) == Some(200.0)
                && figure("unlocker_paused", &[("cause", "endpoint_fault")]) == Some(0.0)
                && figure("unlocker_in_flight", &[]) == Some(0.0);
            if matches { Ok(()) } else { Err(text) }
        })
        .await;
        drop(amqp);
    });
}

#[test]
fn a_scrape_shows_how_many_are_in_flight_and_a_lost_session() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let (cutter, url) = ctx.cutter().await;
        let env = [listen, ("UNLOCKER__BROKER__URL", url)];
        let world = world(ctx, &env, |_| Answer::unlocked().after(Duration::from_secs(2))).await;
        for n in 0..5 {
            world.unlock(&n.to_string()).await;
        }
        kit::eventually("five are in flight", SOON, async || {
            sample(&scrape(&base).await, "unlocker_in_flight", &[]) == Some(5.0)
        })
        .await;
        cutter.cut().await;
        kit::eventually("the loss is counted", SOON, async || {
            let text = scrape(&base).await;
            let matches = sample(&text, "unlocker_broker_connected", &[]) == Some(0.0)
                && sample(&text, "unlocker_in_flight", &[]) == Some(0.0)
                && sample(&text, "unlocker_broker_reconnects_total", &[]).is_some_and(|count| count >= 1.0)
                && sample(&text, "unlocker_queue_messages", &[("queue", "requests")]).is_none();
            if matches { Ok(()) } else { Err(text) }
        })
        .await;
        cutter.restore().await;
        world.outcomes.wait_count(5, SOON).await;
        kit::eventually("all is well", SOON, async || {
            let text = scrape(&base).await;
            let matches = sample(&text, "unlocker_broker_connected", &[]) == Some(1.0)
                && sample(&text, "unlocker_in_flight", &[]) == Some(0.0)
                && sample(&text, "unlocker_queue_messages", &[("queue", "requests")]) == Some(0.0);
            if matches { Ok(()) } else { Err(text) }
        })
        .await;
    });
}

/// The value of the first series of a metric that has these labels.
fn sent(otlp: &Otlp, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let points = otlp.metric(name).unwrap_or_default();
    let has = |point: &&kit::OtlpPoint| {
        labels.iter().all(|(label, value)| point.labels.get(*label) == Some(&(*value).into()))
    };
    points.iter().find(has).map(|point| point.value)
}

#[test]
fn counts_and_durations_arrive_by_otlp() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), |call| match call.n {
            1 => Answer::status(503),
            2 => Answer::status(400),
            _ => Answer::unlocked(),
        })
        .await;
        world.unlock("1").await;
        world.unlock("2").await;
        world.outcomes(2).await;
        let rows: &[Figure] = &[
            ("unlocker.requests", &[("status", "unlocked")], 1.0),
            ("unlocker.requests", &[("status", "refused"), ("reason", "http_400")], 1.0),
            ("unlocker.attempts", &[("result", "unlocked")], 1.0),
            ("unlocker.retries_scheduled", &[], 1.0),
            ("unlocker.dead_lettered", &[("status", "refused")], 1.0),
            ("unlocker.in_flight", &[], 0.0),
            ("unlocker.request.duration", &[("status", "unlocked")], 1.0),
            ("messaging.process.duration", &[("error.type", "http_503")], 1.0),
            ("http.client.request.duration", &[("error.type", "503")], 1.0),
        ];
        for (name, labels, expected) in rows {
            kit::eventually(name, SOON, async || match sent(&otlp, name, labels) {
                Some(value) if value == *expected => Ok(()),
                other => Err(format!("{labels:?} is {other:?}, not {expected}")),
            })
            .await;
        }
        world.stop().await;
    });
}

#[test]
fn the_state_of_the_worker_arrives_by_otlp_though_nobody_scrapes() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let world = world(ctx, &to(&otlp), |_| Answer::status(400)).await;
        world.unlock("1").await;
        assert_eq!(world.outcome().await["status"], "refused");
        let rows: &[Figure] = &[
            ("unlocker.broker.connected", &[], 1.0),
            ("unlocker.concurrency_limit", &[], 64.0),
            ("unlocker.paused", &[("cause", "endpoint_fault")], 0.0),
            ("unlocker.queue.messages", &[("queue", "requests")], 0.0),
            ("unlocker.queue.messages", &[("queue", "dead")], 1.0),
        ];
        for (name, labels, expected) in rows {
            kit::eventually(name, Duration::from_secs(10), async || match sent(&otlp, name, labels) {
                Some(value) if value == *expected => Ok(()),
                other => Err(format!("{labels:?} is {other:?}, not {expected}")),
            })
            .await;
        }
        world.trackfinity.answer_with(|_| Answer::status(401));
        // While others were served, one request does not pause calls.
        world.unlock("2").await;
        world.unlock("3").await;
        kit::eventually("the pause", Duration::from_secs(10), async || {
            sent(&otlp, "unlocker.paused", &[("cause", "endpoint_fault")]) == Some(1.0)
        })
        .await;
    });
}

#[test]
fn a_scrape_is_answered_though_the_broker_says_nothing() {
    kit::run(async |ctx| {
        let (listen, base) = ops();
        let (cutter, url) = ctx.cutter().await;
        let world = world(ctx, &[listen, ("UNLOCKER__BROKER__URL", url)], |_| Answer::unlocked()).await;
        scrape(&base).await;
        cutter.half_open();
        for _time in 0..3 {
            let asked = Instant::now();
            let text = scrape(&base).await;
            assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
            assert_eq!(sample(&text, "unlocker_broker_connected", &[]), Some(1.0), "nobody knows better yet");
        }
        assert_eq!(get(&format!("{base}/livez")).await.0, 200);
        drop(world);
    });
}
