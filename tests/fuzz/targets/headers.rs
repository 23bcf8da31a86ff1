//! Headers: what RabbitMQ and others wrote, and the copies that the worker makes of them.

use lapin::{
    BasicProperties,
    protocol::basic::{gen_properties, parse_properties},
    types::{AMQPValue, FieldTable, parsing::parse_field_table},
};
use proptest::prelude::*;
use trackfinity_unlocker::{
    message::{
        DeadLetterInfo, Envelope, Flaw, History, Outcome, Properties, RetryInfo, Status, Timestamp, headers,
        outcome,
    },
    telemetry::TraceContext,
};

use super::{Bytes, Checked, text::Text};

/// A message as it was delivered, and what is said about it in its copies.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The table of headers, with its length.
    pub wire: Bytes,
    /// All other properties.
    pub properties: BasicProperties,
    pub body: String,
    pub detail: Option<String>,
    pub response: Option<String>,
    pub attempts: u32,
    pub now: Timestamp,
    /// The largest frame, in bytes.
    pub frame: usize,
}

/// Bytes with their length before them, as AMQP writes long strings, arrays and tables.
pub fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short");
    [&length.to_be_bytes()[..], bytes].concat()
}

type SetText = fn(BasicProperties, String) -> BasicProperties;

/// Sets properties that are texts of at most 255 bytes.
pub const TEXTS: [(&str, SetText); 10] = [
    ("content-type", |properties, text| properties.with_content_type(text.into())),
    ("message-id", |properties, text| properties.with_message_id(text.into())),
    ("correlation-id", |properties, text| properties.with_correlation_id(text.into())),
    ("reply-to", |properties, text| properties.with_reply_to(text.into())),
    ("expiration", |properties, text| properties.with_expiration(text.into())),
    ("user-id", |properties, text| properties.with_user_id(text.into())),
    ("content-encoding", |properties, text| properties.with_content_encoding(text.into())),
    ("type", |properties, text| properties.with_type(text.into())),
    ("app-id", |properties, text| properties.with_app_id(text.into())),
    ("cluster-id", |properties, text| properties.with_cluster_id(text.into())),
];

impl Delivered {
    fn from_text(text: &Text<'_>) -> Self {
        let mut properties = BasicProperties::default();
        for (name, with) in TEXTS {
            let given = text.owned(name).map(|text| headers::truncate(text, headers::MAX_SHORT_STRING));
            properties = given.into_iter().fold(properties, with);
        }
        let mode = text.number("delivery-mode");
        properties = mode.into_iter().fold(properties, BasicProperties::with_delivery_mode);
        let priority = text.number("priority");
        properties = priority.into_iter().fold(properties, BasicProperties::with_priority);
        let timestamp = text.number("timestamp");
        properties = timestamp.into_iter().fold(properties, BasicProperties::with_timestamp);
        Self {
            wire: Bytes(with_length(text.body)),
            properties,
            body: text.owned("body").unwrap_or_default(),
            detail: text.owned("detail"),
            response: text.owned("response"),
            attempts: text.number("attempts").unwrap_or(0),
            now: text.moment("now").unwrap_or(Timestamp::EPOCH),
            frame: [8, 16, 128].into_iter().find(|size| text.number("frame-kib") == Some(*size)).unwrap_or(8)
                * 1024,
        }
    }
}

/// Whether the tables are nested deeper than lapin reads on any stack: it reads by recursion without a limit.
fn is_too_deep(wire: &[u8]) -> bool {
    const HEADERS: [u8; 2] = [0x20, 0];
    matches!(Properties::parse(&[&HEADERS[..], wire].concat()), Properties::Unreadable(raw) if raw.flaw() == Flaw::TooDeep)
}

pub fn check_bytes(bytes: &[u8]) -> Checked {
    let input = Delivered::from_text(&Text::parse(bytes));
    if is_too_deep(&input.wire.0) { Ok(()) } else { check(input) }
}

/// Properties as lapin writes them to the wire.
fn encoded(properties: &BasicProperties) -> Vec<u8> {
    gen_properties(properties)(Vec::new().into()).expect("memory is enough").into_inner().0
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref().and_then(|headers| headers.inner().get(name))
}

fn is_brokers(name: &str) -> bool {
    ["x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC"].contains(&name)
        || ["x-first-death-", "x-last-death-"].iter().any(|prefix| name.starts_with(prefix))
}

fn check_history(table: &FieldTable) -> Checked {
    let history = History::read(Some(table));
    let whole = |name| match *table.inner().get(name)? {
        AMQPValue::ShortShortInt(n) => Some(i64::from(n)),
        AMQPValue::ShortShortUInt(n) => Some(i64::from(n)),
        AMQPValue::ShortInt(n) => Some(i64::from(n)),
        AMQPValue::ShortUInt(n) => Some(i64::from(n)),
        AMQPValue::LongInt(n) => Some(i64::from(n)),
        AMQPValue::LongUInt(n) => Some(i64::from(n)),
        AMQPValue::LongLongInt(n) => Some(n),
        _ => None,
    };
    let count = |name| whole(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    prop_assert_eq!(history.attempts, count(headers::ATTEMPTS));
    prop_assert_eq!(history.replays, count(headers::REPLAYS));
    prop_assert!(history.request_id.is_none_or(|id| !id.is_empty()));
    Ok(())
}

/// A trace context is safe as HTTP headers.
fn check_trace(trace: &TraceContext) -> Checked {
    let texts = [Some(trace.traceparent()), trace.tracestate()];
    for text in texts.into_iter().flatten() {
        let value = reqwest::header::HeaderValue::from_str(text);
        prop_assert!(value.is_ok_and(|value| value.to_str().is_ok()), "{text:?}");
    }
    let trace_id = trace.trace_id();
    prop_assert!(trace_id.len() == 32 && u128::from_str_radix(trace_id, 16).is_ok_and(|id| id > 0));
    prop_assert!(trace.traceparent().len() <= 255);
    Ok(())
}

/// Checks what a retry and a dead letter have in common.
fn check_copy(original: &BasicProperties, copy: &BasicProperties, max_len: usize) -> Checked {
    let (before, bytes) = (encoded(original), encoded(copy));
    // The first two bytes are the flags, which belong to the frame.
    prop_assert!(bytes.len() - 2 <= max_len, "{} bytes of {max_len}", bytes.len() - 2);
    let (rest, read) = parse_properties(&bytes[..]).expect("lapin reads what it wrote");
    prop_assert!(rest.is_empty());
    prop_assert!(encoded(&read) == bytes, "another message is read than was written");

    prop_assert_eq!(copy.delivery_mode(), &Some(2));
    prop_assert!(copy.expiration().is_none() && copy.user_id().is_none());
    prop_assert_eq!(copy.message_id(), original.message_id());
    prop_assert_eq!(copy.correlation_id(), original.correlation_id());
    prop_assert_eq!(copy.reply_to(), original.reply_to());
    prop_assert_eq!(copy.content_type(), original.content_type());
    prop_assert_eq!(copy.content_encoding(), original.content_encoding());
    prop_assert_eq!(copy.timestamp(), original.timestamp());
    let is_dead_letter = header(copy, headers::STATUS).is_some();
    prop_assert_eq!(*copy.priority(), original.priority().filter(|_| !is_dead_letter));
    let kept = header(copy, headers::ORIGINAL_PRIORITY).and_then(headers::count);
    prop_assert_eq!(kept, original.priority().filter(|_| is_dead_letter).map(u32::from));
    let names = copy.headers().iter().flatten().map(|(name, _)| name.as_str());
    let brokers: Vec<_> = names.filter(|name| is_brokers(name)).collect();
    prop_assert!(brokers.is_empty(), "{brokers:?}");

    let fits_whole = before.len() + 3_500 <= max_len;
    // A new trace drops the old one's state.
    let new_trace = TraceContext::from_headers(original.headers().as_ref()).is_none();
    for (name, value) in original.headers().iter().flatten() {
        let name = name.as_str();
        let replaced = name == headers::TRACEPARENT || (new_trace && name == headers::TRACESTATE);
        if is_brokers(name) || name.starts_with("unlocker-") || replaced {
            continue;
        }
        // As text, since NaN is not equal to itself.
        let unchanged = header(copy, name).map(|copied| format!("{copied:?}") == format!("{value:?}"));
        prop_assert!(unchanged.unwrap_or(!fits_whole), "{name}: {:?}", unchanged);
    }
    Ok(())
}

fn check_outcome(outcome: &Outcome, correlation_id: Option<&str>) -> Checked {
    let properties = outcome.properties(correlation_id);
    let message_id = properties.message_id().as_ref().expect("an id").as_str();
    prop_assert!((1..=255).contains(&message_id.len()));
    let replays = message_id.rsplit('/').next().and_then(|text| text.parse().ok());
    prop_assert_eq!(replays, Some(outcome.replays));
    let correlation_id = properties.correlation_id().as_ref().expect("an id").as_str();
    prop_assert!((1..=255).contains(&correlation_id.len()));
    let body: serde_json::Value = serde_json::from_slice(&outcome.encode().expect("encodes")).expect("JSON");
    prop_assert_eq!(body["request_id"].as_str(), Some(outcome.request_id.as_str()));
    let first = body["first_received_at"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    prop_assert_eq!(first, Some(outcome.first_received_at));
    Ok(())
}

pub fn check(input: Delivered) -> Checked {
    let Delivered { wire: Bytes(wire), properties, body, detail, response, attempts, now, frame } = input;
    // lapin does not deliver what it cannot read.
    let Ok((_, table)) = parse_field_table(&wire[..]) else {
        return Ok(());
    };
    check_history(&table)?;
    let original = properties.with_headers(table);
    // RabbitMQ does not deliver what does not fit into a frame.
    if encoded(&original).len() + 20 > frame {
        return Ok(());
    }
    let (max_len, body) = (frame - 4 * 1024, body.into_bytes());
    let trace = TraceContext::from_headers(original.headers().as_ref());
    trace.as_ref().map_or(Ok(()), check_trace)?;
    let new_trace = trace.is_none().then_some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");

    let taken = Envelope::decode(original.clone(), body.clone(), now, || "given".to_owned());
    prop_assert!(!taken.request_id.is_empty() && taken.first_received_at <= now);
    let (reason, http_status) = ("unexpected_reply".to_owned(), Some(200));
    let retry = RetryInfo { reason: Some(reason.clone()), detail: detail.clone(), http_status, attempts };
    let status = Status::Abandoned;
    let info = DeadLetterInfo { status, reason, detail, http_status, response, attempts, dead_at: now };
    let copy = retry.properties(&taken, new_trace, max_len);
    let dead_letter = info.properties(&taken, new_trace, max_len);
    for next in [copy, dead_letter] {
        check_copy(&original, &next, max_len)?;
        let again = Envelope::decode(next.clone(), body.clone(), Timestamp::from_millis(i64::MAX), || {
            "another".to_owned()
        });
        prop_assert_eq!((again.attempts, again.replays), (attempts, taken.replays));
        prop_assert_eq!(again.first_received_at, taken.first_received_at);
        // The largest headers are cut if all are too long, and a CloudEvent's may be among them.
        if encoded(&original).len() + 3_500 <= max_len {
            prop_assert_eq!(again.expires_at, taken.expires_at);
            prop_assert_eq!(&again.request, &taken.request);
        }
        prop_assert_eq!(again.queue_wait, None);
        // A longer id may be cut with its header. Then the digest that stands for it remains.
        prop_assert_eq!(outcome::short_id(&again.request_id), outcome::short_id(&taken.request_id));
        let twice = match header(&next, headers::STATUS) {
            // A dead letter has no priority any more.
            Some(_) if original.priority().is_some() => continue,
            Some(_) => info.properties(&again, None, max_len),
            None => retry.properties(&again, None, max_len),
        };
        prop_assert!(encoded(&twice) == encoded(&next), "a copy of the copy differs");
    }
    let outcome = Outcome {
        status,
        request_id: taken.request_id.clone(),
        request: None,
        attempts,
        http_status,
        reason: None,
        detail: None,
        replays: taken.replays,
        first_received_at: taken.first_received_at,
        finished_at: now,
        requested_by: taken.requested_by().map(str::to_owned),
    };
    check_outcome(&outcome, taken.correlation_id())
}
