//! The JSON Schemas agree with what is read and written, and so do the examples in docs/examples.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod examples;
mod generators;

use serde_json::{Value, json};
use trackfinity_unlocker::message::{Outcome, Status, Timestamp, outcome, request, schema};

fn validator(schema: &schemars::Schema) -> jsonschema::Validator {
    jsonschema::options().should_validate_formats(true).build(schema.as_value()).expect("a schema")
}

#[test]
fn the_request_schema_accepts_what_is_read_and_refuses_what_is_not() {
    let validator = validator(&schema::request());
    let long = "x".repeat(255);
    let rows = [
        (json!({"customer_id": "191"}), true),
        (json!({"customer_id": 191}), true),
        (json!({"customer_id": -1}), true),
        (json!({"subscription_id": "s", "orderid": null, "more": {"a": [1]}}), true),
        (json!({"customer_id": " \t", "orderid": "7"}), true),
        (json!({"customer_id": long}), true),
        (json!({"customer_id": "ü & ="}), true),
        (json!({"customer_id": 1, "request_id": "r-1", "expires_at": "2026-11-23T10:00:00.5+01:00"}), true),
        (json!({"customer_id": 1, "request_id": 4711, "expires_at": null}), true),
        (json!({"customer_id": 1, "request_id": " ", "expires_at": " "}), true),
        (json!({"customer_id": 1, "request_id": true}), false),
        (json!({"customer_id": 1, "request_id": format!("{long}x")}), false),
        (json!({"customer_id": 1, "expires_at": "tomorrow"}), false),
        (json!({"customer_id": 1, "expires_at": "2026-11-23T09:00:00"}), false),
        (json!({"customer_id": 1, "expires_at": 1_795_424_400}), false),
        (json!({"request_id": "r-1"}), false),
        (json!({}), false),
        (json!({"customer_id": null}), false),
        (json!({"customer_id": ""}), false),
        (json!({"customer_id": " \n ", "orderid": ""}), false),
        (json!({"customer_id": true}), false),
        (json!({"customer_id": ["191"]}), false),
        (json!({"customer_id": 1.5}), false),
        (json!({"customer_id": "a\u{0}b"}), false),
        (json!({"customer_id": "a\u{85}b"}), false),
        (json!({"customer_id": "ok", "orderid": {}}), false),
        (json!({"customer_id": format!("{long}x")}), false),
        (json!(["191"]), false),
        (json!("191"), false),
        (json!(null), false),
    ];
    for (body, readable) in rows {
        let read = request::decode(None, body.to_string().as_bytes()).request;
        assert_eq!(read.is_ok(), readable, "read: {body}");
        assert_eq!(validator.is_valid(&body), readable, "the schema: {body}");
    }
}

#[test]
fn the_outcome_schema_describes_every_outcome_and_misses_none_of_its_fields() {
    let schema = schema::outcome();
    let validator = validator(&schema);
    let request = request::decode(None, br#"{"customer_id":191}"#).request.expect("a request");
    let full = Outcome {
        status: Status::Refused,
        request_id: "m-1".to_owned(),
        request: Some(request.identifiers().clone()),
        attempts: 1,
        http_status: Some(400),
        reason: Some("http_400".to_owned()),
        detail: Some("Trackfinity answered 400".to_owned()),
        replays: 0,
        first_received_at: Timestamp::EPOCH,
        finished_at: Timestamp::EPOCH,
        requested_by: Some("billing".to_owned()),
    };
    let bare = Outcome {
        request: None,
        http_status: None,
        reason: None,
        detail: None,
        requested_by: None,
        ..full.clone()
    };
    for outcome in [&full, &bare] {
        let written: Value = serde_json::from_slice(&outcome.encode().expect("JSON")).expect("JSON");
        assert!(validator.is_valid(&written), "{written}");
        let fields = written.as_object().expect("an object");
        let required = schema.as_value()["required"].as_array().expect("required fields");
        assert_eq!(required.len(), fields.len(), "every field is always there");
        for field in fields.keys() {
            let mut without = written.clone();
            without.as_object_mut().expect("an object").remove(field);
            assert!(!validator.is_valid(&without), "{field} may not be missing");
        }
    }
}

#[test]
fn the_schemas_in_docs_are_those_that_the_program_prints() {
    let schemas = [
        ("request", schema::request()),
        ("request-strict", schema::strict_request()),
        ("outcome", schema::outcome()),
    ];
    for (name, schema) in schemas {
        let path = format!("{}/docs/schemas/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let printed = format!("{}\n", serde_json::to_string_pretty(&schema).expect("JSON"));
        assert!(
            kept == printed,
            "make schemas: docs/schemas/{name}.json is not what `unlocker schema {name}` prints"
        );
    }
}

#[test]
fn the_schemas_leave_room_for_fields_and_statuses_that_come_later() {
    for schema in [schema::request(), schema::outcome()] {
        assert!(!schema.as_value().to_string().contains("additionalProperties"));
        assert!(!schema.as_value().to_string().contains("\"enum\""));
    }
}

#[test]
fn what_the_strict_schema_allows_the_worker_reads() {
    let strict = validator(&schema::strict_request());
    let tolerant = validator(&schema::request());
    let long = "x".repeat(256);
    for (body, allowed) in [
        (json!({"customer_id": "191"}), true),
        (json!({"orderid": "7", "request_id": "r-1", "expires_at": "2026-11-23T09:05:00Z"}), true),
        (json!({"customer_id": 191}), false),
        (json!({"customer_id": null}), false),
        (json!({"customer_id": " "}), false),
        (json!({"customer_id": long}), false),
        (json!({"customer_id": "191", "more": 1}), false),
        (json!({"request_id": "r-1"}), false),
        (json!({}), false),
    ] {
        assert_eq!(strict.is_valid(&body), allowed, "{body}");
        if allowed {
            assert!(tolerant.is_valid(&body), "{body}");
            assert!(request::decode(None, body.to_string().as_bytes()).request.is_ok(), "{body}");
        }
    }
}

#[test]
fn every_part_of_a_schema_has_a_title_and_the_schema_an_address() {
    fn check(schema: &Value, path: &str) {
        assert!(schema["title"].is_string(), "{path} has no title");
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            check(property, &format!("{path}.{name}"));
        }
    }
    for schema in [schema::request(), schema::strict_request(), schema::outcome()] {
        check(schema.as_value(), "the schema");
        assert!(schema.as_value()["$id"].is_string());
    }
}

#[test]
fn the_asyncapi_document_names_every_status_field_and_header() {
    let path = format!("{}/docs/asyncapi.yaml", env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(path).expect("the document");
    let statuses = [Status::Unlocked, Status::Invalid, Status::Refused, Status::Abandoned, Status::Discarded];
    let names = statuses.map(Status::as_str).join(", ");
    assert!(document.contains(&format!("examples: [{names}]")), "the statuses are {names}");
    for word in [outcome::MESSAGE_TYPE, outcome::APP_ID, "traceparent", "tracestate", "unlocker-request-id"] {
        assert!(document.contains(word), "{word}");
    }
}

#[test]
fn the_outcome_of_a_discarded_dead_letter_is_pinned() {
    let discarded = Outcome {
        status: Status::Discarded,
        request_id: "m-1".to_owned(),
        request: None,
        attempts: 12,
        http_status: None,
        reason: Some("asked twice".to_owned()),
        detail: None,
        replays: 1,
        first_received_at: Timestamp::EPOCH,
        finished_at: Timestamp::EPOCH,
        requested_by: None,
    };
    assert_eq!(discarded.message_id(), "m-1/1");
    assert_eq!(Status::Discarded.routing_key(), "unlock.discarded");
    assert_eq!(
        String::from_utf8_lossy(&discarded.encode().expect("JSON")),
        r#"{"status":"discarded","request_id":"m-1","request":null,"attempts":12,"http_status":null,"reason":"asked twice","detail":null,"replays":1,"first_received_at":"1970-01-01T00:00:00.000Z","finished_at":"1970-01-01T00:00:00.000Z","requested_by":null}"#
    );
}
