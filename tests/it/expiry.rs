//! Requests that expire: before their first attempt, between two attempts, during a pause; and what a
//! replay makes of them.

use std::time::Duration;

use kit::{AMQPValue, Answer, FieldTable, Program, Properties};
use serde_json::{Value, json};
use trackfinity_unlocker::message::Timestamp;

use crate::world::{DEAD, SOON, World, header, id, text};

const EXPIRED: (&str, &str) = ("abandoned", "expired");

fn in_time(seconds: u64) -> String {
    Timestamp::now().plus(Duration::from_secs(seconds)).to_string()
}

fn ending(outcome: &Value) -> (&str, &str) {
    let text = |field: &str| outcome[field].as_str().unwrap_or_default();
    (text("status"), text("reason"))
}

fn event_header(name: &str, value: AMQPValue) -> Properties {
    let mut headers = FieldTable::default();
    headers.insert(name.into(), value);
    id("row").with_headers(headers)
}

#[test]
fn a_request_whose_time_has_passed_is_never_called_for() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let past = "2026-01-01T00:00:00Z";
        let plain = r#"{"customer_id":"191"}"#.to_owned();
        let rows = [
            ("JSON", id("row"), format!(r#"{{"customer_id":"191","expires_at":"{past}"}}"#)),
            (
                "a form",
                id("row").with_content_type("application/x-www-form-urlencoded".into()),
                format!("customer_id=191&expires_at={past}"),
            ),
            (
                "a CloudEvent",
                id("row").with_content_type("application/cloudevents+json".into()),
                format!(r#"{{"expirytime":"{past}","data":{plain}}}"#),
            ),
            (
                "a binary CloudEvent",
                event_header("ce-expirytime", AMQPValue::LongString(past.into())),
                plain.clone(),
            ),
            (
                "a binary CloudEvent's AMQP time",
                event_header("cloudEvents:expirytime", AMQPValue::Timestamp(1_767_225_600)),
                plain,
            ),
        ];
        for (row, properties, body) in rows {
            world.publish(properties, &body).await;
            let outcome = world.outcome().await;
            assert_eq!(ending(&outcome), EXPIRED, "{row}: {outcome}");
            assert_eq!((&outcome["attempts"], &outcome["http_status"]), (&json!(0), &json!(null)), "{row}");
            assert_eq!(outcome["request"], json!({"customer_id": "191"}), "{row}");
            let dead_letter = world.dead_letters().await.remove(0);
            assert_eq!(header(&dead_letter, "unlocker-reason").as_deref(), Some("expired"), "{row}");
            assert_eq!(dead_letter.body, body.as_bytes(), "{row}");
        }
        assert_eq!(world.trackfinity.count(), 0);
        let body = format!(r#"{{"customer_id":1,"expires_at":"{}"}}"#, in_time(60));
        world.publish(id("in time").with_expiration("60000".into()), body).await;
        assert_eq!(world.outcome().await["status"], "unlocked");
        world.stop().await;
    });
}

#[test]
fn a_request_that_fails_expires_near_its_time_and_is_not_called_for_after_it() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::status(503).body("busy")).await;
        // Six different requests in a row: too few for a pause.
        let expires_at = |seconds| format!(r#"{{"customer_id":1,"expires_at":"{}"}}"#, in_time(seconds));
        world.publish(id("expires_at"), expires_at(4)).await;
        world.publish(id("expiration").with_expiration("4000".into()), r#"{"customer_id":2}"#).await;
        let both = id("the earlier of both").with_expiration("3600000".into());
        world.publish(both, expires_at(4)).await;
        for (request_id, outcome) in world.outcomes(3).await {
            assert_eq!(ending(&outcome), EXPIRED, "{request_id}: {outcome}");
            assert!(outcome["attempts"].as_u64().is_some_and(|attempts| attempts >= 2), "{outcome}");
            let at = |field: &str| text(&outcome[field]).parse::<Timestamp>().expect("a time");
            let took = at("finished_at").since(at("first_received_at"));
            assert!((2..=10).contains(&took.as_secs()), "{request_id}: after {took:?}");
        }
        let dead_letters = world.dead_letters().await;
        let of = |id: &str| {
            let mut found = dead_letters.iter().filter(|message| {
                message.properties.message_id().as_ref().is_some_and(|found| found.as_str() == id)
            });
            found.next().expect("its dead letter")
        };
        assert_eq!(header(of("expiration"), "unlocker-original-expiration").as_deref(), Some("4000"));
        let first = world.trackfinity.calls().first().expect("a call").at;
        let last = world.trackfinity.calls().last().expect("a call").at;
        // Later by no more than one attempt takes from its check to its arrival.
        assert!(last - first < Duration::from_secs(6), "called {:?} after the first call", last - first);
        world.stop().await;
    });
}

#[test]
fn a_request_whose_retry_would_come_too_late_ends_at_once_and_says_why() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::status(503).header("retry-after", "60").body("busy")).await;
        world.publish(id("m-1").with_expiration("30000".into()), r#"{"customer_id":1}"#).await;
        let outcome = world.outcome().await;
        assert_eq!(ending(&outcome), EXPIRED, "{outcome}");
        assert_eq!((&outcome["attempts"], &outcome["http_status"]), (&json!(1), &json!(503)));
        let detail = text(&outcome["detail"]);
        assert!(detail.contains("Trackfinity answered 503: busy"), "{detail}");
        assert_eq!(world.trackfinity.count(), 1);
        world.stop().await;
    });
}

#[test]
fn a_request_that_expires_during_a_pause_ends_without_a_call() {
    kit::run(async |ctx| {
        let settings = [("PAUSE__PROBE_DELAY", "3s"), ("PAUSE__PROBE_MAX_DELAY", "3s")];
        let world = World::start_with(ctx, &settings, |_| Answer::status(401)).await;
        world.unlock("opens-the-pause").await;
        world.worker.wait_for_line(|line| line.contains("calls are paused"), SOON).await;
        let body = format!(r#"{{"customer_id":"late","expires_at":"{}"}}"#, in_time(1));
        world.publish(id("late"), body).await;
        let outcome = world.outcome().await;
        assert_eq!(ending(&outcome), EXPIRED, "{outcome}");
        assert_eq!((&outcome["request_id"], &outcome["attempts"]), (&json!("late"), &json!(0)));
        let calls = world.trackfinity.calls();
        let is_late = |field: Option<String>| field.as_deref() == Some("late");
        assert!(!calls.iter().any(|call| is_late(call.field("customer_id"))), "it was called for");
    });
}

#[test]
fn a_replayed_request_does_not_expire() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let body = r#"{"customer_id":1,"expires_at":"2026-01-01T00:00:00Z"}"#;
        world.publish(id("m-1").with_expiration("60000".into()).with_priority(7), body).await;
        assert_eq!(ending(&world.outcome().await), EXPIRED);
        let run = async |args: &[&str]| {
            let program = Program::new(env!("CARGO_BIN_EXE_unlocker"))
                .env("UNLOCKER__BROKER__URL", world.ctx.amqp_url())
                .args(["dead-letters", "replay", "--actor", "tester", "--json"])
                .args(args);
            let process = world.ctx.start(&program);
            process.wait_exit(SOON).await;
            process.stdout().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
        };
        let plan: Vec<Value> = run(&[]).await;
        let _: Vec<Value> = run(&["--confirm", &text(&plan[0]["digest"])]).await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["replays"]), (&json!("unlocked"), &json!(1)));
        assert_eq!(world.amqp.ready_count(DEAD).await, 0);
        world.stop().await;
    });
}
