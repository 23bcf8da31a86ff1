//! What a person may choose for a replay or a discard, and the rules for it.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// The longest reason of a discard, in characters.
const MAX_REASON_CHARS: usize = 500;
/// Allowed rates of a replay, in dead letters per second: from one an hour to 10,000 a second.
const RATES: std::ops::RangeInclusive<f64> = 1.0 / 3600.0..=10_000.0;

/// A reason or a rate that breaks the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidOption(String);

/// Why dead letters are discarded. It becomes the `reason` of their outcomes: one line, not blank,
/// at most 500 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String)]
pub struct DiscardReason(String);

impl DiscardReason {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DiscardReason {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let reason = text.trim();
        if reason.is_empty() {
            return Err(InvalidOption(
                "a discard needs a reason, such as \"customer left\": it becomes the outcome's reason"
                    .to_owned(),
            ));
        }
        if reason.chars().count() > MAX_REASON_CHARS || reason.chars().any(char::is_control) {
            let rule = format!("the reason must be one line of at most {MAX_REASON_CHARS} characters");
            return Err(InvalidOption(rule));
        }
        Ok(Self(reason.to_owned()))
    }
}

impl TryFrom<String> for DiscardReason {
    type Error = InvalidOption;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// How many dead letters are replayed per second, at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplayRate(f64);

impl ReplayRate {
    pub fn per_second(self) -> f64 {
        self.0
    }

    /// The time between two dead letters.
    pub(super) fn interval(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.0)
    }
}

impl Default for ReplayRate {
    fn default() -> Self {
        Self(1.0)
    }
}

impl TryFrom<f64> for ReplayRate {
    type Error = InvalidOption;

    fn try_from(per_second: f64) -> Result<Self, Self::Error> {
        match RATES.contains(&per_second) {
            true => Ok(Self(per_second)),
            false => {
                let rule = format!("{per_second} a second is not between 1 an hour and 10000 a second");
                Err(InvalidOption(rule))
            }
        }
    }
}

/// As people write it: `1/s`, `30/m`, `2/h`.
impl FromStr for ReplayRate {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || InvalidOption(format!("{text:?} is not a rate such as 1/s, 10/s or 30/m"));
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let count: f64 = count.trim().parse().map_err(|_| wrong())?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        Self::try_from(count / seconds)
    }
}

impl fmt::Display for ReplayRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

/// How fast a replay runs, and when it stops. A discard ignores all of it: it calls no one.
#[derive(Clone, Copy, Debug)]
pub struct ReplayOptions {
    pub rate: ReplayRate,
    /// How long to wait for a replayed request's outcome.
    pub wait: Duration,
    /// Continue after a dead letter that failed again.
    pub keep_going: bool,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self { rate: ReplayRate::default(), wait: Duration::from_secs(60), keep_going: false }
    }
}

impl fmt::Display for DiscardReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discard_reason_is_one_line_that_is_not_blank_and_not_too_long() {
        let longest = "x".repeat(500);
        for (text, kept) in [(" customer left ", "customer left"), (&longest, &longest)] {
            assert_eq!(text.parse::<DiscardReason>().as_ref().map(DiscardReason::as_str), Ok(kept));
        }
        for wrong in ["", " \t", "two\nlines", &"x".repeat(501)] {
            assert!(wrong.parse::<DiscardReason>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_rate_is_between_one_an_hour_and_ten_thousand_a_second() {
        for (text, per_second) in [("1/s", 1.0), ("30/m", 0.5), ("1/h", 1.0 / 3600.0), ("10000/s", 10_000.0)]
        {
            let rate: ReplayRate = text.parse().expect(text);
            assert_eq!((rate.per_second(), rate.to_string().parse()), (per_second, Ok(rate)));
        }
        for wrong in ["", "1", "1/d", "x/s", "0/s", "-1/s", "NaN/s", "inf/s", "0.5/h", "10001/s"] {
            assert!(wrong.parse::<ReplayRate>().is_err(), "{wrong:?}");
        }
    }
}
