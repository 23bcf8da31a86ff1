use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};

use super::*;

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let entries = entries.map(|(name, value)| (ShortString::from(name), value));
    FieldTable::from(entries.into_iter().collect::<BTreeMap<_, _>>())
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn dead(reason: &str) -> BasicProperties {
    let death = table([
        ("queue", text("trackfinity.unlock.requests")),
        ("reason", text(reason)),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
    ]);
    let deaths = FieldArray::from(vec![AMQPValue::FieldTable(death)]);
    BasicProperties::default().with_headers(table([("x-death", AMQPValue::FieldArray(deaths))]))
}

#[test]
fn a_dead_letter_by_rabbitmq_is_unknown_with_its_reason_whatever_headers_it_has() {
    for reason in ["delivery_limit", "expired"] {
        let forged = [
            (headers::STATUS, text("refused")),
            (headers::REASON, text("http_404")),
            (headers::DEAD_AT, text("2020-01-01T00:00:00.000Z")),
        ];
        let mut headers = dead(reason).headers().clone().expect("headers");
        for (name, value) in forged {
            headers.insert(name.into(), value);
        }
        for properties in [dead(reason), BasicProperties::default().with_headers(headers)] {
            let headers = DeadLetterHeaders::read(&properties);
            assert_eq!(
                (headers.status, headers.reason.as_deref()),
                (DeadLetterStatus::Unknown, Some(reason))
            );
            assert_eq!(headers.dead_at, Some(Timestamp::from_millis(1_700_000_000_000)));
            let detail = headers.detail.expect("a detail");
            assert!(
                detail.starts_with("dead-lettered by RabbitMQ from trackfinity.unlock.requests:"),
                "{detail}"
            );
        }
    }
}

#[test]
fn a_status_that_no_worker_writes_counts_as_unknown() {
    for status in ["unreadable", "unknown", "crashed"] {
        let headers = table([(headers::STATUS, text(status)), (headers::REASON, text("forged"))]);
        let headers = DeadLetterHeaders::read(&BasicProperties::default().with_headers(headers));
        assert_eq!((headers.status, headers.reason), (DeadLetterStatus::Unknown, None));
    }
}

#[test]
fn headers_of_the_wrong_type_count_as_absent() {
    let headers = table([
        (headers::STATUS, AMQPValue::LongLongInt(1)),
        (headers::HTTP_STATUS, AMQPValue::LongLongInt(70_000)),
        (headers::DEAD_AT, text("yesterday")),
        ("x-death", text("none")),
    ]);
    let headers = DeadLetterHeaders::read(&BasicProperties::default().with_headers(headers));
    assert_eq!(
        (headers.status, headers.http_status, headers.dead_at),
        (DeadLetterStatus::Unknown, None, None)
    );
}

#[test]
fn a_replay_is_the_original_plus_only_its_count_and_id() {
    let original = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_priority(3)
        .with_headers(table([("traceparent", text("00-x")), ("theirs", AMQPValue::Boolean(true))]));
    let decode = |properties| {
        Envelope::decode(properties, br#"{"customer_id":1}"#.to_vec(), Timestamp::EPOCH, || {
            "given".to_owned()
        })
    };
    let info = DeadLetterInfo {
        status: Status::Refused,
        reason: "http_404".to_owned(),
        detail: Some("no such customer".to_owned()),
        http_status: Some(404),
        response: Some("{}".to_owned()),
        attempts: 7,
        dead_at: Timestamp::EPOCH,
    };
    let dead_letter = info.properties(&decode(original.clone()), None, 10_000);
    let replayed = replay_properties(&decode(dead_letter), 10_000);
    let expected = table([
        ("traceparent", text("00-x")),
        ("theirs", AMQPValue::Boolean(true)),
        (headers::REPLAYS, AMQPValue::LongLongInt(1)),
        (headers::REQUEST_ID, text("given")),
    ]);
    assert_eq!(replayed, original.with_headers(expected).with_delivery_mode(2));
}
