//! Headers: what RabbitMQ and others wrote, and the copies that the worker makes of them.

use lapin::BasicProperties;
use proptest::{collection::vec, option, prelude::*, sample::select};
use trackfinity_unlocker::message::headers;

use super::{
    answers::any_moment,
    fuzz, like, maybe_changed,
    requests::{any_content_type, json_like},
    targets::{
        Bytes,
        headers::{Delivered, TEXTS, check, with_length},
    },
};

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
        (select(vec![b'S', b'x']), any_header_text()).prop_map(|(tag, text)| tagged(tag, with_length(&text)));
    prop_oneof![1 => fixed, 2 => text].prop_recursive(4, 16, 4, |inner| {
        let entries = vec((like("[a-z]{0,5}"), inner.clone()), 0..4);
        prop_oneof![
            vec(inner, 0..4).prop_map(|values| tagged(b'A', with_length(&values.concat()))),
            entries.prop_map(|entries| tagged(b'F', wire_table(entries))),
        ]
    })
}

fn wire_table(entries: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let entry = |(name, value): (String, Vec<u8>)| {
        [vec![u8::try_from(name.len()).expect("short")], name.into_bytes(), value].concat()
    };
    let entries: Vec<u8> = entries.into_iter().flat_map(entry).collect();
    with_length(&entries)
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
    let texts = vec(option::of(short), TEXTS.len() - 1);
    let numbers = (option::of(any::<u8>()), option::of(any::<u8>()), option::of(any::<u64>()));
    (any_content_type(), texts, numbers).prop_map(|(content_type, texts, (mode, priority, timestamp))| {
        let mut properties = BasicProperties::default();
        let content_type = content_type.map(|text| headers::truncate(text, 255));
        for ((_, with), text) in TEXTS.into_iter().zip([content_type].into_iter().chain(texts)) {
            properties = text.into_iter().fold(properties, with);
        }
        properties = mode.into_iter().fold(properties, BasicProperties::with_delivery_mode);
        properties = priority.into_iter().fold(properties, BasicProperties::with_priority);
        timestamp.into_iter().fold(properties, BasicProperties::with_timestamp)
    })
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
    let inputs = inputs.prop_map(|(wire, properties, body, (detail, response), attempts, now, frame)| {
        Delivered { wire, properties, body, detail, response, attempts, now, frame }
    });
    fuzz("headers", inputs, check);
}
