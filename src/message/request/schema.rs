//! The JSON Schema of a request's body.

use schemars::JsonSchema;

use super::identifiers::{Identifiers, MAX_IDENTIFIER_BYTES};

/// The JSON Schema of a request's body.
#[must_use]
pub fn schema() -> schemars::Schema {
    /// A request to unlock a customer in Trackfinity. At least one identifier is neither null nor
    /// blank; each has at most 255 bytes of UTF-8; an integer is written without fraction and
    /// exponent. Unknown fields are ignored.
    #[derive(JsonSchema)]
    #[allow(dead_code)]
    #[schemars(rename = "UnlockRequest")]
    struct RequestBody {
        /// The customer to unlock.
        #[schemars(schema_with = "identifier_schema", default)]
        customer_id: (),
        /// A subscription of that customer.
        #[schemars(schema_with = "identifier_schema", default)]
        subscription_id: (),
        /// The event id of one of the customer's transactions.
        #[schemars(schema_with = "identifier_schema", default)]
        orderid: (),
        /// The request's id, for senders that cannot set the property `message_id`, which counts more.
        #[schemars(schema_with = "identifier_schema", default)]
        request_id: (),
        /// From then on the request is not tried any more. RFC 3339.
        #[schemars(schema_with = "moment_schema", default)]
        expires_at: (),
    }

    let mut schema = schemars::schema_for!(RequestBody);
    let at_least_one = Identifiers::FIELDS.map(|field| {
        let mut given = serde_json::Map::new();
        given.insert(field.to_owned(), serde_json::json!({"type": ["string", "integer"], "pattern": r"\S"}));
        serde_json::json!({"required": [field], "properties": given})
    });
    schema.insert("anyOf".to_owned(), serde_json::json!(at_least_one));
    let properties = schema.pointer_mut("/properties").and_then(|properties| properties.as_object_mut());
    for property in properties.into_iter().flat_map(|properties| properties.values_mut()) {
        property.as_object_mut().map(|property| property.remove("default"));
    }
    schema
}

fn identifier_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "anyOf": [
            { "type": "null" },
            { "type": "integer" },
            { "type": "string", "pattern": r"^\s*$" },
            {
                "type": "string",
                // JSON Schema counts characters; the limit is in bytes of UTF-8.
                "maxLength": MAX_IDENTIFIER_BYTES,
                "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"
            }
        ]
    })
}

fn moment_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "anyOf": [
            { "type": "null" },
            { "type": "string", "pattern": r"^\s*$" },
            { "type": "string", "format": "date-time" }
        ]
    })
}
