use lapin::protocol::basic::{gen_properties, parse_properties};
use lapin::types::FieldTable;
use proptest::{collection::vec, prelude::*};

use super::*;

fn encoded(properties: &BasicProperties) -> Vec<u8> {
    gen_properties(properties)(Vec::new().into()).expect("memory").into_inner().0
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

/// Everything that properties can hold.
fn full() -> BasicProperties {
    let inner = table([("a", AMQPValue::Timestamp(3)), ("b", AMQPValue::Void)]);
    let array = vec![AMQPValue::FieldTable(inner.clone()), AMQPValue::LongLongInt(-1)];
    let headers = table([
        ("array", AMQPValue::FieldArray(array.into())),
        ("table", AMQPValue::FieldTable(inner)),
        ("bytes", AMQPValue::ByteArray(vec![0xff].into())),
        ("text", AMQPValue::LongString(vec![0xff, 0xfe].into())),
        ("double", AMQPValue::Double(0.5)),
        ("bool", AMQPValue::Boolean(true)),
    ]);
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("gzip".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("amq.rabbitmq.reply-to.x".into())
        .with_expiration("60000".into())
        .with_message_id("m-1234".into())
        .with_timestamp(1_700_000_000)
        .with_type("t".into())
        .with_user_id("guest".into())
        .with_app_id("app".into())
        .with_cluster_id("k".into())
}

/// The full properties with a message id that is not UTF-8, and further headers.
fn unreadable<const N: usize>(headers: [(&str, AMQPValue); N]) -> RawProperties {
    let mut all = full().headers().clone().expect("headers");
    for (name, value) in headers {
        all.insert(name.into(), value);
    }
    let mut bytes = encoded(&full().with_headers(all));
    let at = bytes.windows(6).position(|window| window == b"m-1234").expect("the id");
    bytes[at] = 0xff;
    match Properties::parse(&bytes) {
        Properties::Unreadable(raw) => raw,
        Properties::Readable(properties) => panic!("{properties:?}"),
    }
}

#[test]
fn what_lapin_reads_is_read_as_lapin_does() {
    assert_eq!(Properties::parse(&encoded(&full())), Properties::Readable(full()));
    let none = BasicProperties::default();
    assert_eq!(Properties::parse(&encoded(&none)), Properties::Readable(none));
}

#[test]
fn an_id_that_is_not_utf_8_hides_nothing_else() {
    let raw = unreadable([]);
    assert_eq!(raw.flaw(), Flaw::NotUtf8("message_id"));
    assert_eq!(raw.lossy().message_id().as_ref().map(|id| id.as_str()), Some("\u{fffd}-1234"));
    assert_eq!(raw.lossy().clone().with_message_id("m-1234".into()), full());
}

#[test]
fn the_name_of_a_header_that_is_not_utf_8_hides_no_other_header() {
    let headers = table([("aaa", text("1")), ("bbb", text("2"))]);
    let mut bytes = encoded(&BasicProperties::default().with_headers(headers));
    let at = bytes.windows(3).position(|window| window == b"aaa").expect("the name");
    bytes[at] = 0x80;
    let Properties::Unreadable(raw) = Properties::parse(&bytes) else { panic!("readable") };
    assert_eq!(raw.flaw(), Flaw::NotUtf8("header's name"));
    let headers = raw.lossy().headers().clone().expect("headers");
    assert_eq!(headers.inner().get("bbb"), Some(&text("2")));
    assert_eq!(headers.inner().get("\u{fffd}aa"), Some(&text("1")));
}

#[test]
fn tables_nested_without_an_end_are_unreadable() {
    let mut value = AMQPValue::Void;
    for _ in 0..200 {
        value = AMQPValue::FieldTable(table([("", value)]));
    }
    let bytes = encoded(&BasicProperties::default().with_headers(table([("deep", value)])));
    let Properties::Unreadable(raw) = Properties::parse(&bytes) else { panic!("readable") };
    assert_eq!(raw.flaw(), Flaw::TooDeep);
}

#[test]
fn a_copy_keeps_all_bytes_except_what_the_broker_would_act_on_again() {
    let raw = unreadable([
        ("x-death", AMQPValue::FieldArray(vec![].into())),
        ("x-first-death-queue", text("q")),
        ("x-delivery-count", AMQPValue::LongLongInt(3)),
        ("CC", text("elsewhere")),
        ("unlocker-status", text("refused")),
        ("unlocker-invented", text("forged")),
        ("tracestate", text("old")),
    ]);
    let added = [("unlocker-status", text("invalid")), ("traceparent", text("00-new"))];
    let copy = Properties::parse(&raw.copy(&added, 10_000));
    let mut headers = full().headers().clone().expect("headers");
    for (name, value) in added {
        headers.insert(name.into(), value);
    }
    headers.insert(headers::ORIGINAL_EXPIRATION.into(), text("60000"));
    headers.insert(headers::ORIGINAL_PRIORITY.into(), AMQPValue::LongLongInt(3));
    headers.insert(headers::ORIGINAL_USER_ID.into(), text("guest"));
    let original = full();
    let expected = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("gzip".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_correlation_id("c".into())
        .with_reply_to(original.reply_to().clone().expect("reply_to"))
        .with_message_id("\u{fffd}-1234".into())
        .with_timestamp(1_700_000_000)
        .with_type("t".into())
        .with_app_id("app".into())
        .with_cluster_id("k".into());
    assert_eq!(copy.lossy(), &expected);
    let Properties::Unreadable(copy) = copy else { panic!("readable") };
    assert!(copy.bytes().windows(7).any(|window| window == b"\x06\xff-1234"));
}

#[test]
fn a_copy_that_is_too_long_leaves_out_the_senders_largest_headers() {
    let raw = unreadable([("large", text(&"l".repeat(5000))), ("small", text("s"))]);
    let copy = raw.copy(&[("unlocker-status", text("invalid"))], 1000);
    assert!(copy.len() <= 1000);
    let headers = Properties::parse(&copy).lossy().headers().clone().expect("headers");
    assert!(headers.contains_key("small") && !headers.contains_key("large"));
}

#[test]
fn what_lasts_does_not_depend_on_the_brokers_counts() {
    let volatile = |name: &str| name == "x-delivery-count";
    let first = unreadable([]).lasting(volatile);
    assert_eq!(unreadable([("x-delivery-count", AMQPValue::LongLongInt(7))]).lasting(volatile), first);
    assert_ne!(unreadable([("other", AMQPValue::LongLongInt(7))]).lasting(volatile), first);
}

proptest! {
    #[test]
    fn any_bytes_are_read_and_copied_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Properties::Unreadable(raw) = Properties::parse(&bytes) {
            let copy = raw.copy(&[("unlocker-status", text("invalid"))], 10_000);
            prop_assert!(copy.len() >= 7);
            prop_assert!(raw.lasting(|_| false).len() <= 3 * bytes.len());
        }
    }

    #[test]
    fn properties_with_some_bytes_changed_are_read_and_copied_into_what_can_be_read_again(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in 0_usize..40,
    ) {
        let mut bytes = encoded(&full());
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut);
        match Properties::parse(&bytes) {
            Properties::Readable(properties) => {
                let (rest, as_lapin) = parse_properties(&bytes[..]).expect("lapin reads it");
                prop_assert!(rest.is_empty());
                // A double may be NaN, which is never equal.
                prop_assert_eq!(format!("{properties:?}"), format!("{as_lapin:?}"));
            }
            Properties::Unreadable(raw) => {
                let copy = Properties::parse(&raw.copy(&[], 10_000));
                if let Properties::Unreadable(copy) = copy {
                    prop_assert_ne!(copy.flaw(), Flaw::Malformed);
                }
            }
        }
    }
}
