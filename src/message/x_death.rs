//! The `x-death` header, which RabbitMQ adds to a message that it dead-letters.

use lapin::types::{AMQPValue, FieldTable};

use super::{Timestamp, headers};

/// One dead-lettering by RabbitMQ (RabbitMQ docs, "Dead Letter Exchanges").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XDeath {
    /// The queue that the message left.
    pub queue: String,
    /// `delivery_limit`, `expired`, `maxlen` or `rejected`.
    pub reason: String,
    /// To the second.
    pub time: Option<Timestamp>,
}

/// The newest dead-lettering: RabbitMQ puts it first. `None` if there is none, or if its queue or
/// its reason cannot be read.
pub fn latest(headers: &FieldTable) -> Option<XDeath> {
    read(entries(headers).first()?)
}

/// All dead-letterings that can be read, the newest first.
pub fn all(headers: &FieldTable) -> Vec<XDeath> {
    entries(headers).iter().filter_map(read).collect()
}

fn entries(headers: &FieldTable) -> &[AMQPValue] {
    match headers.inner().get("x-death") {
        Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice(),
        _ => &[],
    }
}

fn read(death: &AMQPValue) -> Option<XDeath> {
    let AMQPValue::FieldTable(death) = death else {
        return None;
    };
    let text = |name| death.inner().get(name).and_then(headers::text).map(str::to_owned);
    let time = match death.inner().get("time") {
        Some(AMQPValue::Timestamp(seconds)) => Some(Timestamp::from_secs(*seconds)),
        _ => None,
    };
    Some(XDeath { queue: text("queue")?, reason: text("reason")?, time })
}

/// Whether RabbitMQ has dead-lettered the message since this program wrote it: this program never
/// copies the header.
pub fn is_present(headers: &FieldTable) -> bool {
    matches!(headers.inner().get("x-death"), Some(AMQPValue::FieldArray(deaths)) if !deaths.as_slice().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(queue: &str, reason: &str) -> AMQPValue {
        let mut death = FieldTable::default();
        death.insert("queue".into(), AMQPValue::LongString(queue.into()));
        death.insert("reason".into(), AMQPValue::LongString(reason.into()));
        death.insert("time".into(), AMQPValue::Timestamp(1_700_000_000));
        AMQPValue::FieldTable(death)
    }

    fn headers(x_death: AMQPValue) -> FieldTable {
        let mut headers = FieldTable::default();
        headers.insert("x-death".into(), x_death);
        headers
    }

    #[test]
    fn the_first_entry_is_the_latest_death() {
        let deaths = vec![death("requests", "delivery_limit"), death("retry.1s", "expired")];
        let latest = latest(&headers(AMQPValue::FieldArray(deaths.into())));
        let expected = XDeath {
            queue: "requests".to_owned(),
            reason: "delivery_limit".to_owned(),
            time: Some(Timestamp::from_millis(1_700_000_000_000)),
        };
        assert_eq!(latest, Some(expected));
    }

    #[test]
    fn what_is_no_death_is_none() {
        let nothing = [
            AMQPValue::LongString("none".into()),
            AMQPValue::FieldArray(vec![].into()),
            AMQPValue::FieldArray(vec![AMQPValue::Void].into()),
            AMQPValue::FieldArray(vec![AMQPValue::FieldTable(FieldTable::default())].into()),
        ];
        for value in nothing {
            assert_eq!(latest(&headers(value.clone())), None, "{value:?}");
        }
        assert_eq!(latest(&FieldTable::default()), None);
    }
}
