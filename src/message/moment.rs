//! A time as people write it.

use std::{str::FromStr, time::Duration};

use super::Timestamp;

/// A time as people write it: `2026-11-23T09:00:00Z`, or `2h` for two hours ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub Timestamp);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(at) = text.parse() {
            return Ok(Self(at));
        }
        let ago: Duration = humantime::parse_duration(text).map_err(|_| {
            format!("{text:?} is neither a time such as 2026-11-23T09:00:00Z nor an age such as 2h")
        })?;
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        Ok(Self(Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(ago))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_time_before_now() {
        let Moment(at) = "2h".parse().expect("a moment");
        let age = Timestamp::now().since(at);
        assert!((7200..7260).contains(&age.as_secs()), "{age:?}");
        assert!("tomorrow".parse::<Moment>().is_err());
    }
}
