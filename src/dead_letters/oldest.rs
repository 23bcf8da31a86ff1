//! Sorts dead letters oldest first, whatever order the queue has: RabbitMQ 4 delivers by priority,
//! and requeued messages may have moved.

use std::collections::BTreeMap;

use super::dead_letter::DeadLetterSummary;
use crate::message::Timestamp;

/// Sort key of a dead letter: its time of death, then its position in the queue. Those without a
/// time come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AgeKey {
    unknown: bool,
    dead_at: Option<Timestamp>,
    position: usize,
}

impl AgeKey {
    pub(super) fn new(dead_letter: &DeadLetterSummary, position: usize) -> Self {
        Self { unknown: dead_letter.dead_at.is_none(), dead_at: dead_letter.dead_at, position }
    }
}

/// Which items to drop when there are too many: all but this many oldest or newest.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Oldest(usize),
    Newest(usize),
}

/// Sorts items by age and drops those beyond the limit.
#[derive(Debug)]
pub(super) struct Sorted<T> {
    limit: Limit,
    items: BTreeMap<AgeKey, T>,
    /// All items that were added, also those that were dropped.
    count: usize,
}

impl<T> Sorted<T> {
    pub(super) fn new(limit: Limit) -> Self {
        Self { limit, items: BTreeMap::new(), count: 0 }
    }

    pub(super) fn add(&mut self, key: AgeKey, item: T) {
        self.count += 1;
        self.items.insert(key, item);
        match self.limit {
            Limit::Oldest(max) if self.items.len() > max => {
                self.items.pop_last();
            }
            Limit::Newest(max) if self.items.len() > max => {
                self.items.pop_first();
            }
            _ => {}
        }
    }

    /// Drops the oldest item, if there is more than one.
    pub(super) fn drop_oldest(&mut self) -> Option<T> {
        (self.items.len() > 1).then(|| self.items.pop_first().map(|(_, item)| item)).flatten()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The items that were not dropped, oldest first.
    pub(super) fn into_vec(self) -> Vec<T> {
        self.items.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seconds: Option<i64>, position: usize) -> AgeKey {
        let dead_at = seconds.map(|seconds| Timestamp::from_millis(seconds * 1000));
        AgeKey { unknown: dead_at.is_none(), dead_at, position }
    }

    fn sorted(limit: Limit) -> Vec<usize> {
        let mut sorted = Sorted::new(limit);
        let times = [Some(30), None, Some(10), Some(20), None, Some(10)];
        for (position, seconds) in times.into_iter().enumerate() {
            sorted.add(key(seconds, position), position);
        }
        assert_eq!(sorted.count(), 6);
        sorted.into_vec()
    }

    #[test]
    fn the_oldest_comes_first_ties_keep_the_queues_order_and_items_without_a_time_come_last() {
        assert_eq!(sorted(Limit::Oldest(10)), [2, 5, 3, 0, 1, 4]);
        assert_eq!(sorted(Limit::Oldest(3)), [2, 5, 3]);
        assert_eq!(sorted(Limit::Newest(2)), [1, 4]);
    }
}
