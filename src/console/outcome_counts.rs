//! How many outcomes there were in each minute of a week, by status and reason. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use utoipa::ToSchema;

use crate::message::{RecordedOutcome, Status, Timestamp};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// How far back outcomes are counted.
pub(super) const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The most different reasons that are counted each for itself.
const MAX_REASONS: usize = 100;
/// The status of outcomes whose status this version does not know, and the reason of those beyond the limit.
const OTHER: &str = "other";

/// A part of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Window {
    Hour,
    #[default]
    Day,
    Week,
}

impl Window {
    pub(super) const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Week];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|window| window.name() == name)
    }

    pub(super) fn length(self) -> Duration {
        match self {
            Self::Hour => HOUR,
            Self::Day => HOUR * 24,
            Self::Week => MAX_AGE,
        }
    }

    /// The time of one bar.
    pub(super) fn interval(self) -> Duration {
        match self {
            Self::Hour => MINUTE,
            Self::Day => MINUTE * 30,
            Self::Week => HOUR * 3,
        }
    }
}

/// Outcomes of one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Interval {
    pub(super) start: Timestamp,
    /// How many there were, by status.
    #[schema(value_type = BTreeMap<String, u32>)]
    pub(super) counts: BTreeMap<&'static str, u32>,
}

/// Outcomes of one status and reason in the last hour, and in the hour before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Change {
    #[schema(value_type = String)]
    pub(super) status: &'static str,
    pub(super) reason: Option<String>,
    pub(super) last_hour: u32,
    pub(super) hour_before: u32,
}

/// A status, and a reason if the status has some that programs set.
type Kind = (&'static str, Option<String>);

#[derive(Debug, Default)]
pub(super) struct OutcomeCounts {
    /// By the minute since 1970.
    minutes: BTreeMap<u64, BTreeMap<Kind, u32>>,
    reasons: BTreeSet<String>,
}

impl OutcomeCounts {
    pub(super) fn add(&mut self, outcome: &RecordedOutcome) {
        let status = Status::named(&outcome.status).map_or(OTHER, Status::as_str);
        // The reason of a discard is a person's text.
        let reason = outcome.reason.as_deref().filter(|_| status != Status::Discarded.as_str());
        let reason =
            reason.map(|reason| match self.reasons.len() < MAX_REASONS || self.reasons.contains(reason) {
                true => reason.to_owned(),
                false => OTHER.to_owned(),
            });
        self.reasons.extend(reason.clone());
        *self.minutes.entry(minute(outcome.finished_at)).or_default().entry((status, reason)).or_default() +=
            1;
    }

    /// Forgets what is older than a week.
    pub(super) fn forget(&mut self, now: Timestamp) {
        let oldest = minute(now.minus(MAX_AGE));
        while self.minutes.first_key_value().is_some_and(|(minute, _)| *minute < oldest) {
            self.minutes.pop_first();
        }
    }

    /// The intervals of the window, the oldest first; the last one ends in the future.
    pub(super) fn intervals(&self, window: Window, now: Timestamp) -> Vec<Interval> {
        let step = window.interval().as_secs() / 60;
        let count = window.length().as_secs() / window.interval().as_secs();
        let last = minute(now) / step;
        let mut intervals: Vec<_> = (0..count)
            .rev()
            .map(|back| {
                let start = Timestamp::from_secs(last.saturating_sub(back) * step * 60);
                Interval { start, counts: BTreeMap::new() }
            })
            .collect();
        let first = last.saturating_sub(count.saturating_sub(1));
        for (minute, kinds) in self.minutes.range(first * step..(last + 1) * step) {
            let index = usize::try_from(minute / step - first).unwrap_or(usize::MAX);
            let Some(interval) = intervals.get_mut(index) else { continue };
            for ((status, _), count) in kinds {
                *interval.counts.entry(*status).or_default() += count;
            }
        }
        intervals
    }

    /// What differs most between the last hour and the hour before.
    pub(super) fn changes(&self, now: Timestamp) -> Vec<Change> {
        let count = |from: Timestamp, to: Timestamp| {
            let mut counts = BTreeMap::<&Kind, u32>::new();
            for kinds in self.minutes.range(minute(from)..minute(to)).map(|(_, kinds)| kinds) {
                kinds.iter().for_each(|(kind, count)| *counts.entry(kind).or_default() += count);
            }
            counts
        };
        let (middle, end) = (now.minus(HOUR), now.plus(MINUTE));
        let (last, before) = (count(middle, end), count(middle.minus(HOUR), middle));
        let kinds: BTreeSet<_> = last.keys().chain(before.keys()).collect();
        let mut changes: Vec<_> = kinds
            .into_iter()
            .map(|kind| Change {
                status: kind.0,
                reason: kind.1.clone(),
                last_hour: last.get(kind).copied().unwrap_or(0),
                hour_before: before.get(kind).copied().unwrap_or(0),
            })
            .filter(|change| change.last_hour != change.hour_before)
            .collect();
        changes.sort_by_key(|change| std::cmp::Reverse(change.last_hour.abs_diff(change.hour_before)));
        changes
    }
}

fn minute(at: Timestamp) -> u64 {
    at.as_secs() / 60
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: &str, reason: &str, at: &str) -> RecordedOutcome {
        let text = format!(
            r#"{{"status":"{status}","reason":"{reason}","request_id":"r","finished_at":"2026-11-23T{at}Z"}}"#
        );
        RecordedOutcome::parse(text.as_bytes()).expect("an outcome")
    }

    fn at(text: &str) -> Timestamp {
        format!("2026-11-23T{text}Z").parse().expect("a time")
    }

    #[test]
    fn outcomes_are_counted_in_the_interval_in_which_they_were_decided() {
        let mut counts = OutcomeCounts::default();
        for (status, time) in
            [("unlocked", "08:59:59"), ("unlocked", "09:00:00"), ("refused", "09:29:59"), ("new", "10:10:00")]
        {
            counts.add(&outcome(status, "http_404", time));
        }
        let day = counts.intervals(Window::Day, at("10:10:30"));
        assert_eq!((day.len(), day[47].start, day[45].start), (48, at("10:00:00"), at("09:00:00")));
        assert_eq!(day[44].counts, BTreeMap::from([("unlocked", 1)]));
        assert_eq!(day[45].counts, BTreeMap::from([("refused", 1), ("unlocked", 1)]));
        assert_eq!(day[47].counts, BTreeMap::from([("other", 1)]));
        let hour = counts.intervals(Window::Hour, at("09:59:30"));
        assert_eq!((hour.len(), hour[0].start, hour[0].counts.len()), (60, at("09:00:00"), 1));
        let week = counts.intervals(Window::Week, at("10:10:30"));
        assert_eq!((week.len(), week[55].counts["unlocked"]), (56, 1));
        counts.forget(at("09:29:00").plus(MAX_AGE));
        assert_eq!(
            counts.intervals(Window::Day, at("10:10:30"))[45].counts,
            BTreeMap::from([("refused", 1)])
        );
    }

    #[test]
    fn the_largest_change_of_an_hour_is_first_and_what_stays_is_left_out() {
        let mut counts = OutcomeCounts::default();
        for (status, reason, time, count) in [
            ("refused", "http_404", "09:30:00", 3),
            ("refused", "http_404", "08:30:00", 1),
            ("abandoned", "timeout", "09:59:00", 5),
            ("discarded", "the customer has left", "08:00:00", 1),
            ("invalid", "malformed", "09:10:00", 2),
            ("invalid", "malformed", "08:10:00", 2),
        ] {
            (0..count).for_each(|_| counts.add(&outcome(status, reason, time)));
        }
        let changes = counts.changes(at("10:00:00"));
        let shown: Vec<_> = changes
            .iter()
            .map(|change| (change.status, change.reason.as_deref(), change.last_hour, change.hour_before))
            .collect();
        assert_eq!(
            shown,
            [
                ("abandoned", Some("timeout"), 5, 0),
                ("refused", Some("http_404"), 3, 1),
                ("discarded", None, 0, 1)
            ]
        );
    }
}
