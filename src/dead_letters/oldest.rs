//! Sorts dead letters oldest first, whatever order the queue has: RabbitMQ 4 delivers by priority,
//! and requeued messages may have moved.

use std::collections::BTreeMap;

use super::dead_letter::{DeadLetterId, DeadLetterSummary};
use crate::message::Timestamp;

/// Sort key of a dead letter: its time of death, then its id. Those without a time come last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AgeKey {
    unknown: bool,
    dead_at: Option<Timestamp>,
    id: DeadLetterId,
}

impl AgeKey {
    pub(super) fn new(dead_letter: &DeadLetterSummary) -> Self {
        let DeadLetterSummary { dead_at, id, .. } = dead_letter;
        Self { unknown: dead_at.is_none(), dead_at: *dead_at, id: id.clone() }
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

    /// Whether an item with this key would not be dropped at once.
    pub(super) fn would_keep(&self, key: &AgeKey) -> bool {
        match self.limit {
            Limit::Oldest(max) => {
                self.items.len() < max || self.items.last_key_value().is_some_and(|(last, _)| key < last)
            }
            Limit::Newest(max) => {
                self.items.len() < max || self.items.first_key_value().is_some_and(|(first, _)| key > first)
            }
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

    /// Dead letters with these ids and times of death, in seconds.
    const DEAD_LETTERS: [(&str, Option<i64>); 6] =
        [("f", Some(30)), ("e", None), ("d", Some(10)), ("c", Some(20)), ("b", None), ("a", Some(10))];

    fn sorted(limit: Limit, queue: impl Iterator<Item = (&'static str, Option<i64>)>) -> String {
        let mut sorted = Sorted::new(limit);
        for (id, seconds) in queue {
            let dead_at = seconds.map(|seconds| Timestamp::from_millis(seconds * 1000));
            sorted.add(AgeKey { unknown: dead_at.is_none(), dead_at, id: id.into() }, id);
        }
        assert_eq!(sorted.count(), 6);
        sorted.into_vec().concat()
    }

    #[test]
    fn the_oldest_comes_first_and_items_without_a_time_come_last_whatever_order_the_queue_has() {
        for (limit, expected) in
            [(Limit::Oldest(10), "adcfbe"), (Limit::Oldest(3), "adc"), (Limit::Newest(2), "be")]
        {
            assert_eq!(sorted(limit, DEAD_LETTERS.into_iter()), expected);
            assert_eq!(sorted(limit, DEAD_LETTERS.into_iter().rev()), expected);
        }
    }
}
