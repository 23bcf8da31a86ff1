//! The bodies of requests, and the schemas of what travels over RabbitMQ, too.

use serde_json::{Map, Value, json};

use crate::message::schema;

const BLANK: &str = r"^\s*$";

/// The schemas that are made elsewhere, by their names.
pub(super) fn schemas() -> serde_json::Result<[(&'static str, Value); 4]> {
    Ok([
        ("UnlockRequest", request_schema()?),
        ("UnlockForm", form_schema()?),
        ("UnlockEvent", event_schema()),
        ("UnlockOutcome", embedded(&schema::outcome())?),
    ])
}

/// A schema without what only a document of its own has.
fn embedded(schema: &schemars::Schema) -> serde_json::Result<Value> {
    let mut schema = serde_json::to_value(schema)?;
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("$id");
        schema.remove("$schema");
        // Some tools for OpenAPI do not know that a schema may be `false`.
        if schema.get("then") == Some(&json!(false)) {
            schema.insert("then".to_owned(), json!({"not": {}}));
        }
    }
    Ok(schema)
}

fn request_schema() -> serde_json::Result<Value> {
    let mut schema = embedded(&schema::request())?;
    // What makes values from a pattern makes days that do not exist.
    if let Some(moment) = schema.pointer_mut("/properties/expires_at").and_then(Value::as_object_mut) {
        moment.remove("pattern");
        moment.insert("anyOf".to_owned(), json!([{"format": "date-time"}, {"pattern": BLANK}]));
    }
    if let Some(request) = schema.as_object_mut() {
        let description = "A request to unlock a customer in Trackfinity. At least one identifier is neither null nor \
                           blank; each has at most 255 bytes of UTF-8; an integer is written without fraction and \
                           exponent. Unknown fields are ignored. The `request_id` has no effect here: an \
                           `Idempotency-Key` counts more, and so does the id that the gateway gives.";
        request.insert("description".to_owned(), json!(description));
        request.insert("examples".to_owned(), json!([{"customer_id": "191"}]));
    }
    Ok(schema)
}

/// A form holds text alone.
fn form_schema() -> serde_json::Result<Value> {
    let mut schema = request_schema()?;
    let fields = schema.pointer_mut("/properties").and_then(Value::as_object_mut);
    for field in fields.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        field.insert("type".to_owned(), json!("string"));
    }
    if let Some(form) = schema.as_object_mut() {
        form.insert("title".to_owned(), json!("UnlockForm"));
        let description =
            "A request with the fields as Trackfinity's own API takes them. At least one is not blank.";
        form.insert("description".to_owned(), json!(description));
    }
    Ok(schema)
}

fn event_schema() -> Value {
    json!({
        "title": "UnlockEvent",
        "description": "A structured CloudEvent 1.0. Its `data` is the request; or `data_base64`, or a `data` that is a text \
                        with another `datacontenttype`, holds it. What CloudEvents requires beside it (`specversion`, `id`, \
                        `source`, `type`) is not checked.",
        "type": "object",
        "properties": {
            "expirytime": {
                "description": "From then on the request is not tried any more. RFC 3339.",
                "type": ["string", "null"],
                "anyOf": [{"format": "date-time"}, {"pattern": BLANK}],
            },
            "data": {"$ref": "#/components/schemas/UnlockRequest"},
        },
        "required": ["data"],
    })
}

/// The body of `POST /v1/unlocks`.
pub(super) fn request() -> Value {
    let schema = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let event = json!({
        "specversion": "1.0",
        "id": "8e03978e-40d5",
        "source": "/shop",
        "type": "com.example.shop.paid",
        "data": {"customer_id": "191"},
    });
    let lines = "{\"customer_id\":\"191\"}\n{\"subscription_id\":\"S-7\",\"orderid\":\"E-1\"}\n";
    let batch = "A batch: up to 1000 requests in at most 1 MiB, each an `UnlockRequest` in a line of its own. Blank \
                 lines are left out.";
    json!({
        "required": true,
        "description": "One request of at most 64 KiB, or a batch. JSON may also be named `…+json`, `text/plain` or \
                        `application/octet-stream`, or not at all. A CloudEvent in binary mode is a JSON body with \
                        headers `ce-…`. One request may be compressed: `Content-Encoding: gzip`.",
        "content": {
            "application/json": {
                "schema": schema("UnlockRequest"),
                "examples": {
                    "customer": {"summary": "A customer", "value": {"customer_id": "191"}},
                    "expiring": {
                        "summary": "All identifiers, and a limit of time",
                        "value": {
                            "customer_id": 191,
                            "subscription_id": "S-7",
                            "orderid": "E-1",
                            "expires_at": "2036-11-23T10:00:00Z",
                        },
                    },
                },
            },
            "application/x-www-form-urlencoded": {
                "schema": schema("UnlockForm"),
                "examples": {"customer": {"summary": "A customer", "value": {"customer_id": "191"}}},
            },
            "application/cloudevents+json": {
                "schema": schema("UnlockEvent"),
                "examples": {"event": {"summary": "An event", "value": event}},
            },
            "application/x-ndjson": {
                "schema": {"type": "string", "description": batch, "pattern": "[^ \\t\\n\\r\\f]"},
                "examples": {"two": {"summary": "Two requests", "value": lines}},
            },
        },
    })
}
