//! The `unlocker-*` headers that carry a request's history, and how a message's properties are
//! copied for its next queue.

use std::{collections::BTreeMap, time::Duration};

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
/// When a pending outcome was decided.
pub const FINISHED_AT: &str = "unlocker-finished-at";
/// How often a request has come back so that its outcome is published.
pub const OUTCOME_RETRIES: &str = "unlocker-outcome-retries";
/// Proves that a worker wrote the pending outcome in the headers.
pub const OUTCOME_MAC: &str = "unlocker-outcome-mac";
/// Who asked for the request, in the headers of its outcome.
pub const REQUESTED_BY: &str = "unlocker-requested-by";
/// The producer's W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";
/// The original's `expiration`. As a property it would let the copy expire.
pub const ORIGINAL_EXPIRATION: &str = "unlocker-original-expiration";
/// The original's `priority`. As a property RabbitMQ would deliver dead letters by it.
pub const ORIGINAL_PRIORITY: &str = "unlocker-original-priority";
/// The original's `user_id`. As a property RabbitMQ accepts it only from that user's connection.
pub const ORIGINAL_USER_ID: &str = "unlocker-original-user-id";

/// AMQP's limit for a short string, in bytes.
pub const MAX_SHORT_STRING: usize = 255;
const OWN_PREFIX: &str = "unlocker-";

/// The history of a request, from its headers. Headers of the wrong type or out of range count as
/// absent.
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

/// How long a request may be tried, from its first receipt: its `expiration`, which copies carry as a
/// header. RabbitMQ accepts only milliseconds there; anything else is forged and counts as absent.
pub fn lifetime(properties: &BasicProperties) -> Option<Duration> {
    let milliseconds = match properties.expiration() {
        Some(given) => given.as_str(),
        None => properties.headers().as_ref()?.inner().get(ORIGINAL_EXPIRATION).and_then(text)?,
    };
    milliseconds.parse().ok().map(Duration::from_millis)
}

/// The user whose connection published the request: its `user_id`, which copies carry as a header.
pub fn user_id(properties: &BasicProperties) -> Option<&str> {
    let given = properties.user_id().as_ref().map(|user| user.as_str());
    given
        .or_else(|| properties.headers().as_ref()?.inner().get(ORIGINAL_USER_ID).and_then(text))
        .filter(|id| fits(id))
}

/// Whether a worker can have written this text as an id.
fn fits(text: &str) -> bool {
    (1..=MAX_SHORT_STRING).contains(&text.len())
}

/// The text of a header, if it is a string in UTF-8.
pub fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        AMQPValue::ByteArray(bytes) => std::str::from_utf8(bytes.as_slice()).ok(),
        _ => None,
    }
}

/// The value of a header that counts, of any integer type.
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

/// How often RabbitMQ has delivered a message before, and it was not settled. Only on a redelivery `x-delivery-count` is
/// RabbitMQ's own; otherwise the sender wrote it, or a shovel copied it. RabbitMQ from 4.0 on may go on counting when it
/// has moved the message from another queue.
pub fn redeliveries(redelivered: bool, headers: Option<&FieldTable>) -> u32 {
    let count = headers.filter(|_| redelivered).and_then(|headers| headers.inner().get("x-delivery-count"));
    count.and_then(self::count).unwrap_or_default()
}

/// The headers that a copy gets.
#[derive(Clone, Debug, Default)]
pub struct AddedHeaders {
    /// The next reader needs them. They are never cut.
    required: Vec<(&'static str, AMQPValue)>,
    /// Useful for people. If the headers are too long, these are cut, the last one first.
    optional: Vec<(&'static str, String)>,
}

impl AddedHeaders {
    pub fn count(&mut self, name: &'static str, value: u32) {
        self.required.push((name, AMQPValue::LongLongInt(value.into())));
    }

    pub fn required(&mut self, name: &'static str, value: impl Into<String>) {
        self.required.push((name, AMQPValue::LongString(value.into().into())));
    }

    pub fn optional(&mut self, name: &'static str, value: impl Into<String>) {
        self.optional.push((name, value.into()));
    }

    /// All headers, none cut.
    pub fn into_headers(self) -> Vec<(&'static str, AMQPValue)> {
        let texts = self.optional.into_iter().map(|(name, text)| (name, AMQPValue::LongString(text.into())));
        self.required.into_iter().chain(texts).collect()
    }
}

/// Copies a message's properties for its next queue. The copy is persistent, keeps the producer's
/// headers and gets the headers in `added`. These are left out, because RabbitMQ would act on them
/// again:
///
/// - RabbitMQ's own headers (`x-death` and similar): with them, RabbitMQ before 4.0.1 drops a message
///   that reaches a queue for the second time;
/// - `CC` and `BCC`, which would route the copy to more queues;
/// - `expiration`, which would let the copy expire, and `user_id`, which RabbitMQ refuses from
///   another user's connection. Both are kept as headers.
///
/// The result has at most `max_len` bytes: the optional headers are cut first. If the required ones
/// still do not fit, the producer's largest headers are left out.
pub fn copy_for_next_queue(
    properties: &BasicProperties,
    added: AddedHeaders,
    max_len: usize,
) -> BasicProperties {
    copy(properties, *properties.priority(), added, max_len)
}

/// Copies a message's properties for the dead letters, like [`copy_for_next_queue`], but without the
/// priority: dead letters are ordered by age. It is kept as a header.
pub fn copy_for_dead_letters(
    properties: &BasicProperties,
    mut added: AddedHeaders,
    max_len: usize,
) -> BasicProperties {
    if let Some(priority) = *properties.priority() {
        added.count(ORIGINAL_PRIORITY, priority.into());
    }
    copy(properties, None, added, max_len)
}

/// Copies properties for the request that a dead letter becomes again, like [`copy_for_next_queue`],
/// with the priority that it had.
pub fn copy_for_replay(properties: &BasicProperties, added: AddedHeaders, max_len: usize) -> BasicProperties {
    let kept = properties.headers().as_ref().and_then(|headers| headers.inner().get(ORIGINAL_PRIORITY));
    let kept = kept.and_then(count).and_then(|priority| priority.try_into().ok());
    copy(properties, properties.priority().or(kept), added, max_len)
}

fn copy(
    properties: &BasicProperties,
    priority: Option<u8>,
    added: AddedHeaders,
    max_len: usize,
) -> BasicProperties {
    let mut required = added.required;
    keep_original(&mut required, ORIGINAL_EXPIRATION, properties, properties.expiration().as_ref());
    keep_original(&mut required, ORIGINAL_USER_ID, properties, properties.user_id().as_ref());
    let mut headers: BTreeMap<ShortString, AMQPValue> = BTreeMap::new();
    for (name, value) in properties.headers().iter().flatten() {
        // The old trace's state does not belong to the new trace.
        let replaced = required
            .iter()
            .any(|(own, _)| *own == name.as_str() || (*own == TRACEPARENT && name.as_str() == TRACESTATE));
        if !replaced && !is_left_out(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }

    let bare = without_headers(properties, priority);
    let required_len: usize = required.iter().map(|(name, value)| 1 + name.len() + value_len(value)).sum();
    let mut left = max_len.saturating_sub(short_strings_len(&bare) + 4 + required_len);

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

    for (name, value) in required {
        headers.insert(name.into(), value);
    }
    for (name, value) in added.optional {
        let overhead = 1 + name.len() + 5;
        let value = truncate(value, left.saturating_sub(overhead));
        if !value.is_empty() {
            left -= overhead + value.len();
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
    }
    bare.with_headers(FieldTable::from(headers)).with_delivery_mode(2)
}

/// The properties without the headers that RabbitMQ added when it dead-lettered the message, and
/// without what it would act on again.
pub fn without_brokers(properties: &BasicProperties) -> BasicProperties {
    let headers = properties.headers().iter().flatten();
    let headers: BTreeMap<ShortString, AMQPValue> = headers
        .filter(|(name, _)| !is_brokers(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let bare = without_headers(properties, *properties.priority());
    bare.with_headers(FieldTable::from(headers)).with_delivery_mode(2)
}

/// Bytes of a message's properties with their headers, in AMQP 0-9-1's encoding; a few too many.
pub fn encoded_len(properties: &BasicProperties) -> usize {
    let headers = properties.headers().iter().flatten();
    short_strings_len(properties) + 4 + headers.map(|(name, value)| entry_len(name, value)).sum::<usize>()
}

/// Whether a header is one of the worker's.
pub fn is_own(name: &str) -> bool {
    name.starts_with(OWN_PREFIX)
}

/// Cuts a text to at most `limit` bytes, between two characters.
pub fn truncate(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

/// Whether copies leave out the header of that name: RabbitMQ wrote it, or only this program may
/// write it.
pub fn is_left_out(name: &str) -> bool {
    is_brokers(name) || name.starts_with(OWN_PREFIX)
}

fn is_brokers(name: &str) -> bool {
    matches!(name, "x-death" | "x-delivery-count" | "x-acquired-count" | "CC" | "BCC")
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

fn keep_original(
    required: &mut Vec<(&'static str, AMQPValue)>,
    name: &'static str,
    properties: &BasicProperties,
    given: Option<&ShortString>,
) {
    let carried = properties.headers().as_ref().and_then(|headers| headers.inner().get(name));
    let value = given.map(|given| AMQPValue::LongString(given.as_str().into())).or_else(|| {
        // A longer one cannot have been a short string, so it is forged.
        let carried = carried.and_then(text).filter(|carried| carried.len() <= MAX_SHORT_STRING);
        carried.map(|carried| AMQPValue::LongString(carried.into()))
    });
    required.extend(value.map(|value| (name, value)));
}

fn without_headers(properties: &BasicProperties, priority: Option<u8>) -> BasicProperties {
    let mut bare = BasicProperties::default();
    if let Some(priority) = priority {
        bare = bare.with_priority(priority);
    }
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

/// Bytes of the properties without their headers, in AMQP 0-9-1's encoding; a few too many.
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

/// Bytes of a value with its type tag, in AMQP 0-9-1's encoding.
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
