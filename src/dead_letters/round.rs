//! One round of an execution: consumes dead letters until it has the next ones of the plan, and
//! requeues the others so that everyone else can see them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{
    dead_letter::{DeadLetter, DeadLetterId},
    error::AccessError,
    scan::{IdMode, Scan},
    session::LockedSession,
};
use crate::broker::browse::{Bounds, Tag};

/// Approximate memory for the dead letters of one round, in bytes. A single one may be larger.
const MAX_TAKEN_BYTES: usize = 32 * 1024 * 1024;

/// The dead letters of a plan without a result, in the plan's order. Dead letters with identical
/// bytes are interchangeable: which of them is `ID` and which `ID.2` may change with each browse.
#[derive(Debug)]
pub(super) struct Remaining {
    ids: BTreeMap<usize, DeadLetterId>,
    /// The plan's positions of dead letters with identical bytes.
    identical: HashMap<String, VecDeque<usize>>,
}

impl Remaining {
    pub(super) fn new(ids: &[DeadLetterId]) -> Self {
        let mut identical: HashMap<String, VecDeque<usize>> = HashMap::new();
        for (at, id) in ids.iter().enumerate() {
            identical.entry(id.digits().to_owned()).or_default().push_back(at);
        }
        Self { ids: ids.iter().cloned().enumerate().collect(), identical }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Removes one that is about to get a result.
    pub(super) fn remove(&mut self, at: usize) -> Option<DeadLetterId> {
        let id = self.ids.remove(&at)?;
        if let Some(places) = self.identical.get_mut(id.digits()) {
            places.retain(|place| *place != at);
        }
        Some(id)
    }

    /// The first `max`.
    fn next(&self, max: usize) -> impl Iterator<Item = (usize, &DeadLetterId)> {
        self.ids.iter().take(max).map(|(at, id)| (*at, id))
    }
}

/// The dead letters that a round has taken.
#[derive(Debug)]
pub(super) struct Round {
    scan: Scan,
    /// Dead letters that are neither acknowledged nor requeued, by their position in the plan.
    pub(super) taken: BTreeMap<usize, (DeadLetter, Tag)>,
    /// Positions in the plan of dead letters that this round did not see. Those behind the next ones
    /// may be in the queue, unless the round took none.
    pub(super) missing: Vec<usize>,
    /// Whether the round saw all dead letters of the queue.
    pub(super) saw_all: bool,
}

impl Round {
    /// Takes the next `max` dead letters of the plan. `max` is at least one.
    pub(super) async fn take(
        session: &LockedSession,
        remaining: &Remaining,
        max: usize,
        bounds: Bounds,
    ) -> Result<Self, AccessError> {
        let lock = session.lock_consuming().await?;
        let scan = session.scan(bounds, IdMode::Compute, None).await?;
        let mut round = Self { scan, taken: BTreeMap::new(), missing: Vec::new(), saw_all: false };
        let mut others = Vec::new();
        // How many dead letters with these bytes were found.
        let mut found: HashMap<&str, usize> = HashMap::new();
        let wanted: BTreeSet<usize> = remaining.next(max).map(|(at, _)| at).collect();
        let (mut seen, mut bytes) = (0, 0);
        while seen < wanted.len()
            && let Some((dead_letter, tag)) = round.scan.next().await?
        {
            let identical = remaining.identical.get_key_value(dead_letter.summary.id.digits());
            let position = identical.and_then(|(digits, places)| {
                let nth = found.entry(digits).or_default();
                *nth += 1;
                places.get(*nth - 1).copied()
            });
            match position {
                Some(at) if wanted.contains(&at) => {
                    seen += 1;
                    bytes += dead_letter.size();
                    round.taken.insert(at, (dead_letter, tag));
                }
                _ => others.push(tag),
            }
            while bytes > MAX_TAKEN_BYTES && round.taken.len() > 1 {
                if let Some((_, (dead_letter, tag))) = round.taken.pop_last() {
                    bytes -= dead_letter.size().min(bytes);
                    others.push(tag);
                }
            }
        }
        round.saw_all = round.scan.coverage().stopped.is_none();
        for (digits, places) in &remaining.identical {
            let found = found.get(digits.as_str()).copied().unwrap_or(0);
            round.missing.extend(places.iter().skip(found));
        }
        round.missing.sort_unstable();
        round.scan.browser().requeue(&others).await?;
        session.set_taken(round.taken.len());
        lock.release().await?;
        Ok(round)
    }

    /// Removes a dead letter from the queue.
    pub(super) async fn acknowledge(&mut self, tag: Tag) -> Result<(), AccessError> {
        Ok(self.scan.browser().acknowledge(tag).await?)
    }

    /// Requeues all that were not acknowledged.
    pub(super) async fn release(self, session: &LockedSession) -> Result<(), AccessError> {
        session.release(self.scan).await?;
        session.set_taken(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_with_identical_bytes_are_interchangeable() {
        let ids = ["a", "b", "a.2", "a.3"].map(DeadLetterId::from);
        let mut remaining = Remaining::new(&ids);
        assert_eq!(remaining.identical.get("a"), Some(&VecDeque::from([0, 2, 3])));
        assert_eq!(remaining.remove(0), Some("a".into()));
        assert_eq!(remaining.identical.get("a"), Some(&VecDeque::from([2, 3])));
        assert_eq!(remaining.next(2).map(|(at, _)| at).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(remaining.remove(0), None);
        assert_eq!(remaining.len(), 3);
    }
}
