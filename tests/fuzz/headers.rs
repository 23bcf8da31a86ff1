//! Headers: what RabbitMQ and others wrote, and the copies that the worker makes of them.

use std::io::Cursor;

use lapin::{
    BasicProperties,
    protocol::basic::{gen_properties, parse_properties},
    types::{AMQPValue, FieldTable, parsing::parse_field_table},
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use trackfinity_unlocker::{
    message::{DeadLetterInfo, Envelope, History, Outcome, RetryInfo, Status, Timestamp, headers, outcome},
    telemetry::TraceContext,
};

use super::{
    Bytes, Checked,
    answers::any_moment,
    fuzz, like, maybe_changed,
    requests::{any_content_type, json_like},
};

/// Bytes with their length before them, as AMQP writes long strings, arrays and tables.
fn with_length(bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short");
    [length.to_be_bytes().to_vec(), bytes].concat()
}

fn tagged(tag: u8, bytes: Vec<u8>) -> Vec<u8> {
    [vec![tag], bytes].concat()
}

fn any_header_text() -> impl Strategy<Value = Vec<u8>> {
    let parent = (any::<bool>(), any::<u128>(), any::<u64>(), any::<u8>(), like("(-[ -~]{0,4})?"));
    let parent = parent.prop_map(|(later, trace, span, flags, rest)| {
        let version = u8::from(later);
        format!("{version:02x}-{trace:032x}-{span:016x}-{flags:02x}{rest}")
    });
    let text = prop_oneof![
        like("[0-9]{1,12}"),
        parent,
        like(
            "-?[0-9]{4,6}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|\\+0[0-9]:00)"
        ),
        Just("-009999-01-02T01:59:59Z".to_owned()),
        Just("9999-12-30T22:00:00.999999999Z".to_owned()),
        like("[a-z]=[ -~]{0,20}"),
        like("\\PC{0,40}"),
        like("(?s:.){0,20}"),
    ];
    let long = (select(vec![b'x', 0, 0xff]), 0..8_000_usize).prop_map(|(byte, length)| vec![byte; length]);
    prop_oneof![6 => text.prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..40), 2 => long]
}

/// The bytes of a header's value of any type.
fn any_wire_value() -> impl Strategy<Value = Vec<u8>> {
    let sizes = vec![
        (b't', 1),
        (b'b', 1),
        (b'B', 1),
        (b's', 2),
        (b'U', 2),
        (b'u', 2),
        (b'I', 4),
        (b'i', 4),
        (b'l', 8),
        (b'L', 8),
        (b'f', 4),
        (b'd', 8),
        (b'D', 5),
        (b'T', 8),
        (b'V', 0),
    ];
    let fixed = (select(sizes), any::<[u8; 8]>(), any::<bool>()).prop_map(|((tag, size), bytes, small)| {
        let bytes = if small { [0, 0, 0, 0, 0, 0, 0, bytes[7] % 20] } else { bytes };
        tagged(tag, bytes[8 - size..].to_vec())
    });
    let text =
        (select(vec![b'S', b'x']), any_header_text()).prop_map(|(tag, text)| tagged(tag, with_length(text)));
    prop_oneof![1 => fixed, 2 => text].prop_recursive(4, 16, 4, |inner| {
        let entries = vec((like("[a-z]{0,5}"), inner.clone()), 0..4);
        prop_oneof![
            vec(inner, 0..4).prop_map(|values| tagged(b'A', with_length(values.concat()))),
            entries.prop_map(|entries| tagged(b'F', wire_table(entries))),
        ]
    })
}

fn wire_table(entries: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let entry = |(name, value): (String, Vec<u8>)| {
        [vec![u8::try_from(name.len()).expect("short")], name.into_bytes(), value].concat()
    };
    with_length(entries.into_iter().flat_map(entry).collect())
}

fn any_wire_headers() -> impl Strategy<Value = Bytes> {
    let own = vec![
        headers::STATUS,
        headers::REASON,
        headers::DETAIL,
        headers::ATTEMPTS,
        headers::REPLAYS,
        headers::FIRST_RECEIVED_AT,
        headers::REQUEST_ID,
        headers::TRACEPARENT,
        headers::TRACESTATE,
        headers::ORIGINAL_EXPIRATION,
        headers::ORIGINAL_USER_ID,
    ];
    let brokers =
        vec!["x-death", "x-first-death-queue", "x-last-death-reason", "x-delivery-count", "CC", "BCC"];
    let name = prop_oneof![
        5 => select(own).prop_map(str::to_owned),
        1 => select(brokers).prop_map(str::to_owned),
        1 => select(vec!["ce-id", "CE-expirytime", "cloudEvents:id", "cloudEvents_expirytime", "compression", "timestamp_in_ms"])
            .prop_map(str::to_owned),
        2 => like("[a-z-]{0,12}"),
        1 => (100..128_usize).prop_map(|length| "é".repeat(length)).prop_filter("too long", |name| name.len() <= 255),
    ];
    maybe_changed(vec((name, any_wire_value()), 0..10).prop_map(wire_table)).prop_map(Bytes)
}

fn any_properties() -> impl Strategy<Value = BasicProperties> {
    let short =
        prop_oneof![4 => like("\\PC{0,30}"), 1 => (200..256_usize).prop_map(|length| "x".repeat(length))];
    let short = short.prop_map(|text| headers::truncate(text, 255));
    let texts = vec(option::of(short), 9);
    let numbers = (option::of(any::<u8>()), option::of(any::<u8>()), option::of(any::<u64>()));
    (any_content_type(), texts, numbers).prop_map(|(content_type, texts, (mode, priority, timestamp))| {
        let mut properties = BasicProperties::default();
        let with: [fn(BasicProperties, String) -> BasicProperties; 9] = [
            |properties, text| properties.with_message_id(text.into()),
            |properties, text| properties.with_correlation_id(text.into()),
            |properties, text| properties.with_reply_to(text.into()),
            |properties, text| properties.with_expiration(text.into()),
            |properties, text| properties.with_user_id(text.into()),
            |properties, text| properties.with_content_encoding(text.into()),
            |properties, text| properties.with_type(text.into()),
            |properties, text| properties.with_app_id(text.into()),
            |properties, text| properties.with_cluster_id(text.into()),
        ];
        for (with, text) in with.into_iter().zip(texts) {
            properties = text.into_iter().fold(properties, with);
        }
        let content_type = content_type.map(|text| headers::truncate(text, 255));
        properties =
            content_type.into_iter().fold(properties, |all, text| all.with_content_type(text.into()));
        properties = mode.into_iter().fold(properties, BasicProperties::with_delivery_mode);
        properties = priority.into_iter().fold(properties, BasicProperties::with_priority);
        timestamp.into_iter().fold(properties, BasicProperties::with_timestamp)
    })
}

/// Properties as lapin writes them to the wire.
fn encoded(properties: &BasicProperties) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    let to = Cursor::new(&mut buffer[..]).into();
    let end = gen_properties::<Cursor<&mut [u8]>>(properties)(to).expect("a mebibyte is enough").position;
    buffer.truncate(usize::try_from(end).expect("short"));
    buffer
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref().and_then(|headers| headers.inner().get(name))
}

fn is_brokers(name: &str) -> bool {
    ["x-death", "x-first-death-", "x-last-death-", "x-delivery-count"]
        .iter()
        .any(|known| name.starts_with(known))
        || ["CC", "BCC"].contains(&name)
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

#[test]
fn any_headers_are_read_and_their_copies_fit_and_read_the_same() {
    let texts = (option::of(any_header_text()), option::of(any_header_text()));
    let texts = texts.prop_map(|(detail, response)| {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (detail.map(text), response.map(text))
    });
    let frame = select(vec![8 * 1024, 16 * 1024, 128 * 1024_usize]);
    let inputs = (any_wire_headers(), any_properties(), json_like(), texts, 0..100_u32, any_moment(), frame);
    fuzz("headers", inputs, |(Bytes(wire), properties, body, (detail, response), attempts, now, frame)| {
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
            let again =
                Envelope::decode(next.clone(), body.clone(), Timestamp::from_millis(i64::MAX), || {
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
    });
}
