//! How long a request waited in the queue, as far as its sender or RabbitMQ wrote down when it came.

use std::time::Duration;

use lapin::{BasicProperties, types::AMQPValue};

use super::Timestamp;

/// RabbitMQ's header with the time of arrival (from 4.2, with `message_interceptors`; before, a plugin).
const TIMESTAMP_IN_MS: &str = "timestamp_in_ms";
/// How far ahead of this machine's clock the other one may be.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5);
/// A longer wait is not believed: the sender's clock is wrong, or its timestamp means another time.
const MAX_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long ago the request was queued: by RabbitMQ's own timestamp, or else by the sender's, which
/// is in whole seconds. `None` if there is none, or if it cannot be true.
pub fn since_queued(properties: &BasicProperties, now: Timestamp) -> Option<Duration> {
    let by_broker = properties.headers().as_ref().and_then(|headers| {
        let AMQPValue::LongLongInt(milliseconds) = headers.inner().get(TIMESTAMP_IN_MS)? else {
            return None;
        };
        Some(Timestamp::from_millis(*milliseconds))
    });
    let queued = by_broker.or_else(|| properties.timestamp().map(Timestamp::from_secs))?;
    let wait = now.since(queued);
    (queued.since(now) <= MAX_CLOCK_SKEW && wait <= MAX_WAIT).then_some(wait)
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;

    use super::*;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn sent(timestamp: u64) -> BasicProperties {
        BasicProperties::default().with_timestamp(timestamp)
    }

    fn stamped(value: AMQPValue) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert(TIMESTAMP_IN_MS.into(), value);
        sent(1_700_000_000).with_headers(headers)
    }

    #[test]
    fn rabbitmqs_timestamp_counts_more_than_the_senders() {
        let now = Timestamp::from_millis(1_700_000_009_500);
        let milliseconds = |n| Some(Duration::from_millis(n));
        assert_eq!(since_queued(&sent(1_700_000_000), now), milliseconds(9_500));
        assert_eq!(since_queued(&stamped(AMQPValue::LongLongInt(1_700_000_009_001)), now), milliseconds(499));
        assert_eq!(since_queued(&stamped(AMQPValue::Boolean(true)), now), milliseconds(9_500));
        assert_eq!(since_queued(&BasicProperties::default(), now), None);
    }

    #[test]
    fn a_timestamp_that_cannot_be_true_is_not_believed() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let at = |offset: i64| since_queued(&sent(1_700_000_000_u64.saturating_add_signed(offset)), now);
        let month = 30 * 24 * 3600;
        assert_eq!(at(5), Some(Duration::ZERO), "a clock that is a bit ahead");
        assert_eq!(at(6), None);
        assert_eq!(at(-month), Some(Duration::from_secs(30 * 24 * 3600)));
        assert_eq!(at(-month - 1), None);
        for timestamp in [1_700_000_000_000, u64::MAX] {
            assert_eq!(since_queued(&sent(timestamp), now), None, "milliseconds in place of seconds");
        }
        assert_eq!(since_queued(&sent(0), NOW), Some(Duration::ZERO));
    }
}
