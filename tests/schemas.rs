//! The JSON Schemas agree with what is read and written.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use serde_json::{Value, json};
use trackfinity_unlocker::message::{Outcome, Status, Timestamp, outcome, request};

fn validator(schema: &schemars::Schema) -> jsonschema::Validator {
    jsonschema::options().should_validate_formats(true).build(schema.as_value()).expect("a schema")
}

#[test]
fn the_request_schema_accepts_what_is_read_and_refuses_what_is_not() {
    let validator = validator(&request::schema());
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
    let schema = outcome::schema();
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
    for (name, schema) in [("request", request::schema()), ("outcome", outcome::schema())] {
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
fn the_schemas_leave_room_for_fields_that_come_later() {
    for schema in [request::schema(), outcome::schema()] {
        assert!(!schema.as_value().to_string().contains("additionalProperties"));
    }
}

#[test]
fn the_asyncapi_document_names_every_status_field_and_header() {
    let path = format!("{}/docs/asyncapi.yaml", env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(path).expect("the document");
    let statuses = [Status::Unlocked, Status::Invalid, Status::Refused, Status::Abandoned, Status::Discarded];
    let names = statuses.map(Status::as_str).join(", ");
    assert!(document.contains(&format!("enum: [{names}]")), "the statuses are {names}");
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
