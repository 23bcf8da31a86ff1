//! A moment, written as RFC 3339 in UTC with milliseconds: `2026-11-23T09:00:00.000Z`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The last days that RFC 3339 can name, and one on which every time of day can be read.
const LAST_DAYS: [&str; 2] = ["9999-12-31", "9999-12-30"];
const EARLIER_DAY: &str = "9999-12-28";

/// A moment in UTC, kept to the millisecond, so that what is written reads back equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, utoipa::ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(jiff::Timestamp::UNIX_EPOCH);

    /// The wall clock's time now.
    pub fn now() -> Self {
        Self::truncated(jiff::Timestamp::now())
    }

    /// The moment `milliseconds` after the Unix epoch, limited to the years that can be written.
    pub fn from_millis(milliseconds: i64) -> Self {
        // Whole seconds at the bounds: jiff takes no fraction there.
        let (first, last) = (jiff::Timestamp::MIN.as_second(), jiff::Timestamp::MAX.as_second());
        let bounded = milliseconds.clamp(first * 1000, last * 1000);
        Self(jiff::Timestamp::from_millisecond(bounded).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
    }

    /// The moment that many whole seconds after the Unix epoch, as AMQP writes times.
    pub fn from_secs(seconds: u64) -> Self {
        Self::from_millis(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000))
    }

    /// The moment that much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let milliseconds = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.as_millis().saturating_add(milliseconds))
    }

    /// The moment that much earlier.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        let milliseconds = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.as_millis().saturating_sub(milliseconds))
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// Whole seconds since the Unix epoch, as AMQP's `timestamp` property wants them.
    pub fn as_secs(self) -> u64 {
        u64::try_from(self.0.as_second()).unwrap_or(0)
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        let milliseconds = self.as_millis().saturating_sub(earlier.as_millis());
        Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
    }

    fn truncated(moment: jiff::Timestamp) -> Self {
        Self::from_millis(moment.as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    /// What RFC 3339 can name, but is after the last moment here, is read as that moment: jiff ends a day
    /// earlier, so that each moment has a date in each time zone. The last second often means "never".
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(moment) => Ok(Self::truncated(moment)),
            Err(error) => {
                let time = LAST_DAYS.into_iter().find_map(|day| text.strip_prefix(day));
                match time.map(|time| format!("{EARLIER_DAY}{time}").parse::<jiff::Timestamp>()) {
                    Some(Ok(_)) => Ok(Self::from_millis(i64::MAX)),
                    _ => Err(error),
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, UTC, milliseconds"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_written_in_utc_with_milliseconds() {
        let moment = Timestamp::from_millis(1_795_424_400_120);
        assert_eq!(moment.to_string(), "2026-11-23T09:00:00.120Z");
        assert_eq!(moment.to_string().parse::<Timestamp>().expect("parses"), moment);
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn what_cannot_be_written_is_limited_to_the_first_and_the_last_year() {
        assert!(Timestamp::from_millis(i64::MAX).to_string().starts_with("9999-12-30T"));
        assert!(Timestamp::from_millis(i64::MIN).to_string().starts_with("-009999-01-02T"));
    }

    #[test]
    fn the_last_day_that_can_be_named_is_read_as_the_last_moment() {
        let last = Timestamp::from_millis(i64::MAX);
        for text in [
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59.999999999Z",
            "9999-12-31T00:00:00Z",
            "9999-12-30T23:00:00Z",
            "9999-12-31t23:59:59z",
            "9999-12-31T23:59:59+14:00",
            "9999-12-31T23:59:59-12:00",
        ] {
            assert_eq!(text.parse::<Timestamp>().expect(text), last, "{text}");
        }
        for text in ["9999-12-31T25:00:00Z", "9999-12-31", "9999-12-31T23:59:59", "9999-12-32T00:00:00Z"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        let earlier: Timestamp = "9999-12-29T12:00:00Z".parse().expect("a time");
        assert!(earlier < last);
    }

    #[test]
    fn time_never_runs_backwards_in_a_difference() {
        let (early, late) = (Timestamp::from_millis(5), Timestamp::from_millis(1_005));
        assert_eq!(late.since(early), Duration::from_secs(1));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
