//! The order of dead letters: oldest first, whatever order the queue has (RabbitMQ 4 delivers by
//! priority, and what was given back may have moved).

use std::collections::BTreeMap;

use super::letter::Brief;
use crate::message::Timestamp;

/// Where a letter stands among the others: by when it died, then by its place in the queue. Those
/// whose time nobody knows come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    unknown: bool,
    dead_at: Option<Timestamp>,
    place: usize,
}

impl Age {
    pub(super) fn new(letter: &Brief, place: usize) -> Self {
        Self { unknown: letter.dead_at.is_none(), dead_at: letter.dead_at, place }
    }
}

/// Which ones are kept where there are more than may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    Oldest(usize),
    Newest(usize),
}

/// Sorts what comes in the queue's order, and keeps so many.
#[derive(Debug)]
pub(super) struct Sorted<T> {
    keep: Keep,
    kept: BTreeMap<Age, T>,
    /// Those that came, kept or not.
    count: usize,
}

impl<T> Sorted<T> {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, kept: BTreeMap::new(), count: 0 }
    }

    pub(super) fn add(&mut self, age: Age, item: T) {
        self.count += 1;
        self.kept.insert(age, item);
        match self.keep {
            Keep::Oldest(most) if self.kept.len() > most => {
                self.kept.pop_last();
            }
            Keep::Newest(most) if self.kept.len() > most => {
                self.kept.pop_first();
            }
            _ => {}
        }
    }

    /// Drops the newest, if more than one is kept.
    pub(super) fn drop_oldest(&mut self) -> Option<T> {
        (self.kept.len() > 1).then(|| self.kept.pop_first().map(|(_, item)| item)).flatten()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What was kept, oldest first.
    pub(super) fn into_vec(self) -> Vec<T> {
        self.kept.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(seconds: Option<i64>, place: usize) -> Age {
        let dead_at = seconds.map(|seconds| Timestamp::from_millis(seconds * 1000));
        Age { unknown: dead_at.is_none(), dead_at, place }
    }

    fn sorted(keep: Keep) -> Vec<usize> {
        let mut sorted = Sorted::new(keep);
        let times = [Some(30), None, Some(10), Some(20), None, Some(10)];
        for (place, seconds) in times.into_iter().enumerate() {
            sorted.add(age(seconds, place), place);
        }
        assert_eq!(sorted.count(), 6);
        sorted.into_vec()
    }

    #[test]
    fn the_oldest_comes_first_ties_stay_as_they_stood_and_what_has_no_time_comes_last() {
        assert_eq!(sorted(Keep::Oldest(10)), [2, 5, 3, 0, 1, 4]);
        assert_eq!(sorted(Keep::Oldest(3)), [2, 5, 3]);
        assert_eq!(sorted(Keep::Newest(2)), [1, 4]);
    }
}
