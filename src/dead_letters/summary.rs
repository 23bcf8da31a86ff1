//! Counts dead letters by status and reason.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{dead_letter::DeadLetterSummary, scan::Coverage};
use crate::message::{DeadLetterStatus, Timestamp};

/// Counts of dead letters in groups, the largest group first.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Summary {
    pub count: u64,
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
    pub groups: Vec<Group>,
    pub coverage: Coverage,
}

/// Dead letters with the same status and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Group {
    pub status: DeadLetterStatus,
    pub reason: Option<String>,
    pub count: u64,
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
}

/// Stores counts and times only, so its size does not grow with the number of dead letters.
#[derive(Debug, Default)]
pub(super) struct SummaryBuilder(BTreeMap<(DeadLetterStatus, Option<String>), Span>);

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    count: u64,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
}

impl Span {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.oldest = self.oldest.into_iter().chain(other.oldest).min();
        self.newest = self.newest.into_iter().chain(other.newest).max();
    }
}

impl SummaryBuilder {
    pub(super) fn add(&mut self, dead_letter: &DeadLetterSummary) {
        let one = Span { count: 1, oldest: dead_letter.dead_at, newest: dead_letter.dead_at };
        self.0.entry((dead_letter.status, dead_letter.reason.clone())).or_default().add(one);
    }

    pub(super) fn finish(self, coverage: Coverage) -> Summary {
        let mut all = Span::default();
        let mut groups: Vec<Group> = Vec::with_capacity(self.0.len());
        for ((status, reason), span) in self.0 {
            all.add(span);
            groups.push(Group {
                status,
                reason,
                count: span.count,
                oldest: span.oldest,
                newest: span.newest,
            });
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        Summary { count: all.count, oldest: all.oldest, newest: all.newest, groups, coverage }
    }
}
