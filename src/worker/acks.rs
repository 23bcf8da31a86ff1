//! Tracks which deliveries of a channel may be acknowledged, and combines them into as few frames
//! as possible: one acknowledgement of many deliveries costs RabbitMQ less than many of one. Pure.

use std::collections::VecDeque;

/// The deliveries of one channel. Their tags count up from one (AMQP 0-9-1, "basic.deliver").
#[derive(Debug)]
pub(super) struct AckTracker {
    /// The tag of the first delivery in `states`; all before it are acknowledged.
    first: u64,
    states: VecDeque<State>,
    /// Tags of settled deliveries, newest last. Those acknowledged with `multiple` are still in it.
    settled_out_of_order: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not settled yet, or never delivered.
    Open,
    Settled,
    Acknowledged,
}

/// Acknowledges this delivery; with `multiple`, also all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledgement {
    pub(super) delivery_tag: u64,
    pub(super) multiple: bool,
}

impl Default for AckTracker {
    fn default() -> Self {
        Self { first: 1, states: VecDeque::new(), settled_out_of_order: Vec::new() }
    }
}

impl AckTracker {
    /// Marks a delivery as settled. Has no effect on one that was settled before.
    pub(super) fn settle(&mut self, delivery_tag: u64) {
        let Some(index) = self.index(delivery_tag) else {
            return;
        };
        if index >= self.states.len() {
            self.states.resize(index + 1, State::Open);
        }
        if let Some(state) = self.states.get_mut(index).filter(|state| **state == State::Open) {
            *state = State::Settled;
            self.settled_out_of_order.push(delivery_tag);
        }
    }

    /// The next acknowledgement to send; `None` when all settled deliveries are acknowledged. Takes
    /// no longer when there are many deliveries behind an open one.
    pub(super) fn next(&mut self) -> Option<Acknowledgement> {
        // All deliveries before the first open one need only one acknowledgement.
        let (mut count, mut last) = (0, self.first);
        while let Some(state) = self.states.front().filter(|state| **state != State::Open) {
            if *state == State::Settled {
                (count, last) = (count + 1, self.first);
            }
            self.states.pop_front();
            self.first += 1;
        }
        if count > 0 {
            return Some(Acknowledgement { delivery_tag: last, multiple: count > 1 });
        }
        while let Some(delivery_tag) = self.settled_out_of_order.pop() {
            let state = self.index(delivery_tag).and_then(|index| self.states.get_mut(index));
            if let Some(state) = state.filter(|state| **state == State::Settled) {
                *state = State::Acknowledged;
                return Some(Acknowledgement { delivery_tag, multiple: false });
            }
        }
        None
    }

    fn index(&self, delivery_tag: u64) -> Option<usize> {
        delivery_tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn drain(acks: &mut AckTracker) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| acks.next()).map(|ack| (ack.delivery_tag, ack.multiple)).collect()
    }

    #[test]
    fn deliveries_settled_in_order_need_one_acknowledgement() {
        let mut acks = AckTracker::default();
        (1..=5).for_each(|tag| acks.settle(tag));
        assert_eq!(drain(&mut acks), [(5, true)]);
        acks.settle(6);
        assert_eq!(drain(&mut acks), [(6, false)]);
    }

    #[test]
    fn deliveries_settled_behind_an_open_one_are_acknowledged_one_by_one() {
        let mut acks = AckTracker::default();
        [2, 4, 1, 5].into_iter().for_each(|tag| acks.settle(tag));
        assert_eq!(drain(&mut acks), [(2, true), (5, false), (4, false)]);
        acks.settle(3);
        acks.settle(6);
        assert_eq!(drain(&mut acks), [(6, true)]);
    }

    #[test]
    fn an_open_delivery_does_not_slow_down_the_others() {
        let mut acks = AckTracker::default();
        let begun = std::time::Instant::now();
        for tag in 2..200_000 {
            acks.settle(tag);
            assert_eq!(drain(&mut acks), [(tag, false)]);
        }
        acks.settle(1);
        assert_eq!(drain(&mut acks), [(1, false)]);
        // Scanning all deliveries behind it each time would take minutes.
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }

    #[test]
    fn nothing_is_acknowledged_twice() {
        let mut acks = AckTracker::default();
        [1, 1, 3].into_iter().for_each(|tag| acks.settle(tag));
        assert_eq!(drain(&mut acks), [(1, false), (3, false)]);
        [1, 3].into_iter().for_each(|tag| acks.settle(tag));
        assert_eq!(drain(&mut acks), []);
    }

    proptest! {
        /// Counts as RabbitMQ does: `multiple` covers all deliveries up to the tag.
        #[test]
        fn exactly_the_settled_deliveries_are_acknowledged(
            order in Just((1..=40u64).collect::<Vec<_>>()).prop_shuffle(),
            pauses in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let mut acks = AckTracker::default();
            let (mut settled, mut acknowledged) = (BTreeSet::new(), BTreeSet::new());
            for (tag, pause) in order.into_iter().zip(pauses) {
                acks.settle(tag);
                settled.insert(tag);
                if pause {
                    continue;
                }
                while let Some(ack) = acks.next() {
                    let covered: Vec<u64> = match ack.multiple {
                        true => (1..=ack.delivery_tag).filter(|tag| !acknowledged.contains(tag)).collect(),
                        false => vec![ack.delivery_tag],
                    };
                    for tag in covered {
                        prop_assert!(settled.contains(&tag), "{tag} is not settled");
                        prop_assert!(acknowledged.insert(tag), "{tag} is acknowledged twice");
                    }
                }
                prop_assert_eq!(&settled, &acknowledged);
            }
        }
    }
}
