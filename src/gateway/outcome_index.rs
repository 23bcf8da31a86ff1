//! Where the latest outcomes are in the stream. No IO.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::message::Timestamp;

/// How many outcomes are indexed: some 5 MiB.
const MAX_OUTCOMES: usize = 100_000;

/// The offsets of the latest outcomes by a hash of their request's id. A hash may be another id's.
#[derive(Debug)]
pub(super) struct OutcomeIndex {
    offsets: HashMap<u64, u64>,
    order: VecDeque<(u64, u64, Timestamp)>,
    complete_from: Timestamp,
    max: usize,
}

/// What the index knows about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    At(u64),
    /// It has no outcome yet.
    Pending,
    /// Its outcome may be older than what is indexed.
    Unknown,
}

impl OutcomeIndex {
    /// An index that will have all outcomes that were decided from `complete_from` on.
    pub(super) fn new(complete_from: Timestamp) -> Self {
        Self { offsets: HashMap::new(), order: VecDeque::new(), complete_from, max: MAX_OUTCOMES }
    }

    /// Adds the next outcome of the stream.
    pub(super) fn add(&mut self, request_id: &str, offset: u64, finished_at: Timestamp) {
        let hash = hash(request_id);
        if self.order.len() >= self.max
            && let Some((oldest, at, finished_at)) = self.order.pop_front()
        {
            self.complete_from = self.complete_from.max(Timestamp::from_millis(finished_at.as_millis() + 1));
            // A later outcome of the same request stays.
            if self.offsets.get(&oldest) == Some(&at) {
                self.offsets.remove(&oldest);
            }
        }
        self.offsets.insert(hash, offset);
        self.order.push_back((hash, offset, finished_at));
    }

    /// Looks up the outcome of a request that was decided at `since` or later.
    pub(super) fn find(&self, request_id: &str, since: Timestamp) -> Known {
        match self.offsets.get(&hash(request_id)) {
            Some(offset) => Known::At(*offset),
            None if since >= self.complete_from => Known::Pending,
            None => Known::Unknown,
        }
    }
}

fn hash(request_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    request_id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn what_is_not_indexed_is_pending_only_if_it_would_be_indexed() {
        let mut index = OutcomeIndex { max: 2, ..OutcomeIndex::new(at(1000)) };
        index.add("a", 7, at(1500));
        assert_eq!(index.find("a", at(0)), Known::At(7));
        assert_eq!((index.find("b", at(1000)), index.find("b", at(999))), (Known::Pending, Known::Unknown));
        index.add("b", 8, at(1600));
        index.add("c", 9, at(1700));
        assert_eq!((index.find("a", at(1500)), index.find("a", at(1501))), (Known::Unknown, Known::Pending));
        assert_eq!((index.find("b", at(0)), index.find("c", at(0))), (Known::At(8), Known::At(9)));
    }

    #[test]
    fn the_latest_outcome_of_a_request_counts_and_outlives_an_older_one() {
        let mut index = OutcomeIndex { max: 2, ..OutcomeIndex::new(at(0)) };
        index.add("a", 1, at(1));
        index.add("a", 2, at(2));
        index.add("b", 3, at(3));
        assert_eq!(index.find("a", at(0)), Known::At(2));
    }
}
