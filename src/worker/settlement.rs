//! Which deliveries of a channel may be acknowledged, and how to say so in as few frames as can be:
//! the broker does less for one acknowledgement of many than for many of one. Pure.

use std::collections::VecDeque;

/// The deliveries of one channel, whose tags count up from one (AMQP 0-9-1, "basic.deliver").
#[derive(Debug)]
pub(super) struct Settlement {
    /// The tag of the first in `states`; all before it are acknowledged.
    first: u64,
    states: VecDeque<State>,
    /// Those that may be acknowledged; some of them may have been by now.
    untold: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Under way, or never seen.
    Open,
    Settled,
    Acknowledged,
}

/// What to tell the broker: that this delivery is settled, with `multiple` all before it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledgement {
    pub(super) delivery_tag: u64,
    pub(super) multiple: bool,
}

impl Default for Settlement {
    fn default() -> Self {
        Self { first: 1, states: VecDeque::new(), untold: Vec::new() }
    }
}

impl Settlement {
    /// A delivery may be acknowledged. One that was told before is not told again.
    pub(super) fn settle(&mut self, delivery_tag: u64) {
        let Some(index) = self.index(delivery_tag) else {
            return;
        };
        if index >= self.states.len() {
            self.states.resize(index + 1, State::Open);
        }
        if let Some(state) = self.states.get_mut(index).filter(|state| **state == State::Open) {
            *state = State::Settled;
            self.untold.push(delivery_tag);
        }
    }

    /// The next acknowledgement to send; `None` when everything that is settled has been told. Takes
    /// no longer the more deliveries there are behind one that is open.
    pub(super) fn next(&mut self) -> Option<Acknowledgement> {
        // Up to the first one that is open, all may be told in one.
        let (mut told, mut last) = (0, self.first);
        while let Some(state) = self.states.front().filter(|state| **state != State::Open) {
            if *state == State::Settled {
                (told, last) = (told + 1, self.first);
            }
            self.states.pop_front();
            self.first += 1;
        }
        if told > 0 {
            return Some(Acknowledgement { delivery_tag: last, multiple: told > 1 });
        }
        while let Some(delivery_tag) = self.untold.pop() {
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

    fn told(settlement: &mut Settlement) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| settlement.next()).map(|ack| (ack.delivery_tag, ack.multiple)).collect()
    }

    #[test]
    fn what_is_settled_in_order_is_told_in_one() {
        let mut settlement = Settlement::default();
        (1..=5).for_each(|tag| settlement.settle(tag));
        assert_eq!(told(&mut settlement), [(5, true)]);
        settlement.settle(6);
        assert_eq!(told(&mut settlement), [(6, false)]);
    }

    #[test]
    fn what_is_settled_behind_one_that_is_open_is_told_one_by_one() {
        let mut settlement = Settlement::default();
        [2, 4, 1, 5].into_iter().for_each(|tag| settlement.settle(tag));
        assert_eq!(told(&mut settlement), [(2, true), (5, false), (4, false)]);
        settlement.settle(3);
        settlement.settle(6);
        assert_eq!(told(&mut settlement), [(6, true)]);
    }

    #[test]
    fn one_that_stays_open_makes_the_others_no_slower() {
        let mut settlement = Settlement::default();
        let begun = std::time::Instant::now();
        for tag in 2..200_000 {
            settlement.settle(tag);
            assert_eq!(told(&mut settlement), [(tag, false)]);
        }
        settlement.settle(1);
        assert_eq!(told(&mut settlement), [(1, false)]);
        // To look through all that is behind it each time would take minutes.
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }

    #[test]
    fn nothing_is_told_twice() {
        let mut settlement = Settlement::default();
        [1, 1, 3].into_iter().for_each(|tag| settlement.settle(tag));
        assert_eq!(told(&mut settlement), [(1, false), (3, false)]);
        [1, 3].into_iter().for_each(|tag| settlement.settle(tag));
        assert_eq!(told(&mut settlement), []);
    }

    proptest! {
        /// As the broker takes it: `multiple` is about all that was delivered up to the tag.
        #[test]
        fn exactly_what_is_settled_is_acknowledged(
            order in Just((1..=40u64).collect::<Vec<_>>()).prop_shuffle(),
            pauses in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let mut settlement = Settlement::default();
            let (mut settled, mut acknowledged) = (BTreeSet::new(), BTreeSet::new());
            for (tag, pause) in order.into_iter().zip(pauses) {
                settlement.settle(tag);
                settled.insert(tag);
                if pause {
                    continue;
                }
                while let Some(ack) = settlement.next() {
                    let covered: Vec<u64> = match ack.multiple {
                        true => (1..=ack.delivery_tag).filter(|tag| !acknowledged.contains(tag)).collect(),
                        false => vec![ack.delivery_tag],
                    };
                    for tag in covered {
                        prop_assert!(settled.contains(&tag), "{tag} is not settled");
                        prop_assert!(acknowledged.insert(tag), "{tag} is told twice");
                    }
                }
                prop_assert_eq!(&settled, &acknowledged);
            }
        }
    }
}
