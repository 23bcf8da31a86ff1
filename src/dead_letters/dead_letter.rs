//! A dead letter as it is in the queue.

use std::{fmt, sync::Arc};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{
    message::{DeadLetterHeaders, DeadLetterStatus, Envelope, Properties, Timestamp, headers},
    telemetry::TraceContext,
};

/// Hex digits of a fingerprint in an id. The chance that two of 60,000 dead letters share them is 1
/// in 150,000; the second one then gets a number.
const ID_DIGITS: usize = 12;

/// Identifies a dead letter: the first digits of the SHA-256 of its properties and body.
/// Dead letters with identical bytes are numbered: `0123456789ab`, `0123456789ab.2`, ….
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String)]
pub struct DeadLetterId(Arc<str>);

impl DeadLetterId {
    /// The id of the `nth` dead letter with this fingerprint, counted from one.
    pub(super) fn new(fingerprint: &str, nth: u32) -> Self {
        let digits = fingerprint.get(..ID_DIGITS).unwrap_or(fingerprint);
        Self(match nth {
            0 | 1 => digits.into(),
            nth => format!("{digits}.{nth}").into(),
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id without the number of identical dead letters.
    pub(super) fn digits(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }
}

impl From<&str> for DeadLetterId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for DeadLetterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DeadLetterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

/// A dead letter without body and headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetterSummary {
    pub id: DeadLetterId,
    /// The id of the request in outcomes, logs and traces. Null if the message has none.
    pub request_id: Option<String>,
    pub status: DeadLetterStatus,
    pub reason: Option<String>,
    /// The reason in words, with the beginning of Trackfinity's response.
    pub detail: Option<String>,
    pub http_status: Option<u16>,
    pub attempts: u32,
    pub replays: u32,
    pub first_received_at: Option<Timestamp>,
    pub dead_at: Option<Timestamp>,
    pub trace_id: Option<String>,
    /// Bytes of the body.
    pub size: usize,
}

/// A dead letter with body and headers.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub summary: DeadLetterSummary,
    /// The beginning of Trackfinity's response.
    pub response: Option<String>,
    pub properties: Properties,
    pub body: Vec<u8>,
}

impl DeadLetter {
    /// `allocate_id` returns the id for these properties and this body.
    pub(super) fn new(
        properties: Properties,
        body: Vec<u8>,
        allocate_id: impl FnOnce(&Properties, &[u8]) -> DeadLetterId,
    ) -> Self {
        let id = allocate_id(&properties, &body);
        let record = DeadLetterHeaders::from_properties(&properties);
        let trace = TraceContext::from_headers(properties.lossy().headers().as_ref());
        let summary = DeadLetterSummary {
            id,
            request_id: record.request_id,
            status: record.status,
            reason: record.reason,
            detail: record.detail,
            http_status: record.http_status,
            attempts: record.attempts,
            replays: record.replays,
            first_received_at: record.first_received_at,
            dead_at: record.dead_at,
            trace_id: trace.map(|trace| trace.trace_id().to_owned()),
            size: body.len(),
        };
        Self { summary, response: record.response, properties, body }
    }

    /// The dead letter as the worker would decode it. `None` if it is unreadable. A message without
    /// an id gets one that is always the same, so that a replay that was interrupted and repeated
    /// can be recognised.
    pub(super) fn envelope(&self) -> Option<Envelope> {
        match &self.properties {
            Properties::Readable(properties) => {
                let body = self.body.clone();
                Some(Envelope::decode(properties.clone(), body, Timestamp::now(), || self.derived_id()))
            }
            Properties::Unreadable(_) => None,
        }
    }

    /// The request's id, or one derived from the dead letter if the message has none.
    pub(super) fn request_id(&self) -> String {
        self.summary.request_id.clone().unwrap_or_else(|| self.derived_id())
    }

    pub(super) fn derived_id(&self) -> String {
        format!("dead-letter-{}", self.summary.id)
    }

    /// Approximate memory, in bytes.
    pub(super) fn size(&self) -> usize {
        let properties = match &self.properties {
            Properties::Readable(properties) => headers::encoded_len(properties),
            Properties::Unreadable(raw) => 3 * raw.bytes().len(),
        };
        self.body.len() + 4 * properties + 1024
    }

    /// Everything about it, for export and scripts.
    pub fn to_json(&self) -> serde_json::Value {
        let text = std::str::from_utf8(&self.body).ok();
        let lossy = self.properties.lossy();
        let properties_hex = match &self.properties {
            Properties::Readable(_) => None,
            Properties::Unreadable(raw) => Some(hex(raw.bytes())),
        };
        serde_json::json!({
            "dead_letter": self.summary,
            "response": self.response,
            "properties": properties_json(lossy),
            "headers": lossy.headers().as_ref().map(table_json),
            "properties_hex": properties_hex,
            "body": text,
            "body_hex": if text.is_none() { Some(hex(&self.body)) } else { None },
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Headers that RabbitMQ changes each time a message is browsed.
fn is_volatile(name: &str) -> bool {
    matches!(name, "x-delivery-count" | "x-acquired-count")
}

pub(super) fn fingerprint(properties: &Properties, body: &[u8]) -> String {
    let bytes = match properties {
        Properties::Readable(properties) => lasting(properties),
        Properties::Unreadable(raw) => raw.lasting(is_volatile),
    };
    let mut digest = Sha256::new();
    digest.update(&bytes);
    digest.update(body);
    format!("{:x}", digest.finalize())
}

fn lasting(properties: &BasicProperties) -> Vec<u8> {
    let mut bytes = Vec::new();
    let headers = properties.headers().iter().flat_map(|table| table.inner());
    for lasting in headers.filter(|(name, _)| !is_volatile(name.as_str())) {
        write(&mut bytes, &lasting);
    }
    write(&mut bytes, &properties.clone().with_headers(FieldTable::default()));
    bytes
}

/// Appends a value so that different values give different bytes.
fn write(bytes: &mut Vec<u8>, value: &impl Serialize) {
    if let Err(error) = serde_json::to_writer(bytes, value) {
        // Not expected: the properties contain only strings and numbers. The body still counts.
        tracing::debug!(%error, "a dead letter's id ignores one of its properties");
    }
}

/// The string and number properties by their AMQP names.
fn properties_json(properties: &BasicProperties) -> serde_json::Value {
    let text = |value: &Option<ShortString>| value.as_ref().map(|value| value.as_str().into());
    let all = [
        ("content_type", text(properties.content_type())),
        ("content_encoding", text(properties.content_encoding())),
        ("correlation_id", text(properties.correlation_id())),
        ("reply_to", text(properties.reply_to())),
        ("expiration", text(properties.expiration())),
        ("message_id", text(properties.message_id())),
        ("type", text(properties.kind())),
        ("user_id", text(properties.user_id())),
        ("app_id", text(properties.app_id())),
        ("cluster_id", text(properties.cluster_id())),
        ("delivery_mode", properties.delivery_mode().map(serde_json::Value::from)),
        ("priority", properties.priority().map(serde_json::Value::from)),
        ("timestamp", properties.timestamp().map(serde_json::Value::from)),
    ];
    let given = all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    serde_json::Value::Object(given.collect())
}

/// A header table as JSON. Bytes that are not UTF-8 become U+FFFD.
pub fn table_json(table: &FieldTable) -> serde_json::Value {
    let entries = table.inner().iter().map(|(name, value)| (name.as_str().to_owned(), value_json(value)));
    serde_json::Value::Object(entries.collect())
}

/// A header value as JSON.
pub fn value_json(value: &AMQPValue) -> serde_json::Value {
    use serde_json::Value;
    match value {
        AMQPValue::Boolean(value) => Value::from(*value),
        AMQPValue::ShortShortInt(value) => Value::from(*value),
        AMQPValue::ShortShortUInt(value) => Value::from(*value),
        AMQPValue::ShortInt(value) => Value::from(*value),
        AMQPValue::ShortUInt(value) => Value::from(*value),
        AMQPValue::LongInt(value) => Value::from(*value),
        AMQPValue::LongUInt(value) => Value::from(*value),
        AMQPValue::LongLongInt(value) => Value::from(*value),
        AMQPValue::Float(value) => Value::from(*value),
        AMQPValue::Double(value) => Value::from(*value),
        AMQPValue::DecimalValue(value) => Value::from(format!("{}e-{}", value.value, value.scale)),
        AMQPValue::ShortString(value) => Value::from(value.as_str()),
        AMQPValue::LongString(value) => Value::from(String::from_utf8_lossy(value.as_bytes())),
        AMQPValue::ByteArray(value) => Value::from(String::from_utf8_lossy(value.as_slice())),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(value_json).collect(),
        AMQPValue::Timestamp(seconds) => Value::from(*seconds),
        AMQPValue::FieldTable(table) => table_json(table),
        AMQPValue::Void => Value::Null,
    }
}

/// Whether the worker wrote this header, or it is part of the trace context.
pub fn is_known(header: &str) -> bool {
    header.starts_with("unlocker-") || header == headers::TRACEPARENT || header == headers::TRACESTATE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead_letter(headers: &[(&str, AMQPValue)], body: &[u8], nth: u32) -> DeadLetter {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        let properties = Properties::Readable(BasicProperties::default().with_headers(table));
        DeadLetter::new(properties, body.to_vec(), |properties, body| {
            DeadLetterId::new(&fingerprint(properties, body), nth)
        })
    }

    #[test]
    fn the_id_stays_the_same_however_often_the_dead_letter_was_browsed() {
        let count = |n| ("x-delivery-count", AMQPValue::LongLongInt(n));
        let (first, later) = (dead_letter(&[count(1)], b"{}", 1), dead_letter(&[count(40)], b"{}", 1));
        assert_eq!(first.summary.id, later.summary.id);
        assert_eq!(first.summary.id, dead_letter(&[], b"{}", 1).summary.id);
        assert_eq!(first.summary.id.as_str().len(), 12);
    }

    #[test]
    fn different_bytes_give_different_ids_and_identical_bytes_a_number() {
        let text = |bytes: &[u8]| ("theirs", AMQPValue::LongString(bytes.to_vec().into()));
        let a = dead_letter(&[text(b"\xff")], b"{}", 1);
        assert_ne!(a.summary.id, dead_letter(&[text(b"\xfe")], b"{}", 1).summary.id);
        assert_ne!(a.summary.id, dead_letter(&[text(b"\xff")], b"[]", 1).summary.id);
        assert_eq!(
            dead_letter(&[text(b"\xff")], b"{}", 2).summary.id.as_str(),
            format!("{}.2", a.summary.id)
        );
    }

    #[test]
    fn a_body_that_is_not_utf_8_is_exported_as_hex() {
        let json = dead_letter(&[], b"\xff\x00", 1).to_json();
        assert_eq!((&json["body"], &json["body_hex"]), (&serde_json::Value::Null, &"ff00".into()));
    }
}
