//! Letters counted by status and reason.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{letter::Brief, scan::Extent};
use crate::message::{DeadLetterStatus, Timestamp};

/// All letters that were asked for, in groups, the largest first.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Summary {
    pub count: u64,
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
    pub groups: Vec<Group>,
    pub extent: Extent,
}

/// Letters with the same status and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Group {
    pub status: DeadLetterStatus,
    pub reason: Option<String>,
    pub count: u64,
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
}

/// Times are kept, not letters: a summary of a hundred thousand takes no more room than of ten.
#[derive(Debug, Default)]
pub(super) struct Summing(BTreeMap<(DeadLetterStatus, Option<String>), Span>);

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

impl Summing {
    pub(super) fn add(&mut self, letter: &Brief) {
        let one = Span { count: 1, oldest: letter.dead_at, newest: letter.dead_at };
        self.0.entry((letter.status, letter.reason.clone())).or_default().add(one);
    }

    pub(super) fn finish(self, extent: Extent) -> Summary {
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
        Summary { count: all.count, oldest: all.oldest, newest: all.newest, groups, extent }
    }
}
