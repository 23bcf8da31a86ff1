//! Where the latest outcomes are in the stream. No IO.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::message::Timestamp;

/// How many outcomes are indexed: 15 MiB.
const MAX_OUTCOMES: usize = 250_000;

/// The offsets of the latest outcomes by a hash of their request's id. A hash may be another id's.
#[derive(Debug)]
pub(super) struct OutcomeIndex {
    offsets: HashMap<u64, u64>,
    order: VecDeque<Indexed>,
    complete_from: Timestamp,
    /// What was read from this offset on is indexed; `None` before anything was read.
    first: Option<u64>,
    /// There are too many from this time on.
    too_many_since: Option<Timestamp>,
    max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Indexed {
    hash: u64,
    offset: u64,
    finished_at: Timestamp,
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
        Self {
            offsets: HashMap::new(),
            order: VecDeque::new(),
            complete_from,
            first: None,
            too_many_since: None,
            max: MAX_OUTCOMES,
        }
    }

    /// What is added from now on begins at this offset.
    pub(super) fn begin_at(&mut self, offset: u64) {
        self.first = Some(offset);
    }

    /// There is nothing older than what is added from now on.
    pub(super) fn begin_with_all(&mut self) {
        self.complete_from = Timestamp::EPOCH;
    }

    /// Adds the next outcome of the stream.
    pub(super) fn add(&mut self, request_id: &str, offset: u64, finished_at: Timestamp) {
        if self.order.len() >= self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.first = Some(oldest.offset + 1);
            let next = Timestamp::from_millis(oldest.finished_at.as_millis() + 1);
            self.complete_from = self.complete_from.max(next);
            // A later outcome of the same request stays.
            if self.offsets.get(&oldest.hash) == Some(&oldest.offset) {
                self.offsets.remove(&oldest.hash);
            }
        }
        let hash = hash(request_id);
        self.offsets.insert(hash, offset);
        self.order.push_back(Indexed { hash, offset, finished_at });
    }

    /// Whether it has every outcome that was decided at `since` or later.
    pub(super) fn reaches(&self, since: Timestamp) -> bool {
        since >= self.complete_from
    }

    /// The offset before which outcomes can be added by [`Self::extend`], and how many.
    pub(super) fn room(&self) -> Option<(u64, u64)> {
        let room = self.max.saturating_sub(self.order.len());
        Some((self.first?, u64::try_from(room).unwrap_or(u64::MAX)))
    }

    /// Puts the outcomes of another index before those of this one, if they end where this one begins and there is
    /// room.
    pub(super) fn extend(&mut self, older: &Self, end: u64) {
        if self.first != Some(end) || self.order.len() + older.order.len() > self.max {
            return;
        }
        for indexed in older.order.iter().rev() {
            self.offsets.entry(indexed.hash).or_insert(indexed.offset);
            self.order.push_front(*indexed);
        }
        (self.first, self.complete_from) = (older.first, older.complete_from);
    }

    /// Notes that there are too many outcomes from this time on. There will be more only.
    pub(super) fn give_up(&mut self, since: Timestamp) {
        self.too_many_since = self.too_many_since.max(Some(since));
    }

    /// Whether it is known that it cannot reach back to this time.
    pub(super) fn has_given_up(&self, since: Timestamp) -> bool {
        self.too_many_since.is_some_and(|too_many| since <= too_many)
    }

    /// Looks up the latest outcome of a request, which may be older than `since`; pending only if none was decided at
    /// `since` or later.
    pub(super) fn find(&self, request_id: &str, since: Timestamp) -> Known {
        match self.offsets.get(&hash(request_id)) {
            Some(offset) => Known::At(*offset),
            None if self.reaches(since) => Known::Pending,
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
    #[test]
    fn older_outcomes_are_put_before_those_there_are() {
        let mut older = OutcomeIndex::new(at(0));
        older.begin_at(5);
        older.add("a", 5, at(1));
        older.add("b", 6, at(2));
        older.add("b", 7, at(3));
        let mut index = OutcomeIndex { max: 4, ..OutcomeIndex::new(at(10)) };
        assert_eq!(index.room(), None, "nothing was read");
        index.begin_at(8);
        index.add("a", 8, at(11));
        assert_eq!(index.room(), Some((8, 3)));
        index.extend(&older, 9);
        assert!(!index.reaches(at(0)), "there would be a gap");
        index.extend(&older, 8);
        assert!(index.reaches(at(0)));
        assert_eq!((index.find("a", at(0)), index.find("b", at(0))), (Known::At(8), Known::At(7)));
        assert_eq!(index.find("c", at(0)), Known::Pending);
        index.add("c", 9, at(12));
        assert_eq!(index.room(), Some((6, 0)), "the oldest one is gone");
        assert_eq!(index.find("a", at(0)), Known::At(8));
        assert!(!index.reaches(at(1)) && index.reaches(at(2)));
    }

    #[test]
    fn where_there_are_too_many_it_is_not_tried_again_to_reach_back() {
        let mut index = OutcomeIndex::new(at(10));
        assert!(!index.has_given_up(at(5)));
        index.give_up(at(5));
        index.give_up(at(3));
        assert!(index.has_given_up(at(5)) && index.has_given_up(at(4)) && !index.has_given_up(at(6)));
    }
}
