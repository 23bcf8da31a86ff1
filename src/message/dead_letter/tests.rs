use std::collections::BTreeMap;

use lapin::types::{FieldArray, ShortString};

use super::*;

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let entries = entries.map(|(name, value)| (ShortString::from(name), value));
    FieldTable::from(entries.into_iter().collect::<BTreeMap<_, _>>())
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn dead(reason: &str) -> BasicProperties {
    let death = table([("reason", text(reason)), ("time", AMQPValue::Timestamp(1_700_000_000))]);
    let deaths = FieldArray::from(vec![AMQPValue::FieldTable(death)]);
    BasicProperties::default().with_headers(table([("x-death", AMQPValue::FieldArray(deaths))]))
}

#[test]
fn a_letter_that_the_broker_gave_up_is_crashed() {
    let record = Record::read(&dead("delivery_limit"));
    assert_eq!(record.status, LetterStatus::Crashed);
    assert_eq!(record.dead_at, Some(Timestamp::from_millis(1_700_000_000_000)));
    assert_eq!(Record::read(&dead("expired")).status, LetterStatus::Unknown);
}

#[test]
fn headers_of_the_wrong_type_count_as_absent() {
    let headers = table([
        (headers::STATUS, AMQPValue::LongLongInt(1)),
        (headers::HTTP_STATUS, AMQPValue::LongLongInt(70_000)),
        (headers::DEAD_AT, text("yesterday")),
        ("x-death", text("none")),
    ]);
    let record = Record::read(&BasicProperties::default().with_headers(headers));
    assert_eq!((record.status, record.http_status, record.dead_at), (LetterStatus::Unknown, None, None));
}

#[test]
fn a_replayed_letter_is_the_original_with_its_count_and_id_alone() {
    let original = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_priority(3)
        .with_headers(table([("traceparent", text("00-x")), ("theirs", AMQPValue::Boolean(true))]));
    let open = |properties| {
        Envelope::open(properties, br#"{"customer_id":1}"#.to_vec(), Timestamp::EPOCH, || "given".to_owned())
    };
    let death = Death {
        status: Status::Refused,
        reason: "http_404".to_owned(),
        detail: Some("no such customer".to_owned()),
        http_status: Some(404),
        response: Some("{}".to_owned()),
        attempts: 7,
        dead_at: Timestamp::EPOCH,
    };
    let letter = death.stamp(&open(original.clone()), None, 10_000);
    let revived = revive(&open(letter), 10_000);
    let expected = table([
        ("traceparent", text("00-x")),
        ("theirs", AMQPValue::Boolean(true)),
        (headers::REPLAYS, AMQPValue::LongLongInt(1)),
        (headers::REQUEST_ID, text("given")),
    ]);
    assert_eq!(revived, original.with_headers(expected).with_delivery_mode(2));
}
