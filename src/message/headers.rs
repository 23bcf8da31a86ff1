//! The flat `unlocker-*` headers that carry a request's history, and the copying of a message's
//! properties to the next message with them.

use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::Timestamp;

pub const STATUS: &str = "unlocker-status";
pub const REASON: &str = "unlocker-reason";
pub const DETAIL: &str = "unlocker-detail";
pub const HTTP_STATUS: &str = "unlocker-http-status";
pub const RESPONSE: &str = "unlocker-response";
pub const ATTEMPTS: &str = "unlocker-attempts";
pub const REPLAYS: &str = "unlocker-replays";
pub const FIRST_RECEIVED_AT: &str = "unlocker-first-received-at";
pub const DEAD_AT: &str = "unlocker-dead-at";
pub const REQUEST_ID: &str = "unlocker-request-id";
/// When an outcome was decided that is still to be published.
pub const FINISHED_AT: &str = "unlocker-finished-at";
/// How often a request has come back to have its outcome published.
pub const OUTCOME_RETRIES: &str = "unlocker-outcome-retries";
/// Proves that a worker wrote the outcome into the headers.
pub const OUTCOME_MAC: &str = "unlocker-outcome-mac";
/// W3C trace context, as the producer gave it.
pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";
/// The original's `expiration`, which would make the broker drop the copy.
pub const ORIGINAL_EXPIRATION: &str = "unlocker-original-expiration";
/// The original's `user_id`, which the broker accepts from that user's own connection alone.
pub const ORIGINAL_USER_ID: &str = "unlocker-original-user-id";

/// AMQP's limit for a short string, in bytes.
pub const MAX_SHORT_STRING: usize = 255;
const OWN_PREFIX: &str = "unlocker-";

/// What a request's headers tell of its past. Headers of the wrong type or out of range are
/// ignored, as if they were not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Calls that counted as attempts so far.
    pub attempts: u32,
    /// Replays from the dead letters so far.
    pub replays: u32,
    pub first_received_at: Option<Timestamp>,
    /// The id given to a message that came without one.
    pub request_id: Option<String>,
}

impl History {
    /// Reads the history from a message's headers.
    #[must_use]
    pub fn read(headers: Option<&FieldTable>) -> Self {
        let get = |name| headers.and_then(|headers| headers.inner().get(name));
        Self {
            attempts: get(ATTEMPTS).and_then(count).unwrap_or(0),
            replays: get(REPLAYS).and_then(count).unwrap_or(0),
            first_received_at: get(FIRST_RECEIVED_AT).and_then(text).and_then(|at| at.parse().ok()),
            request_id: get(REQUEST_ID).and_then(text).filter(|id| fits(id)).map(str::to_owned),
        }
    }
}

/// Whether a text can be an id that was stamped.
fn fits(text: &str) -> bool {
    (1..=MAX_SHORT_STRING).contains(&text.len())
}

/// The text of a string header, if it is one and is UTF-8.
#[must_use]
pub fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        AMQPValue::ByteArray(bytes) => std::str::from_utf8(bytes.as_slice()).ok(),
        _ => None,
    }
}

/// The value of a header that counts, whatever integer type it has.
#[must_use]
pub fn count(value: &AMQPValue) -> Option<u32> {
    match *value {
        AMQPValue::ShortShortInt(n) => n.try_into().ok(),
        AMQPValue::ShortShortUInt(n) => Some(n.into()),
        AMQPValue::ShortInt(n) => n.try_into().ok(),
        AMQPValue::ShortUInt(n) => Some(n.into()),
        AMQPValue::LongInt(n) => n.try_into().ok(),
        AMQPValue::LongUInt(n) => Some(n),
        AMQPValue::LongLongInt(n) => n.try_into().ok(),
        _ => None,
    }
}

/// The headers a copy is stamped with.
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    /// What the next reader cannot do without; never cut.
    facts: Vec<(&'static str, AMQPValue)>,
    /// What is good to know; cut, the last one first, where the headers would not fit.
    texts: Vec<(&'static str, String)>,
}

impl Stamp {
    pub fn count(&mut self, name: &'static str, value: u32) {
        self.facts.push((name, AMQPValue::LongLongInt(value.into())));
    }

    pub fn fact(&mut self, name: &'static str, value: impl Into<String>) {
        self.facts.push((name, AMQPValue::LongString(value.into().into())));
    }

    pub fn text(&mut self, name: &'static str, value: impl Into<String>) {
        self.texts.push((name, value.into()));
    }

    /// All of them, as headers.
    #[must_use]
    pub fn into_headers(self) -> Vec<(&'static str, AMQPValue)> {
        let texts = self.texts.into_iter().map(|(name, text)| (name, AMQPValue::LongString(text.into())));
        self.facts.into_iter().chain(texts).collect()
    }
}

/// Copies a message's properties for its next queue: persistent, the producer's own headers
/// unchanged, `stamp` added, and without what the broker would act upon once more:
///
/// - headers of the broker (`x-death` and its kin), with which RabbitMQ before 4.0.1 drops a
///   message that comes round again;
/// - `CC` and `BCC`, which would route the copy to further queues;
/// - `expiration`, which would let the copy expire, and `user_id`, which the broker refuses from
///   another user's connection: both are kept as headers.
///
/// The result takes at most `room` bytes: first the stamp's texts are cut, then, where even its
/// facts would not fit, the producer's largest headers.
#[must_use]
pub fn succeed(properties: &BasicProperties, stamp: Stamp, room: usize) -> BasicProperties {
    let mut facts = stamp.facts;
    keep_original(&mut facts, ORIGINAL_EXPIRATION, properties, properties.expiration().as_ref());
    keep_original(&mut facts, ORIGINAL_USER_ID, properties, properties.user_id().as_ref());
    let mut headers: BTreeMap<ShortString, AMQPValue> = BTreeMap::new();
    for (name, value) in properties.headers().iter().flatten() {
        // A new trace has no use for the old one's state.
        let replaced = facts
            .iter()
            .any(|(fact, _)| *fact == name.as_str() || (*fact == TRACEPARENT && name.as_str() == TRACESTATE));
        if !replaced && !is_left_out(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }

    let bare = without_headers(properties);
    let facts_len: usize = facts.iter().map(|(name, value)| 1 + name.len() + value_len(value)).sum();
    let mut left = room.saturating_sub(short_strings_len(&bare) + 4 + facts_len);

    let mut foreign_len: usize = headers.iter().map(|(name, value)| entry_len(name, value)).sum();
    while foreign_len > left {
        let largest = headers.iter().max_by_key(|(name, value)| entry_len(name, value));
        let Some(name) = largest.map(|(name, _)| name.clone()) else {
            break;
        };
        if let Some(value) = headers.remove(name.as_str()) {
            foreign_len -= entry_len(&name, &value);
        }
    }
    left -= foreign_len.min(left);

    for (name, value) in facts {
        headers.insert(name.into(), value);
    }
    for (name, value) in stamp.texts {
        let overhead = 1 + name.len() + 5;
        let value = truncate(value, left.saturating_sub(overhead));
        if !value.is_empty() {
            left -= overhead + value.len();
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
    }
    bare.with_headers(FieldTable::from(headers)).with_delivery_mode(2)
}

/// The properties as they were before RabbitMQ dead-lettered the message: without the headers that it
/// added, and without what it would act upon once more.
#[must_use]
pub fn without_brokers(properties: &BasicProperties) -> BasicProperties {
    let headers = properties.headers().iter().flatten();
    let headers: BTreeMap<ShortString, AMQPValue> = headers
        .filter(|(name, _)| !is_brokers(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    without_headers(properties).with_headers(FieldTable::from(headers)).with_delivery_mode(2)
}

/// Bytes of a message's properties, headers included, by AMQP 0-9-1's encoding; a little too many.
#[must_use]
pub fn encoded_len(properties: &BasicProperties) -> usize {
    let headers = properties.headers().iter().flatten();
    short_strings_len(properties) + 4 + headers.map(|(name, value)| entry_len(name, value)).sum::<usize>()
}

/// Whether a header is one of the worker's.
#[must_use]
pub fn is_own(name: &str) -> bool {
    name.starts_with(OWN_PREFIX)
}

/// Cuts a text to at most `limit` bytes, at a character's boundary.
#[must_use]
pub fn truncate(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

/// Whether a message's copy goes on without the header of that name: one of the broker, or one that
/// only this program writes.
#[must_use]
pub fn is_left_out(name: &str) -> bool {
    is_brokers(name) || name.starts_with(OWN_PREFIX)
}

fn is_brokers(name: &str) -> bool {
    matches!(name, "x-death" | "x-delivery-count" | "x-acquired-count" | "CC" | "BCC")
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

fn keep_original(
    facts: &mut Vec<(&'static str, AMQPValue)>,
    name: &'static str,
    properties: &BasicProperties,
    given: Option<&ShortString>,
) {
    let carried = properties.headers().as_ref().and_then(|headers| headers.inner().get(name));
    let value = given.map(|given| AMQPValue::LongString(given.as_str().into())).or_else(|| {
        // A longer one was never a short string, and so is forged.
        let carried = carried.and_then(text).filter(|carried| carried.len() <= MAX_SHORT_STRING);
        carried.map(|carried| AMQPValue::LongString(carried.into()))
    });
    facts.extend(value.map(|value| (name, value)));
}

fn without_headers(properties: &BasicProperties) -> BasicProperties {
    let mut bare = BasicProperties::default();
    macro_rules! carry {
        ($($get:ident => $with:ident),* $(,)?) => {
            $(if let Some(value) = properties.$get() {
                bare = bare.$with(value.clone());
            })*
        };
    }
    carry! {
        content_type => with_content_type,
        content_encoding => with_content_encoding,
        priority => with_priority,
        correlation_id => with_correlation_id,
        reply_to => with_reply_to,
        message_id => with_message_id,
        timestamp => with_timestamp,
        kind => with_type,
        app_id => with_app_id,
        cluster_id => with_cluster_id,
    }
    bare
}

/// Bytes of the properties but for their headers, by AMQP 0-9-1's encoding; a little too many.
fn short_strings_len(properties: &BasicProperties) -> usize {
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.message_id(),
        properties.kind(),
        properties.app_id(),
        properties.cluster_id(),
        properties.expiration(),
        properties.user_id(),
    ];
    let texts: usize = texts.into_iter().flatten().map(|text| 1 + text.as_str().len()).sum();
    texts + 1 + 1 + 8
}

fn entry_len(name: &ShortString, value: &AMQPValue) -> usize {
    1 + name.as_str().len() + value_len(value)
}

/// Bytes of a value with its type's tag, by AMQP 0-9-1's encoding.
fn value_len(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(array) => 4 + array.as_slice().iter().map(value_len).sum::<usize>(),
        AMQPValue::FieldTable(table) => {
            4 + table.into_iter().map(|(name, value)| entry_len(name, value)).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests;
