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
pub(super) struct SummaryBuilder(BTreeMap<(DeadLetterStatus, Option<String>), Group>);

impl SummaryBuilder {
    pub(super) fn add(&mut self, dead_letter: &DeadLetterSummary) {
        let (status, reason, at) = (dead_letter.status, &dead_letter.reason, dead_letter.dead_at);
        let group = self.0.entry((status, reason.clone())).or_insert_with(|| Group {
            status,
            reason: reason.clone(),
            count: 0,
            oldest: at,
            newest: at,
        });
        group.count += 1;
        group.oldest = group.oldest.into_iter().chain(at).min();
        group.newest = group.newest.into_iter().chain(at).max();
    }

    pub(super) fn finish(self, coverage: Coverage) -> Summary {
        let mut groups: Vec<Group> = self.0.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        Summary {
            count: groups.iter().map(|group| group.count).sum(),
            oldest: groups.iter().filter_map(|group| group.oldest).min(),
            newest: groups.iter().filter_map(|group| group.newest).max(),
            groups,
            coverage,
        }
    }
}
