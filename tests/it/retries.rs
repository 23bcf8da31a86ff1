//! Retries through the retry queues, and what a dead letter carries.

use std::time::Duration;

use kit::{AMQPValue, Answer, Call, FieldTable, Properties};
use serde_json::json;

use crate::world::{DEAD, SOON, World, header, id};

fn customer(call: &Call) -> String {
    call.field("customer_id").unwrap_or_default()
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

#[test]
fn a_request_is_unlocked_at_the_third_attempt_after_two_503s() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |call| match call.n {
            1 | 2 => Answer::status(503),
            _ => Answer::unlocked(),
        })
        .await;
        world.unlock("1").await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["attempts"]), (&json!("unlocked"), &json!(3)));
        let calls = world.trackfinity.calls();
        for pair in calls.windows(2) {
            let waited = pair[1].at - pair[0].at;
            assert!(waited >= Duration::from_millis(990), "retried after only {waited:?}");
        }
        assert!(world.dead_letters().await.is_empty());
        world.stop().await;
    });
}

#[test]
fn after_the_last_attempt_there_is_one_dead_letter_and_one_outcome() {
    kit::run(async |ctx| {
        let settings = [("RETRY__MAX_ATTEMPTS", "2"), ("RETRY__MAX_DELAY", "1s")];
        let world = World::start_with(ctx, &settings, |_| Answer::json(503, r#"{"error":"down"}"#)).await;
        let headers = table([
            ("theirs", long("kept")),
            ("traceparent", long("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
        ]);
        let properties = id("m-1")
            .with_headers(headers)
            .with_correlation_id("c-1".into())
            .with_content_type("application/json".into())
            .with_priority(3)
            .with_app_id("shop".into());
        let body = r#" {"customer_id": 191, "note": "kept"} "#;
        world.publish(properties.clone(), body).await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["attempts"]), (&json!("abandoned"), &json!(2)));
        let dead_letters = world.dead_letters().await;
        assert_eq!(dead_letters.len(), 1);
        let dead_letter = &dead_letters[0];
        assert_eq!(dead_letter.body, body.as_bytes());
        assert_eq!(dead_letter.properties.message_id(), properties.message_id());
        assert_eq!(dead_letter.properties.correlation_id(), properties.correlation_id());
        assert_eq!(dead_letter.properties.content_type(), properties.content_type());
        assert_eq!(dead_letter.properties.priority(), &None, "dead letters are ordered by age");
        assert_eq!(header(dead_letter, "unlocker-original-priority").as_deref(), Some("3"));
        assert_eq!(dead_letter.properties.app_id(), properties.app_id());
        assert_eq!(dead_letter.properties.delivery_mode(), &Some(2));
        for (name, value) in [
            ("theirs", "kept"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("unlocker-status", "abandoned"),
            ("unlocker-reason", "http_503"),
            ("unlocker-http-status", "503"),
            ("unlocker-response", r#"{"error":"down"}"#),
            ("unlocker-attempts", "2"),
            ("unlocker-replays", "0"),
            ("unlocker-request-id", "m-1"),
        ] {
            assert_eq!(header(dead_letter, name).as_deref(), Some(value), "{name}");
        }
        for name in ["unlocker-detail", "unlocker-first-received-at", "unlocker-dead-at"] {
            assert!(header(dead_letter, name).is_some(), "{name}");
        }
        assert_eq!(
            header(dead_letter, "unlocker-first-received-at").as_deref(),
            outcome["first_received_at"].as_str()
        );
        assert!(dead_letter.header("x-death").is_none());
        world.stop().await;
    });
}

#[test]
fn a_copy_in_a_retry_queue_keeps_body_and_properties_and_carries_its_history() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::status(503).header("retry-after", "900")).await;
        world
            .publish(
                id("m-1").with_priority(7).with_headers(table([("theirs", long("kept"))])),
                r#"{"customer_id":1}"#,
            )
            .await;
        let tier = "trackfinity.unlock.retry.1024s";
        kit::eventually("the copy is in the retry queue", SOON, async || {
            world.amqp.ready_count(tier).await == 1
        })
        .await;
        let retry = world.amqp.drain(tier).await.remove(0);
        assert_eq!(retry.body, br#"{"customer_id":1}"#);
        assert_eq!(retry.properties.delivery_mode(), &Some(2));
        assert_eq!(retry.properties.priority(), &Some(7));
        for (name, value) in [
            ("theirs", "kept"),
            ("unlocker-attempts", "1"),
            ("unlocker-replays", "0"),
            ("unlocker-request-id", "m-1"),
            ("unlocker-reason", "http_503"),
        ] {
            assert_eq!(header(&retry, name).as_deref(), Some(value), "{name}");
        }
        assert!(header(&retry, "unlocker-first-received-at").is_some());
        assert_eq!(header(&retry, "traceparent"), None, "the request had none, and the worker adds none");
    });
}

#[test]
fn a_request_older_than_give_up_after_is_abandoned() {
    kit::run(async |ctx| {
        let settings = [("RETRY__GIVE_UP_AFTER", "1s")];
        let world = World::start_with(ctx, &settings, |_| Answer::status(503)).await;
        world.unlock("1").await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["reason"]), (&json!("abandoned"), &json!("http_503")));
        let attempts = outcome["attempts"].as_u64().expect("a number");
        assert!((2..=3).contains(&attempts), "{attempts} attempts in little more than a second");
    });
}

#[test]
fn properties_that_rabbitmq_would_act_on_are_not_copied() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |call| match customer(call).as_str() {
            "dead" => Answer::status(400),
            _ if call.n == 1 => Answer::status(503),
            _ => Answer::unlocked(),
        })
        .await;
        let cc = AMQPValue::FieldArray(vec![long("request"), long("elsewhere")].into());
        // Published to the queue directly, so that the CC copies are not routed elsewhere now.
        let properties = |name: &str| {
            id(name)
                .with_expiration("60000".into())
                .with_user_id("guest".into())
                .with_headers(table([("CC", cc.clone())]))
        };
        world
            .amqp
            .publish("", crate::world::REQUESTS, properties("retry"), br#"{"customer_id":"retry"}"#)
            .await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["attempts"]), (&json!("unlocked"), &json!(2)));
        assert_eq!(world.trackfinity.count(), 2, "the copy came back once");

        world
            .amqp
            .publish("", crate::world::REQUESTS, properties("dead"), br#"{"customer_id":"dead"}"#)
            .await;
        assert_eq!(world.outcome().await["status"], "refused");
        let dead_letter = world.amqp.drain(DEAD).await.remove(0);
        assert_eq!(dead_letter.properties.expiration(), &None, "a dead letter must not expire");
        assert_eq!(dead_letter.properties.user_id(), &None);
        assert_eq!(dead_letter.header("CC"), None);
        assert_eq!(header(&dead_letter, "unlocker-original-expiration").as_deref(), Some("60000"));
        assert_eq!(header(&dead_letter, "unlocker-original-user-id").as_deref(), Some("guest"));
        world.stop().await;
    });
}

#[test]
fn forged_history_does_no_harm() {
    kit::run(async |ctx| {
        let world =
            World::start(ctx, |call| if call.n == 1 { Answer::status(503) } else { Answer::unlocked() })
                .await;
        let forged = table([
            ("unlocker-attempts", long("eleven")),
            ("unlocker-replays", AMQPValue::LongLongInt(-5)),
            ("unlocker-first-received-at", long("yesterday")),
            ("unlocker-request-id", AMQPValue::Boolean(true)),
            ("traceparent", AMQPValue::LongLongInt(1)),
            ("tracestate", AMQPValue::FieldArray(Default::default())),
            ("x-death", long("no list")),
        ]);
        world.publish(Properties::default().with_headers(forged), r#"{"customer_id":1}"#).await;
        let outcome = world.outcome().await;
        assert_eq!(
            (&outcome["status"], &outcome["attempts"], &outcome["replays"]),
            (&json!("unlocked"), &json!(2), &json!(0))
        );
        world.stop().await;
    });
}
