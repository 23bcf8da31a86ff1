//! A dead letter as it was found.

use std::{fmt, sync::Arc};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{
    message::{DeadLetterHeaders, DeadLetterStatus, Envelope, Properties, Timestamp, headers},
    telemetry::TraceContext,
};

/// Hex digits of a fingerprint that make an id: among 60,000 letters two share them by chance once
/// in 150,000 times, and then the second one has a number behind it.
const ID_DIGITS: usize = 12;

/// What tells a letter from all others: the beginning of a SHA-256 of its properties and body.
/// Letters that are the same in every byte are numbered: `0123456789ab`, `0123456789ab.2`, ….
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String)]
pub struct LetterId(Arc<str>);

impl LetterId {
    /// The id of the letter with this fingerprint, the `nth` with it, counted from one.
    pub(super) fn new(fingerprint: &str, nth: u32) -> Self {
        let digits = fingerprint.get(..ID_DIGITS).unwrap_or(fingerprint);
        Self(match nth {
            0 | 1 => digits.into(),
            nth => format!("{digits}.{nth}").into(),
        })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the number that tells letters apart which are the same in every byte.
    pub(super) fn digits(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }
}

impl From<&str> for LetterId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for LetterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// What there is to be known of a letter without its body and headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Brief {
    pub id: LetterId,
    /// By which the request is known everywhere; null where the message has none.
    pub request_id: Option<String>,
    pub status: DeadLetterStatus,
    pub reason: Option<String>,
    /// The reason in words, with the beginning of what Trackfinity said.
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

/// A letter with everything it holds.
#[derive(Clone, Debug)]
pub struct Letter {
    pub brief: Brief,
    /// The beginning of Trackfinity's answer.
    pub response: Option<String>,
    pub properties: Properties,
    pub body: Vec<u8>,
}

impl Letter {
    /// `name` gives the letter its id.
    pub(super) fn open(
        properties: Properties,
        body: Vec<u8>,
        name: impl FnOnce(&Properties, &[u8]) -> LetterId,
    ) -> Self {
        let id = name(&properties, &body);
        let record = DeadLetterHeaders::from_properties(&properties);
        let trace = TraceContext::from_headers(properties.lossy().headers().as_ref());
        let brief = Brief {
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
        Self { brief, response: record.response, properties, body }
    }

    /// The letter as the worker would open it, if it can be read. One without any id of its own gets
    /// one that is always the same, so that a replay that was interrupted and repeated can be told
    /// by it.
    pub(super) fn envelope(&self) -> Option<Envelope> {
        match &self.properties {
            Properties::Readable(properties) => {
                let body = self.body.clone();
                Some(Envelope::decode(properties.clone(), body, Timestamp::now(), || self.derived_id()))
            }
            Properties::Unreadable(_) => None,
        }
    }

    /// By which the request is known, also where nothing in the message says so.
    pub(super) fn request_id(&self) -> String {
        self.brief.request_id.clone().unwrap_or_else(|| self.derived_id())
    }

    fn derived_id(&self) -> String {
        format!("letter-{}", self.brief.id)
    }

    /// Bytes of memory, about.
    pub(super) fn size(&self) -> usize {
        let properties = match &self.properties {
            Properties::Readable(properties) => headers::encoded_len(properties),
            Properties::Unreadable(raw) => 3 * raw.bytes().len(),
        };
        self.body.len() + 4 * properties + 1024
    }

    /// Everything, for export and for scripts.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let text = std::str::from_utf8(&self.body).ok();
        let lossy = self.properties.lossy();
        let properties_hex = match &self.properties {
            Properties::Readable(_) => None,
            Properties::Unreadable(raw) => Some(hex(raw.bytes())),
        };
        serde_json::json!({
            "letter": self.brief,
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

/// Headers that RabbitMQ counts up with each look at a message.
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

/// Appends a value in a form that tells it from all others.
fn write(bytes: &mut Vec<u8>, value: &impl Serialize) {
    if let Err(error) = serde_json::to_writer(bytes, value) {
        // They hold nothing that could not be written; and the letter would still differ by its body.
        tracing::debug!(%error, "a letter's id does not tell all of its properties");
    }
}

/// The properties that are texts and numbers, by their names in AMQP.
fn properties_json(properties: &BasicProperties) -> serde_json::Value {
    let mut all = serde_json::Map::new();
    let texts = [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("expiration", properties.expiration()),
        ("message_id", properties.message_id()),
        ("type", properties.kind()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
        ("cluster_id", properties.cluster_id()),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            all.insert(name.to_owned(), value.as_str().into());
        }
    }
    let numbers = [
        ("delivery_mode", properties.delivery_mode().map(u64::from)),
        ("priority", properties.priority().map(u64::from)),
        ("timestamp", *properties.timestamp()),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            all.insert(name.to_owned(), value.into());
        }
    }
    all.into()
}

/// A table of headers, for people and scripts. Texts that are not UTF-8 get U+FFFD.
#[must_use]
pub fn table_json(table: &FieldTable) -> serde_json::Value {
    let entries = table.inner().iter().map(|(name, value)| (name.as_str().to_owned(), value_json(value)));
    serde_json::Value::Object(entries.collect())
}

/// A header's value, for people and scripts.
#[must_use]
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

/// The trace context's headers, and the worker's own: what a reader knows already.
#[must_use]
pub fn is_known(header: &str) -> bool {
    header.starts_with("unlocker-") || header == headers::TRACEPARENT || header == headers::TRACESTATE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(headers: &[(&str, AMQPValue)], body: &[u8], nth: u32) -> Letter {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        let properties = Properties::Readable(BasicProperties::default().with_headers(table));
        Letter::open(properties, body.to_vec(), |properties, body| {
            LetterId::new(&fingerprint(properties, body), nth)
        })
    }

    #[test]
    fn the_id_stays_however_often_the_letter_was_looked_at() {
        let count = |n| ("x-delivery-count", AMQPValue::LongLongInt(n));
        let (first, later) = (letter(&[count(1)], b"{}", 1), letter(&[count(40)], b"{}", 1));
        assert_eq!(first.brief.id, later.brief.id);
        assert_eq!(first.brief.id, letter(&[], b"{}", 1).brief.id);
        assert_eq!(first.brief.id.as_str().len(), 12);
    }

    #[test]
    fn other_bytes_make_another_id_and_the_same_ones_a_number() {
        let text = |bytes: &[u8]| ("theirs", AMQPValue::LongString(bytes.to_vec().into()));
        let a = letter(&[text(b"\xff")], b"{}", 1);
        assert_ne!(a.brief.id, letter(&[text(b"\xfe")], b"{}", 1).brief.id);
        assert_ne!(a.brief.id, letter(&[text(b"\xff")], b"[]", 1).brief.id);
        assert_eq!(letter(&[text(b"\xff")], b"{}", 2).brief.id.as_str(), format!("{}.2", a.brief.id));
    }

    #[test]
    fn what_is_not_text_is_exported_as_hex() {
        let json = letter(&[], b"\xff\x00", 1).to_json();
        assert_eq!((&json["body"], &json["body_hex"]), (&serde_json::Value::Null, &"ff00".into()));
    }
}
