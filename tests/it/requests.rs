//! The contract's section 4: what is read as a request, and what is a fault.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use kit::{AMQPValue, Answer, FieldTable, Properties};
use serde_json::json;

use crate::world::{SOON, World, header, id, text};

fn content_type(message_id: &str, content_type: &str) -> Properties {
    id(message_id).with_content_type(content_type.into())
}

const FORM: &str = "application/x-www-form-urlencoded";
const EVENT: &str = "application/cloudevents+json";

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).expect("written");
    encoder.finish().expect("finished")
}

fn encoded(encoding: &str) -> Properties {
    content_type("row", "application/json").with_content_encoding(encoding.into())
}

fn with_headers(properties: Properties, headers: &[(&str, &str)]) -> Properties {
    let mut table = FieldTable::default();
    for (name, text) in headers {
        table.insert((*name).into(), AMQPValue::LongString((*text).into()));
    }
    properties.with_headers(table)
}

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
        let rows: [(&str, Properties, &str, &str); 20] = [
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
            ("unsupported_content_type", content_type("row", "text/html"), "{}", "unsupported_content_type"),
            (
                "a batch",
                content_type("row", "application/cloudevents-batch+json"),
                "[]",
                "unsupported_content_type",
            ),
            ("an encoding", encoded("br"), "{}", "unsupported_content_type"),
            ("malformed: not gzip", encoded("gzip"), "{}", "malformed"),
            ("malformed: no time", id("row"), r#"{"expires_at":"tomorrow"}"#, "malformed"),
            ("bad_identifier: request_id", id("row"), r#"{"request_id":[]}"#, "bad_identifier"),
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
fn what_client_libraries_send_by_default_is_read() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let body = br#"{"customer_id":"c"}"#;
        let with_mark = [b"\xef\xbb\xbf", &body[..]].concat();
        let (packed, form) = (gzip(body), b"customer_id=c".to_vec());
        let zlib = {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).expect("written");
            encoder.finish().expect("finished")
        };
        let kombu = with_headers(encoded("utf-8"), &[("compression", "application/x-gzip")]);
        let in_form = json!({"datacontenttype": FORM, "data_base64": "Y3VzdG9tZXJfaWQ9Yw=="}).to_string();
        let rows: [(&str, Properties, Vec<u8>); 14] = [
            ("text", content_type("row", "text/plain; charset=utf-8"), body.to_vec()),
            ("bytes", content_type("row", "application/octet-stream"), body.to_vec()),
            ("JSON of another name", content_type("row", "application/vnd.shop+json"), body.to_vec()),
            ("a byte order mark", content_type("row", "text/plain"), with_mark.clone()),
            ("Spring's encoding", encoded("UTF-8"), body.to_vec()),
            ("kombu's encoding of bytes", encoded("binary"), body.to_vec()),
            ("gzip", encoded("gzip"), packed.clone()),
            ("x-gzip", encoded("x-gzip"), gzip(&with_mark)),
            ("kombu's gzip", kombu, zlib),
            ("a form in gzip", content_type("row", FORM).with_content_encoding("gzip".into()), gzip(&form)),
            (
                "a CloudEvent with base64",
                content_type("row", EVENT),
                br#"{"data_base64":"eyJjdXN0b21lcl9pZCI6ImMifQ=="}"#.to_vec(),
            ),
            ("a CloudEvent with a form", content_type("row", EVENT), in_form.into_bytes()),
            (
                "a binary CloudEvent",
                with_headers(id("row"), &[("cloudEvents:specversion", "1.0")]),
                body.to_vec(),
            ),
            (
                "a binary CloudEvent with a form",
                with_headers(content_type("row", FORM), &[("ce-id", "e")]),
                form,
            ),
        ];
        for (row, properties, body) in rows {
            world.publish(properties, body).await;
            let outcome = world.outcome().await;
            assert_eq!(outcome["status"], "unlocked", "{row}: {outcome}");
            let call = world.trackfinity.calls().pop().expect("a call");
            assert_eq!(String::from_utf8_lossy(&call.body), "customer_id=c", "{row}");
        }
        world.stop().await;
    });
}

#[test]
fn a_retry_and_a_dead_letter_keep_the_packed_body_and_its_encoding() {
    kit::run(async |ctx| {
        let settings = [("RETRY__MAX_ATTEMPTS", "2"), ("RETRY__MAX_DELAY", "1s")];
        let world = World::start_with(ctx, &settings, |_| Answer::status(503)).await;
        let packed = gzip(br#"{"customer_id":"c"}"#);
        world.publish(encoded("gzip"), &packed).await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["reason"], &outcome["attempts"]), (&json!("http_503"), &json!(2)));
        let bomb = gzip(&vec![b' '; 8 << 20]);
        world.publish(encoded("gzip"), &bomb).await;
        assert_eq!(world.outcome().await["reason"], "too_large");
        let dead_letters = world.dead_letters().await;
        assert_eq!(dead_letters.iter().map(|message| &message.body).collect::<Vec<_>>(), [&packed, &bomb]);
        for dead_letter in dead_letters {
            let encoding = dead_letter.properties.content_encoding();
            assert_eq!(encoding.as_ref().map(|text| text.as_str()), Some("gzip"));
        }
        world.stop().await;
    });
}

#[test]
fn a_detail_names_what_came_and_no_identifier() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        for (properties, body, named) in [
            (content_type("row", "text/html; a=b"), "191", "the content type is \"text/html\"; "),
            (encoded("br"), "191", "the content encoding is \"br\"; "),
            (id("row"), r#"{"customerId":"191"}"#, "found: \"customerId\""),
            (content_type("row", FORM), "customer=191", "found: \"customer\""),
            (id("row"), "{\n\"customer_id\": 191,}", "at line 2 column 20"),
        ] {
            world.publish(properties, body).await;
            let detail = text(&world.outcome().await["detail"]);
            assert!(detail.contains(named) && !detail.contains("191"), "{body}: {detail}");
        }
    });
}

#[test]
fn the_request_id_is_the_message_id_else_the_events_else_its_own_else_a_uuid_that_stays_through_retries() {
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

        let event = r#"{"id":"event-1","data":{"customer_id":1,"request_id":"own-1"}}"#;
        let own = r#"{"customer_id":1,"request_id":"own-1"}"#;
        let none = Properties::default;
        let rows = [
            (none().with_content_type(EVENT.into()), event, "event-1"),
            (content_type("message-1", EVENT), event, "message-1"),
            (with_headers(none(), &[("cloudEvents:id", "event-2")]), own, "event-2"),
            (with_headers(none(), &[("cloudEvents_id", "event-3")]), own, "event-3"),
            (with_headers(none(), &[("ce-id", "event-4")]), own, "event-4"),
            (with_headers(none(), &[("CE-Id", "event-5")]), "{}", "event-5"),
            (with_headers(id("message-2"), &[("ce-id", "event-6")]), own, "message-2"),
            (none(), own, "own-1"),
            (none(), r#"{"customer_id":1,"request_id":4711}"#, "4711"),
            (none().with_content_type(FORM.into()), "customer_id=1&request_id=own-2", "own-2"),
            (id("message-3"), own, "message-3"),
            (none(), r#"{"request_id":"own-3"}"#, "own-3"),
            (none(), r#"{"customer_id":1,"request_id":"own\u0000"}"#, "own\0"),
        ];
        for (properties, body, request_id) in rows {
            world.publish(properties, body).await;
            let message = world.outcomes.next(SOON).await;
            assert_eq!(message.json()["request_id"], request_id, "{body}");
            let message_id = message.properties.message_id().as_ref().map(|id| id.as_str().to_owned());
            assert_eq!(message_id, Some(format!("{request_id}/0")));
        }
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
