//! Selects dead letters.

use std::fmt;

use serde::Serialize;

use super::dead_letter::DeadLetterSummary;
use crate::message::{DeadLetterStatus, Timestamp};

/// Selects the dead letters that meet every condition. An empty filter selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// One of these.
    pub status: Vec<DeadLetterStatus>,
    /// One of these.
    pub reason: Vec<String>,
    /// Dead-lettered at this time or later.
    pub since: Option<Timestamp>,
    /// Dead-lettered at this time or earlier.
    pub until: Option<Timestamp>,
    /// One of these ids, of the dead letter or of its request.
    pub ids: Vec<String>,
    /// At most this many, the oldest ones.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether it meets every condition, except the limit.
    pub fn matches(&self, dead_letter: &DeadLetterSummary) -> bool {
        let is_id = |id: &String| {
            dead_letter.id.as_str() == id || dead_letter.request_id.as_ref().is_some_and(|own| own == id)
        };
        let any =
            |wanted: &[String], is: &dyn Fn(&String) -> bool| wanted.is_empty() || wanted.iter().any(is);
        (self.status.is_empty() || self.status.contains(&dead_letter.status))
            && any(&self.reason, &|reason| dead_letter.reason.as_ref() == Some(reason))
            && any(&self.ids, &is_id)
            && self.since.is_none_or(|since| dead_letter.dead_at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| dead_letter.dead_at.is_some_and(|at| at <= until))
    }

    /// The most dead letters to return, at least one.
    pub(super) fn max_count(&self) -> usize {
        self.limit.unwrap_or(usize::MAX).max(1)
    }
}

/// As options of the command line; `none` for an empty filter.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses: Vec<&str> = self.status.iter().map(|status| status.as_str()).collect();
        let options = [
            ("--status", (!statuses.is_empty()).then(|| statuses.join(","))),
            ("--reason", (!self.reason.is_empty()).then(|| self.reason.join(","))),
            ("--since", self.since.map(|since| since.to_string())),
            ("--until", self.until.map(|until| until.to_string())),
            ("--id", (!self.ids.is_empty()).then(|| self.ids.join(","))),
            ("--limit", self.limit.map(|limit| limit.to_string())),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        let given: Vec<_> = given.collect();
        f.write_str(&if given.is_empty() { "none".to_owned() } else { given.join(" ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dead_letters::DeadLetterId, message::Moment};

    fn summary(status: DeadLetterStatus, reason: &str, dead_at: &str) -> DeadLetterSummary {
        DeadLetterSummary {
            id: DeadLetterId::from("0123456789ab"),
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
    fn a_dead_letter_must_meet_every_condition() {
        let dead_letter = summary(DeadLetterStatus::Refused, "http_404", "2026-11-23T09:00:00Z");
        let moment = |text: &str| text.parse::<Moment>().ok().map(|moment| moment.0);
        let all = Filter::default();
        assert!(all.matches(&dead_letter));
        let matching = Filter {
            status: vec![DeadLetterStatus::Invalid, DeadLetterStatus::Refused],
            reason: vec!["http_404".to_owned()],
            since: moment("2026-11-23T09:00:00Z"),
            until: moment("2026-11-23T09:00:00Z"),
            ids: vec!["r-1".to_owned()],
            limit: None,
        };
        assert!(matching.matches(&dead_letter));
        let by_id = Filter { ids: vec!["0123456789ab".to_owned()], ..Filter::default() };
        assert!(by_id.matches(&dead_letter));
        for other in [
            Filter { status: vec![DeadLetterStatus::Unreadable], ..matching.clone() },
            Filter { reason: vec!["http_400".to_owned()], ..matching.clone() },
            Filter { since: moment("2026-11-23T09:00:01Z"), ..matching.clone() },
            Filter { until: moment("2026-11-23T08:59:59Z"), ..matching.clone() },
            Filter { ids: vec!["r-2".to_owned()], ..matching.clone() },
        ] {
            assert!(!other.matches(&dead_letter), "{other:?}");
        }
    }

    #[test]
    fn a_filter_is_shown_as_the_options_that_make_it() {
        assert_eq!(Filter::default().to_string(), "none");
        let filter = Filter {
            status: vec![DeadLetterStatus::Refused, DeadLetterStatus::Invalid],
            reason: vec!["http_404".to_owned()],
            since: "2026-11-23T09:00:00Z".parse().ok(),
            ids: vec!["r-1".to_owned(), "r-2".to_owned()],
            limit: Some(3),
            ..Filter::default()
        };
        let shown = "--status refused,invalid --reason http_404 --since 2026-11-23T09:00:00.000Z --id r-1,r-2 --limit 3";
        assert_eq!(filter.to_string(), shown);
    }

    #[test]
    fn a_dead_letter_without_a_time_matches_no_time_range() {
        let dead_letter = summary(DeadLetterStatus::Unknown, "-", "never");
        let filter = Filter { since: Some(Timestamp::EPOCH), ..Filter::default() };
        assert!(!filter.matches(&dead_letter));
    }
}
