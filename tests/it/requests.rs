//! The contract's section 4: what is read as a request, and what is a fault.

use kit::{Answer, Properties};
use serde_json::json;

use crate::world::{SOON, World, header, id, text};

fn content_type(message_id: &str, content_type: &str) -> Properties {
    id(message_id).with_content_type(content_type.into())
}

const FORM: &str = "application/x-www-form-urlencoded";
const EVENT: &str = "application/cloudevents+json";

#[test]
fn every_form_of_a_request_is_read_and_all_identifiers_are_sent() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let event = r#"{"specversion":"1.0","id":"event","source":"/shop","type":"unlock","data":{"customer_id":"e"}}"#;
        let long = "x".repeat(255);
        let rows = [
            ("customer_id alone", id("row"), r#"{"customer_id":"c"}"#.to_owned(), "customer_id=c"),
            (
                "subscription_id alone",
                id("row"),
                r#"{"subscription_id":"s"}"#.to_owned(),
                "subscription_id=s",
            ),
            ("orderid alone", id("row"), r#"{"orderid":"o"}"#.to_owned(), "orderid=o"),
            (
                "all identifiers",
                id("row"),
                r#"{"orderid":"o","customer_id":"c","subscription_id":"s","more":[1]}"#.to_owned(),
                "customer_id=c&subscription_id=s&orderid=o",
            ),
            (
                "an integer",
                id("row"),
                r#"{"customer_id":12345678901234567890123}"#.to_owned(),
                "customer_id=12345678901234567890123",
            ),
            (
                "blank and null count as absent",
                id("row"),
                r#"{"customer_id":" ","subscription_id":null,"orderid":7}"#.to_owned(),
                "orderid=7",
            ),
            (
                "content type application/json with a parameter",
                content_type("row", "application/json; charset=utf-8"),
                r#"{"customer_id":"ü&="}"#.to_owned(),
                "customer_id=%C3%BC%26%3D",
            ),
            (
                "a form",
                content_type("row", FORM),
                "customer_id=191&orderid=a+b".to_owned(),
                "customer_id=191&orderid=a+b",
            ),
            ("a CloudEvent", content_type("row", EVENT), event.to_owned(), "customer_id=e"),
            (
                "255 bytes",
                id("row"),
                format!(r#"{{"customer_id":"{long}"}}"#),
                &format!("customer_id={long}"),
            ),
        ];
        for (row, properties, body, sent) in rows {
            world.publish(properties, body).await;
            let outcome = world.outcome().await;
            assert_eq!(outcome["status"], "unlocked", "{row}: {outcome}");
            let call = world.trackfinity.calls().pop().expect("a call");
            assert_eq!(String::from_utf8_lossy(&call.body), sent, "{row}");
        }
        world.stop().await;
    });
}

#[test]
fn every_fault_has_its_code_and_trackfinity_is_not_called() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let too_large = format!(r#"{{"customer_id":1,"x":"{}"}}"#, "y".repeat(64 * 1024));
        let too_long = format!(r#"{{"customer_id":"{}"}}"#, "x".repeat(256));
        let rows: [(&str, Properties, &str, &str); 15] = [
            ("malformed: not JSON", id("row"), "nonsense", "malformed"),
            ("malformed: empty", id("row"), "", "malformed"),
            ("malformed: not an object", id("row"), "[1]", "malformed"),
            ("malformed: a field twice", id("row"), r#"{"orderid":1,"orderid":1}"#, "malformed"),
            (
                "malformed: a form's field twice",
                content_type("row", FORM),
                "orderid=1&orderid=1",
                "malformed",
            ),
            (
                "malformed: a CloudEvent without data",
                content_type("row", EVENT),
                r#"{"id":"e"}"#,
                "malformed",
            ),
            ("no_identifier: none", id("row"), "{}", "no_identifier"),
            ("no_identifier: blank", id("row"), r#"{"customer_id":"  "}"#, "no_identifier"),
            ("no_identifier: null", id("row"), r#"{"customer_id":null}"#, "no_identifier"),
            ("bad_identifier: a boolean", id("row"), r#"{"customer_id":true}"#, "bad_identifier"),
            ("bad_identifier: a fraction", id("row"), r#"{"customer_id":1.5}"#, "bad_identifier"),
            ("bad_identifier: a control character", id("row"), r#"{"orderid":"a\u0000b"}"#, "bad_identifier"),
            ("bad_identifier: 256 bytes", id("row"), &too_long, "bad_identifier"),
            ("too_large", id("row"), &too_large, "too_large"),
            ("unsupported_content_type", content_type("row", "text/plain"), "{}", "unsupported_content_type"),
        ];
        for (row, properties, body, reason) in rows {
            world.publish(properties, body).await;
            let outcome = world.outcome().await;
            assert_eq!(outcome["status"], "invalid", "{row}: {outcome}");
            assert_eq!(outcome["reason"], reason, "{row}: {outcome}");
            assert_eq!(outcome["attempts"], 0, "{row}");
            assert_eq!(outcome["request"], json!(null), "{row}");
            assert!(!text(&outcome["detail"]).is_empty(), "{row}");
            let dead_letters = world.dead_letters().await;
            assert_eq!(dead_letters.len(), 1, "{row}");
            assert_eq!(dead_letters[0].body, body.as_bytes(), "{row}: the dead letter keeps the body");
            assert_eq!(header(&dead_letters[0], "unlocker-status").as_deref(), Some("invalid"), "{row}");
            assert_eq!(header(&dead_letters[0], "unlocker-reason").as_deref(), Some(reason), "{row}");
        }
        assert_eq!(world.trackfinity.count(), 0);
        world.stop().await;
    });
}

#[test]
fn the_readable_identifiers_of_a_bad_request_are_in_its_outcome() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.publish(id("row"), r#"{"customer_id":true,"orderid":"7"}"#).await;
        let outcome = world.outcome().await;
        assert_eq!(outcome["reason"], "bad_identifier");
        assert_eq!(outcome["request"], json!({"orderid": "7"}));
    });
}

#[test]
fn the_request_id_is_the_message_id_else_the_events_else_a_uuid_that_stays_through_retries() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |call| {
            let first = call.n == 1 && call.field("customer_id").as_deref() == Some("none");
            if first { Answer::status(503) } else { Answer::unlocked() }
        })
        .await;
        world.publish(Properties::default(), r#"{"customer_id":"none"}"#).await;
        let given = text(&world.outcome().await["request_id"]);
        assert_eq!(given.len(), 36, "{given} is a UUID");
        assert_eq!(given.as_bytes()[14], b'7', "{given} is a UUID of version 7");

        let event = r#"{"id":"event-1","data":{"customer_id":1}}"#;
        let without_id = Properties::default().with_content_type(EVENT.into());
        world.publish(without_id, event).await;
        assert_eq!(world.outcome().await["request_id"], "event-1");
        world.publish(content_type("message-1", EVENT), event).await;
        assert_eq!(world.outcome().await["request_id"], "message-1");
    });
}

#[test]
fn requests_may_also_be_published_to_the_queue_through_the_default_exchange() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.amqp.publish("", crate::world::REQUESTS, id("direct"), br#"{"customer_id":1}"#).await;
        assert_eq!(world.outcomes.next(SOON).await.json()["request_id"], "direct");
    });
}
