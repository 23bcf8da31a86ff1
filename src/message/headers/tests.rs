use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame};
use lapin::types::DecimalValue;
use proptest::prelude::*;

use super::*;

const MAX_LEN: usize = 4096;

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let entries = entries.into_iter().map(|(name, value)| (name.into(), value));
    FieldTable::from(entries.collect::<BTreeMap<ShortString, AMQPValue>>())
}

fn long(text: impl Into<Vec<u8>>) -> AMQPValue {
    AMQPValue::LongString(text.into().into())
}

fn properties(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> BasicProperties {
    BasicProperties::default().with_headers(table(entries))
}

fn header(properties: &BasicProperties, name: &str) -> Option<AMQPValue> {
    properties.headers().as_ref().and_then(|headers| headers.inner().get(name).cloned())
}

fn added() -> AddedHeaders {
    let mut added = AddedHeaders::default();
    added.count(ATTEMPTS, 3);
    added.optional(DETAIL, "d".repeat(500));
    added.optional(RESPONSE, "r".repeat(1024));
    added
}

#[test]
fn a_history_is_read_from_any_integer_type() {
    for value in [
        AMQPValue::ShortShortInt(7),
        AMQPValue::ShortShortUInt(7),
        AMQPValue::ShortInt(7),
        AMQPValue::ShortUInt(7),
        AMQPValue::LongInt(7),
        AMQPValue::LongUInt(7),
        AMQPValue::LongLongInt(7),
    ] {
        assert_eq!(History::read(Some(&table([(ATTEMPTS, value)]))).attempts, 7);
    }
}

#[test]
fn headers_of_the_wrong_type_or_range_are_ignored() {
    let forged = table([
        (ATTEMPTS, AMQPValue::LongLongInt(-1)),
        (REPLAYS, long("many")),
        (FIRST_RECEIVED_AT, AMQPValue::Boolean(true)),
        (REQUEST_ID, AMQPValue::FieldTable(table([]))),
    ]);
    assert_eq!(History::read(Some(&forged)), History::default());
    let too_long = table([(REQUEST_ID, long("x".repeat(256)))]);
    assert_eq!(History::read(Some(&too_long)), History::default());
    let unreadable = table([(REQUEST_ID, long(vec![0xff])), (FIRST_RECEIVED_AT, long("soon"))]);
    assert_eq!(History::read(Some(&unreadable)), History::default());
}

#[test]
fn the_brokers_headers_and_stale_own_ones_are_left_behind() {
    let original = properties([
        ("x-death", AMQPValue::FieldArray(Default::default())),
        ("x-first-death-queue", long("q")),
        ("x-last-death-reason", long("expired")),
        ("x-delivery-count", AMQPValue::LongLongInt(2)),
        ("CC", AMQPValue::FieldArray(vec![long("elsewhere")].into())),
        (STATUS, long("refused")),
        ("traceparent", long("00-…")),
        ("theirs", AMQPValue::Double(1.5)),
    ]);
    let copy = copy_for_next_queue(&original, added(), MAX_LEN);
    let names: Vec<_> = copy.headers().iter().flatten().map(|(name, _)| name.as_str().to_owned()).collect();
    assert_eq!(names, ["theirs", "traceparent", ATTEMPTS, DETAIL, RESPONSE]);
}

#[test]
fn expiration_and_user_id_are_kept_as_headers_through_every_copy() {
    let original = BasicProperties::default()
        .with_expiration("1000".into())
        .with_user_id("shop".into())
        .with_message_id("m-1".into());
    let copy = copy_for_next_queue(&copy_for_next_queue(&original, added(), MAX_LEN), added(), MAX_LEN);
    assert_eq!(copy.expiration(), &None);
    assert_eq!(copy.user_id(), &None);
    assert_eq!(copy.message_id().as_ref().map(|id| id.as_str()), Some("m-1"));
    assert_eq!(header(&copy, ORIGINAL_EXPIRATION), Some(long("1000")));
    assert_eq!(header(&copy, ORIGINAL_USER_ID), Some(long("shop")));
}

#[test]
fn a_priority_is_kept_on_retries_kept_off_dead_letters_and_comes_back_with_a_replay() {
    let original = BasicProperties::default().with_priority(7);
    assert_eq!(copy_for_next_queue(&original, added(), MAX_LEN).priority(), &Some(7));
    let dead_letter = copy_for_dead_letters(&original, added(), MAX_LEN);
    assert_eq!(dead_letter.priority(), &None);
    assert_eq!(header(&dead_letter, ORIGINAL_PRIORITY), Some(AMQPValue::LongLongInt(7)));
    assert_eq!(without_brokers(&dead_letter), dead_letter);
    let replayed = copy_for_replay(&dead_letter, added(), MAX_LEN);
    assert_eq!(replayed, copy_for_next_queue(&original, added(), MAX_LEN));
    let without = copy_for_dead_letters(&BasicProperties::default(), added(), MAX_LEN);
    assert_eq!(header(&without, ORIGINAL_PRIORITY), None);
    for forged in [AMQPValue::LongLongInt(256), long("7")] {
        let forged = properties([(ORIGINAL_PRIORITY, forged)]);
        assert_eq!(copy_for_replay(&forged, added(), MAX_LEN).priority(), &None);
    }
}

#[test]
fn a_forged_original_that_is_too_long_is_not_carried() {
    let forged = properties([(ORIGINAL_EXPIRATION, long("a".repeat(5_000)))]);
    let copy = copy_for_next_queue(&forged, added(), MAX_LEN);
    assert_eq!(header(&copy, ORIGINAL_EXPIRATION), None);
    assert!(encoded_len(&copy) <= MAX_LEN);
}

#[test]
fn own_texts_are_cut_before_any_foreign_header() {
    let original = properties([("theirs", long("t".repeat(3_400)))]);
    let copy = copy_for_next_queue(&original, added(), MAX_LEN);
    assert_eq!(header(&copy, "theirs"), Some(long("t".repeat(3_400))));
    assert_eq!(header(&copy, DETAIL), Some(long("d".repeat(500))));
    let response = header(&copy, RESPONSE).map(|value| value_len(&value));
    assert!(response.is_some_and(|length| length < 200), "{response:?}");
    assert!(encoded_len(&copy) <= MAX_LEN);
}

#[test]
fn the_largest_foreign_header_goes_where_even_the_facts_would_not_fit() {
    let original = properties([("large", long("t".repeat(4_050))), ("small", long("s"))]);
    let copy = copy_for_next_queue(&original, added(), MAX_LEN);
    assert_eq!(header(&copy, "large"), None);
    assert_eq!(header(&copy, "small"), Some(long("s")));
    assert_eq!(header(&copy, ATTEMPTS), Some(AMQPValue::LongLongInt(3)));
}

#[test]
fn a_text_is_cut_at_a_characters_boundary() {
    assert_eq!(truncate("aé".to_owned(), 2), "a");
    assert_eq!(truncate("aé".to_owned(), 3), "aé");
}

/// Bytes of the header frame that lapin writes for these properties.
fn frame_len(properties: &BasicProperties) -> usize {
    let header = AMQPContentHeader { class_id: 60, body_size: 1 << 40, properties: properties.clone() };
    let frame = AMQPFrame::Header(1, header);
    let written = gen_frame::<Vec<u8>>(&frame)(WriteContext::from(Vec::new()));
    written.expect("written").into_inner().0.len()
}

fn any_value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        Just(AMQPValue::Void),
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<f32>().prop_map(AMQPValue::Float),
        any::<f64>().prop_map(AMQPValue::Double),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        any::<u32>().prop_map(|value| AMQPValue::DecimalValue(DecimalValue { scale: 2, value })),
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        proptest::collection::vec(any::<u8>(), 0..2000).prop_map(long),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|values| AMQPValue::FieldArray(values.into())),
            any_headers(inner).prop_map(AMQPValue::FieldTable),
        ]
    })
}

fn any_headers(value: impl Strategy<Value = AMQPValue>) -> impl Strategy<Value = FieldTable> {
    let entries = proptest::collection::btree_map("[a-z]{0,40}", value, 0..4);
    entries.prop_map(|entries| {
        let entries = entries.into_iter().map(|(name, value)| (name.into(), value));
        FieldTable::from(entries.collect::<BTreeMap<ShortString, AMQPValue>>())
    })
}

proptest! {
    /// 22 bytes of a header frame are not properties: type, channel, size, class, weight, the body's
    /// size, the flags, and the end byte.
    #[test]
    fn properties_take_as_many_bytes_as_are_counted_or_a_few_less(
        headers in proptest::option::of(any_headers(any_value())),
        texts in proptest::collection::vec("[a-z]{0,255}", 10),
        all in any::<bool>(),
    ) {
        let mut properties = BasicProperties::default();
        if let Some(headers) = headers {
            properties = properties.with_headers(headers);
        }
        if let ([a, b, c, d, e, f, g, h, i, j], true) = (&texts[..], all) {
            properties = properties
                .with_content_type(a.as_str().into())
                .with_content_encoding(b.as_str().into())
                .with_correlation_id(c.as_str().into())
                .with_reply_to(d.as_str().into())
                .with_expiration(e.as_str().into())
                .with_message_id(f.as_str().into())
                .with_type(g.as_str().into())
                .with_user_id(h.as_str().into())
                .with_app_id(i.as_str().into())
                .with_cluster_id(j.as_str().into())
                .with_delivery_mode(2)
                .with_priority(9)
                .with_timestamp(u64::MAX);
        }
        let (counted, written) = (encoded_len(&properties), frame_len(&properties) - 22);
        prop_assert!((written..=written + 14).contains(&counted), "{counted} counted, {written} written");
    }

    #[test]
    fn any_headers_are_read_and_copied_within_the_limit(
        entries in proptest::collection::btree_map("[a-z]{0,40}", any_value(), 0..8),
        own in any_value(),
    ) {
        let mut entries: BTreeMap<ShortString, AMQPValue> =
            entries.into_iter().map(|(name, value)| (name.into(), value)).collect();
        for name in [ATTEMPTS, REPLAYS, FIRST_RECEIVED_AT, REQUEST_ID] {
            entries.insert(name.into(), own.clone());
        }
        let table = FieldTable::from(entries);
        let copy = copy_for_next_queue(&BasicProperties::default().with_headers(table), added(), MAX_LEN);
        prop_assert!(encoded_len(&copy) <= MAX_LEN);
        prop_assert_eq!(History::read(copy.headers().as_ref()).attempts, 3);
    }
}
