//! Which letters are meant.

use std::{str::FromStr, time::Duration};

use serde::Serialize;

use super::letter::Brief;
use crate::message::{DeadLetterStatus, Timestamp};

/// Letters that meet all that is given; without anything, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// Any of these.
    pub status: Vec<DeadLetterStatus>,
    /// Any of these.
    pub reason: Vec<String>,
    /// Died then or later.
    pub since: Option<Timestamp>,
    /// Died then or earlier.
    pub until: Option<Timestamp>,
    /// Any of these, letters' ids or requests'.
    pub ids: Vec<String>,
    /// The oldest so many of them.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether it is one of these, but for the limit.
    #[must_use]
    pub fn matches(&self, letter: &Brief) -> bool {
        let is_id =
            |id: &String| letter.id.as_str() == id || letter.request_id.as_ref().is_some_and(|own| own == id);
        let any =
            |wanted: &[String], is: &dyn Fn(&String) -> bool| wanted.is_empty() || wanted.iter().any(is);
        (self.status.is_empty() || self.status.contains(&letter.status))
            && any(&self.reason, &|reason| letter.reason.as_ref() == Some(reason))
            && any(&self.ids, &is_id)
            && self.since.is_none_or(|since| letter.dead_at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| letter.dead_at.is_some_and(|at| at <= until))
    }

    /// How many are wanted at most.
    pub(super) fn room(&self) -> usize {
        self.limit.unwrap_or(usize::MAX).max(1)
    }
}

/// A moment as people write it: `2026-11-23T09:00:00Z`, or `2h`, that long ago.
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
    use crate::dead_letters::LetterId;

    fn brief(status: DeadLetterStatus, reason: &str, dead_at: &str) -> Brief {
        Brief {
            id: LetterId::from("0123456789ab"),
            request_id: Some("r-1".to_owned()),
            status,
            reason: Some(reason.to_owned()),
            detail: None,
            http_status: None,
            attempts: 1,
            replays: 0,
            first_received_at: None,
            dead_at: dead_at.parse().ok(),
            trace_id: None,
            size: 2,
        }
    }

    #[test]
    fn a_letter_has_to_meet_all_that_is_given() {
        let letter = brief(DeadLetterStatus::Refused, "http_404", "2026-11-23T09:00:00Z");
        let moment = |text: &str| text.parse::<Moment>().ok().map(|moment| moment.0);
        let all = Filter::default();
        assert!(all.matches(&letter));
        let matching = Filter {
            status: vec![DeadLetterStatus::Invalid, DeadLetterStatus::Refused],
            reason: vec!["http_404".to_owned()],
            since: moment("2026-11-23T09:00:00Z"),
            until: moment("2026-11-23T09:00:00Z"),
            ids: vec!["r-1".to_owned()],
            limit: None,
        };
        assert!(matching.matches(&letter));
        let by_letter = Filter { ids: vec!["0123456789ab".to_owned()], ..Filter::default() };
        assert!(by_letter.matches(&letter));
        for other in [
            Filter { status: vec![DeadLetterStatus::Unreadable], ..matching.clone() },
            Filter { reason: vec!["http_400".to_owned()], ..matching.clone() },
            Filter { since: moment("2026-11-23T09:00:01Z"), ..matching.clone() },
            Filter { until: moment("2026-11-23T08:59:59Z"), ..matching.clone() },
            Filter { ids: vec!["r-2".to_owned()], ..matching.clone() },
        ] {
            assert!(!other.matches(&letter), "{other:?}");
        }
    }

    #[test]
    fn a_letter_without_a_time_is_in_no_span_of_time() {
        let letter = brief(DeadLetterStatus::Unknown, "-", "never");
        let filter = Filter { since: Some(Timestamp::EPOCH), ..Filter::default() };
        assert!(!filter.matches(&letter));
    }

    #[test]
    fn an_age_is_a_moment_that_long_ago() {
        let Moment(at) = "2h".parse().expect("a moment");
        let age = Timestamp::now().since(at);
        assert!((7200..7260).contains(&age.as_secs()), "{age:?}");
        assert!("tomorrow".parse::<Moment>().is_err());
    }
}
