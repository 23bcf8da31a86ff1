//! A request to unlock a customer: decoded from a message's body, or refused with a fault.

use std::{borrow::Cow, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The largest body that is read, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// The longest identifier, in bytes of UTF-8.
pub const MAX_IDENTIFIER_BYTES: usize = 255;

/// One identifier: 1 to 255 bytes, not blank, no control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Identifier(#[schemars(length(min = 1, max = 255))] String);

impl Identifier {
    /// The text, as it is sent to Trackfinity.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `Ok(None)` for a blank text, which counts as absent.
    fn parse(text: Cow<'_, str>) -> Result<Option<Self>, &'static str> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        if text.len() > MAX_IDENTIFIER_BYTES {
            return Err("is longer than 255 bytes");
        }
        if text.chars().any(char::is_control) {
            return Err("holds a control character");
        }
        Ok(Some(Self(text.into_owned())))
    }
}

/// The identifiers a request gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Identifiers {
    /// The customer to unlock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<Identifier>,
    /// A subscription of that customer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<Identifier>,
    /// The event id of one of the customer's transactions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orderid: Option<Identifier>,
}

impl Identifiers {
    /// Field names, in the order in which they are sent.
    pub const FIELDS: [&'static str; 3] = ["customer_id", "subscription_id", "orderid"];

    fn is_empty(&self) -> bool {
        self.given().next().is_none()
    }

    /// The identifiers that are given, as name and value.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let values = [&self.customer_id, &self.subscription_id, &self.orderid];
        Self::FIELDS
            .into_iter()
            .zip(values)
            .filter_map(|(name, value)| Some((name, value.as_ref()?.as_str())))
    }
}

/// A request with at least one identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnlockRequest(Identifiers);

impl UnlockRequest {
    /// What the request gives; never empty.
    #[must_use]
    pub fn identifiers(&self) -> &Identifiers {
        &self.0
    }

    /// The body of the call to Trackfinity, `application/x-www-form-urlencoded`.
    #[must_use]
    pub fn to_form(&self) -> String {
        form_urlencoded::Serializer::new(String::with_capacity(64)).extend_pairs(self.0.given()).finish()
    }
}

impl TryFrom<Identifiers> for UnlockRequest {
    type Error = Fault;

    fn try_from(identifiers: Identifiers) -> Result<Self, Fault> {
        if identifiers.is_empty() {
            return Err(Fault::new(
                FaultCode::NoIdentifier,
                "none of customer_id, subscription_id and orderid is given, or all are blank",
            ));
        }
        Ok(Self(identifiers))
    }
}

/// Why a message is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// Not JSON, not an object, or a field given twice.
    Malformed,
    /// No identifier, or only blank ones.
    NoIdentifier,
    /// An identifier of the wrong type, too long, or with control characters.
    BadIdentifier,
    /// The body is over 64 KiB.
    TooLarge,
    /// The content type is not supported.
    UnsupportedContentType,
    /// A text in the message's AMQP properties is not UTF-8.
    Unreadable,
}

impl FaultCode {
    /// The code as written in outcomes, headers and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoIdentifier => "no_identifier",
            Self::BadIdentifier => "bad_identifier",
            Self::TooLarge => "too_large",
            Self::UnsupportedContentType => "unsupported_content_type",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A fault, with the identifiers that could be read. The detail never repeats an identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: FaultCode,
    pub detail: String,
    pub readable: Option<Identifiers>,
}

impl Fault {
    fn new(code: FaultCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), readable: None }
    }

    /// The fault of a message whose body was not decoded.
    pub(super) fn not_decoded() -> Self {
        Self::new(FaultCode::Unreadable, "the body was not decoded")
    }

    fn malformed(detail: impl fmt::Display) -> Self {
        Self::new(FaultCode::Malformed, detail.to_string())
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The CloudEvent's id, read even if its data is faulty.
    pub event_id: Option<String>,
    pub request: Result<UnlockRequest, Fault>,
}

impl From<Result<UnlockRequest, Fault>> for Decoded {
    fn from(request: Result<UnlockRequest, Fault>) -> Self {
        Self { event_id: None, request }
    }
}

/// Decodes a message's body by its content type. Any bytes give a request or a fault.
#[must_use]
pub fn decode(content_type: Option<&str>, body: &[u8]) -> Decoded {
    if body.len() > MAX_BODY_BYTES {
        let detail = format!("the body has {} bytes; at most {MAX_BODY_BYTES} are read", body.len());
        return Err(Fault::new(FaultCode::TooLarge, detail)).into();
    }
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match media_type.to_ascii_lowercase().as_str() {
        "" | "application/json" => decode_json(body).into(),
        "application/x-www-form-urlencoded" => decode_form(body).into(),
        "application/cloudevents+json" => decode_cloud_event(body),
        _ => Err(Fault::new(
            FaultCode::UnsupportedContentType,
            "the content type is none of application/json, application/x-www-form-urlencoded and \
             application/cloudevents+json",
        ))
        .into(),
    }
}

/// The fields as raw JSON text, so that numbers keep every digit. serde refuses a duplicate field.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    customer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    subscription_id: Option<&'a RawValue>,
    #[serde(borrow)]
    orderid: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct CloudEvent<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

fn decode_json(body: &[u8]) -> Result<UnlockRequest, Fault> {
    let fields: Fields<'_> = parse_object(body, "the body")?;
    let mut reading = Reading::default();
    let identifiers = Identifiers {
        customer_id: reading.json("customer_id", fields.customer_id)?,
        subscription_id: reading.json("subscription_id", fields.subscription_id)?,
        orderid: reading.json("orderid", fields.orderid)?,
    };
    reading.finish(identifiers)
}

fn decode_form(body: &[u8]) -> Result<UnlockRequest, Fault> {
    let mut values: [Option<Cow<'_, str>>; 3] = Default::default();
    for (name, value) in form_urlencoded::parse(body) {
        let Some(index) = Identifiers::FIELDS.iter().position(|field| *field == name) else {
            continue;
        };
        let slot = values.get_mut(index);
        if slot.and_then(|slot| slot.replace(value)).is_some() {
            return Err(Fault::malformed(format!("{name} is given twice")));
        }
    }
    let [customer_id, subscription_id, orderid] = values;
    let mut reading = Reading::default();
    let identifiers = Identifiers {
        customer_id: reading.form("customer_id", customer_id),
        subscription_id: reading.form("subscription_id", subscription_id),
        orderid: reading.form("orderid", orderid),
    };
    reading.finish(identifiers)
}

fn decode_cloud_event(body: &[u8]) -> Decoded {
    let event: CloudEvent<'_> = match parse_object(body, "the CloudEvent") {
        Ok(event) => event,
        Err(fault) => return Err(fault).into(),
    };
    let event_id =
        event.id.and_then(|id| serde_json::from_str::<String>(id.get()).ok()).filter(|id| !id.is_empty());
    let request = match event.data {
        Some(data) => decode_json(data.get().as_bytes()),
        None => Err(Fault::malformed("the CloudEvent has no data")),
    };
    Decoded { event_id, request }
}

fn parse_object<'a, T: Deserialize<'a>>(text: &'a [u8], what: &str) -> Result<T, Fault> {
    // serde does not check the encoding of what it ignores.
    let Ok(text) = std::str::from_utf8(text) else {
        return Err(Fault::malformed(format!("{what} is not UTF-8")));
    };
    // serde also reads an array as a struct, field by field. Only an object is a request.
    let first = text.bytes().find(|byte| !byte.is_ascii_whitespace());
    match (serde_json::from_str(text), first) {
        (Ok(object), Some(b'{')) => Ok(object),
        (Err(error), Some(b'{')) => Err(Fault::malformed(format!("{what} is not a request: {error}"))),
        (_, None) => Err(Fault::malformed(format!("{what} is empty"))),
        (_, Some(_)) => Err(Fault::malformed(format!("{what} is not a JSON object"))),
    }
}

/// Collects all faulty identifiers, so that one fault names them all.
#[derive(Default)]
struct Reading {
    bad: Vec<String>,
}

impl Reading {
    fn json(&mut self, name: &str, value: Option<&RawValue>) -> Result<Option<Identifier>, Fault> {
        let Some(text) = value.map(RawValue::get) else {
            return Ok(None);
        };
        if text.starts_with('"') {
            let text: Cow<'_, str> = serde_json::from_str::<String>(text)
                .map_err(|error| Fault::malformed(format!("{name} is not a JSON string: {error}")))?
                .into();
            return Ok(self.note(name, Identifier::parse(text)));
        }
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(self.note(name, Identifier::parse(text.into())));
        }
        Ok(self.note(name, Err("is neither a string nor an integer")))
    }

    fn form(&mut self, name: &str, value: Option<Cow<'_, str>>) -> Option<Identifier> {
        let value = value?;
        // The form parser puts U+FFFD where the bytes are not UTF-8. Sent to Trackfinity, this
        // could name another customer.
        if value.contains(char::REPLACEMENT_CHARACTER) {
            return self.note(name, Err("is not UTF-8"));
        }
        self.note(name, Identifier::parse(value))
    }

    fn note(&mut self, name: &str, parsed: Result<Option<Identifier>, &'static str>) -> Option<Identifier> {
        parsed.unwrap_or_else(|why| {
            self.bad.push(format!("{name} {why}"));
            None
        })
    }

    fn finish(self, identifiers: Identifiers) -> Result<UnlockRequest, Fault> {
        if self.bad.is_empty() {
            return identifiers.try_into();
        }
        Err(Fault {
            code: FaultCode::BadIdentifier,
            detail: self.bad.join("; "),
            readable: (!identifiers.is_empty()).then_some(identifiers),
        })
    }
}

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
    }

    let mut schema = schemars::schema_for!(RequestBody);
    let at_least_one = Identifiers::FIELDS.map(|field| {
        let mut given = serde_json::Map::new();
        given.insert(field.to_owned(), serde_json::json!({"type": ["string", "integer"], "pattern": r"\S"}));
        serde_json::json!({"required": [field], "properties": given})
    });
    schema.insert("anyOf".to_owned(), serde_json::json!(at_least_one));
    for field in Identifiers::FIELDS {
        let pointer = format!("/properties/{field}");
        if let Some(property) = schema.pointer_mut(&pointer).and_then(|value| value.as_object_mut()) {
            property.remove("default");
        }
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

#[cfg(test)]
mod tests;
