//! The JSON Schemas of the messages, in a shape from which code generators make types with good
//! names: each part has a title, nothing is referred to, and no value is limited to the ones known
//! today (decision 146).

use schemars::{Schema, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

use super::{Identifiers, Outcome, Status, request::MAX_IDENTIFIER_BYTES};

/// Where the schemas of this version live. Listeners compare it; nobody has to fetch it.
const ID: &str = "https://github.com/trackfinity-unlocker/trackfinity-unlocker/blob/main/docs/schemas/";
/// JSON Schema counts characters; the limit is in bytes of UTF-8.
const NO_CONTROL_CHARACTERS: &str = r"[^\u0000-\u001f\u007f-\u009f]";
const BLANK: &str = r"^\s*$";
const MOMENT: &str = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$";

/// What the worker reads as the body of a request.
pub fn request() -> Schema {
    let text = format!("{BLANK}|^{NO_CONTROL_CHARACTERS}{{0,{MAX_IDENTIFIER_BYTES}}}$");
    let id = |description: &str| json!({"description": description, "type": ["string", "integer", "null"], "pattern": text});
    let blank = json!({"type": ["string", "null"], "pattern": BLANK});
    let moment = json!({
        "description": "From then on the request is not tried any more. RFC 3339.",
        "type": ["string", "null"],
        "pattern": format!("{BLANK}|{MOMENT}"),
    });
    let description = "A request to unlock a customer in Trackfinity, as the worker reads it. At least one identifier \
                       is neither null nor blank; each has at most 255 bytes of UTF-8; an integer is written without \
                       fraction and exponent. Unknown fields are ignored. Senders should write what \
                       request-strict.json allows.";
    finish(
        "request.json",
        "UnlockRequest",
        json_schema!({
            "description": description,
            "type": "object",
            "properties": fields(id, moment),
            "if": none_but(&blank),
        "then": false,
        }),
    )
}

/// What a sender should write as the body of a request: one type for each field.
pub fn strict_request() -> Schema {
    let id = |description: &str| {
        json!({
            "description": description,
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_IDENTIFIER_BYTES,
            "pattern": format!(r"^(?=.*\S){NO_CONTROL_CHARACTERS}*$"),
        })
    };
    let moment = json!({
        "description": "From then on the request is not tried any more. RFC 3339.",
        "type": "string",
        "format": "date-time",
    });
    let description = "A request to unlock a customer in Trackfinity, as senders should write it: at least one \
                       identifier, and no other fields.";
    finish(
        "request-strict.json",
        "StrictUnlockRequest",
        json_schema!({
            "description": description,
            "type": "object",
            "properties": fields(id, moment),
            "additionalProperties": false,
            "if": none_but(&json!(false)),
        "then": false,
        }),
    )
}

/// The body of an outcome. A status is a plain string in it: a listener has to accept one that is
/// not known today.
pub fn outcome() -> Schema {
    let mut settings = SchemaSettings::draft07().for_serialize();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<Outcome>();
    if let Some(status) = schema.pointer_mut("/properties/status").and_then(Value::as_object_mut) {
        status.remove("oneOf");
        status.insert("type".to_owned(), json!("string"));
        status.insert("examples".to_owned(), json!(Status::ALL.map(Status::as_str)));
    }
    if let Some(request) = schema.pointer_mut("/properties/request") {
        let mut identifiers = request.as_object().cloned().unwrap_or_default();
        identifiers.insert("title".to_owned(), json!("UnlockIdentifiers"));
        identifiers.insert("type".to_owned(), json!("object"));
        let fields = identifiers.get_mut("properties").and_then(Value::as_object_mut);
        // A field that the request did not have is absent, not null.
        for field in fields.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
            field.insert("type".to_owned(), json!("string"));
        }
        // Some generators forget the null of a list of types.
        *request = json!({ "description": request["description"], "anyOf": [identifiers, {"type": "null"}] });
    }
    finish("outcome.json", "UnlockOutcome", schema)
}

fn fields(id: impl Fn(&str) -> Value, moment: Value) -> Value {
    json!({
        "customer_id": id("The customer to unlock."),
        "subscription_id": id("A subscription of that customer."),
        "orderid": id("The event id of one of the customer's transactions."),
        "request_id": id("The request's id, for senders that cannot set the property `message_id`, which counts more."),
        "expires_at": moment,
    })
}

/// Matches a request without identifiers, apart from those that are `blank`. Generators ignore `if`,
/// while from an `anyOf` they make a type for each branch.
fn none_but(blank: &Value) -> Value {
    let properties: Map<_, _> =
        Identifiers::FIELDS.into_iter().map(|field| (field.to_owned(), blank.clone())).collect();
    json!({ "properties": properties })
}

/// Adds what all schemas have: their address, and a title for each part.
fn finish(file: &str, title: &str, mut schema: Schema) -> Schema {
    schema.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
    schema.insert("$id".to_owned(), json!(format!("{ID}{file}")));
    schema.insert("title".to_owned(), json!(title));
    if let Some(object) = schema.as_object_mut() {
        add_titles(object);
    }
    schema
}

fn add_titles(schema: &mut Map<String, Value>) {
    for branch in schema.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten() {
        branch.as_object_mut().map(add_titles);
    }
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (name, property) in properties.into_iter().flatten() {
        if let Some(property) = property.as_object_mut() {
            property.entry("title").or_insert_with(|| json!(pascal_case(name)));
            // Not one of JSON Schema's formats, and `minimum` says as much.
            property.retain(|key, value| key != "format" || value == "date-time");
            add_titles(property);
        }
    }
}

/// `customer_id` as `CustomerId`.
fn pascal_case(name: &str) -> String {
    let word = |word: &str| {
        let mut characters = word.chars();
        let first = characters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(characters).collect::<String>()
    };
    name.split('_').map(word).collect()
}
