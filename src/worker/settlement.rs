//! Which deliveries of a channel may be acknowledged, and how to say so in as few frames as can be:
//! the broker does less for one acknowledgement of many than for many of one. Pure.

use std::collections::VecDeque;

/// The deliveries of one channel, whose tags count up from one (AMQP 0-9-1, "basic.deliver").
#[derive(Debug)]
pub(super) struct Settlement {
    /// The tag of the first in `states`; all before it are acknowledged.
    first: u64,
    states: VecDeque<State>,
    /// Deliveries that may be acknowledged and are not.
    settled: usize,
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
        Self { first: 1, states: VecDeque::new(), settled: 0 }
    }
}

impl Settlement {
    /// A delivery may be acknowledged. One that was told before is not told again.
    pub(super) fn settle(&mut self, delivery_tag: u64) {
        let Some(index) = delivery_tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok())
        else {
            return;
        };
        if index >= self.states.len() {
            self.states.resize(index + 1, State::Open);
        }
        if let Some(state) = self.states.get_mut(index).filter(|state| **state == State::Open) {
            *state = State::Settled;
            self.settled += 1;
        }
    }

    /// The next acknowledgement to send; `None` when everything that is settled has been told.
    pub(super) fn next(&mut self) -> Option<Acknowledgement> {
        if self.settled == 0 {
            return None;
        }
        self.forget_acknowledged();
        // Up to the first one that is still open, all may be told in one.
        let run = self.states.iter().take_while(|state| **state != State::Open).count();
        let last = self.states.iter().take(run).rposition(|state| *state == State::Settled);
        if let Some(last) = last {
            let told = self.states.drain(..=last).filter(|state| *state == State::Settled).count();
            self.settled -= told;
            self.first += last as u64 + 1;
            return Some(Acknowledgement { delivery_tag: self.first - 1, multiple: told > 1 });
        }
        let index = self.states.iter().position(|state| *state == State::Settled)?;
        if let Some(state) = self.states.get_mut(index) {
            *state = State::Acknowledged;
        }
        self.settled -= 1;
        Some(Acknowledgement { delivery_tag: self.first + index as u64, multiple: false })
    }

    fn forget_acknowledged(&mut self) {
        while self.states.front() == Some(&State::Acknowledged) {
            self.states.pop_front();
            self.first += 1;
        }
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
        assert_eq!(told(&mut settlement), [(2, true), (4, false), (5, false)]);
        settlement.settle(3);
        settlement.settle(6);
        assert_eq!(told(&mut settlement), [(6, true)]);
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
