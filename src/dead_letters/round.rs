//! A round of work: takes all letters, keeps those of the plan that come next, and gives the others
//! back, so that everybody else can see them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{
    desk::{Desk, DeskError},
    letter::{Letter, LetterId},
    scan::{Ids, Scan},
};
use crate::broker::browse::{Bounds, Tag};

/// Bytes of letters that are held at once, about; one may be larger.
const HELD_BYTES: usize = 32 * 1024 * 1024;

/// The letters of a plan of which nothing was said yet, in the plan's order. Letters that are the
/// same in every byte stand for each other: which of them is `ID` and which `ID.2` may change with
/// each look.
#[derive(Debug)]
pub(super) struct Remaining {
    ids: BTreeMap<usize, LetterId>,
    /// Where the plan's letters with the same bytes stand.
    alike: HashMap<String, VecDeque<usize>>,
}

impl Remaining {
    pub(super) fn new(ids: &[LetterId]) -> Self {
        let mut alike: HashMap<String, VecDeque<usize>> = HashMap::new();
        for (at, id) in ids.iter().enumerate() {
            alike.entry(id.digits().to_owned()).or_default().push_back(at);
        }
        Self { ids: ids.iter().cloned().enumerate().collect(), alike }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Something is about to be said of it.
    pub(super) fn remove(&mut self, at: usize) -> Option<LetterId> {
        let id = self.ids.remove(&at)?;
        if let Some(places) = self.alike.get_mut(id.digits()) {
            places.retain(|place| *place != at);
        }
        Some(id)
    }

    /// The first so many.
    fn next(&self, most: usize) -> impl Iterator<Item = (usize, &LetterId)> {
        self.ids.iter().take(most).map(|(at, id)| (*at, id))
    }
}

/// What a round found, and holds.
#[derive(Debug)]
pub(super) struct Round<'a> {
    scan: Scan<'a>,
    /// Letters that are held, by their place in the plan.
    pub(super) held: BTreeMap<usize, (Letter, Tag)>,
    /// Letters of the plan that are not in the queue; none where not all were looked at.
    pub(super) missing: Vec<usize>,
    /// Whether all letters were looked at.
    pub(super) whole: bool,
}

impl<'a> Round<'a> {
    /// Takes the letters that come next, at most so many.
    pub(super) async fn take(
        desk: &'a Desk,
        remaining: &Remaining,
        most: usize,
        bounds: Bounds,
    ) -> Result<Self, DeskError> {
        let taking = desk.lock_taking().await?;
        let scan = desk.scan(bounds, Ids::Given, None).await?;
        let mut round = Self { scan, held: BTreeMap::new(), missing: Vec::new(), whole: false };
        let mut others = Vec::new();
        // How many of the plan's letters with these bytes were found.
        let mut found: HashMap<&str, usize> = HashMap::new();
        let wanted: usize = remaining.next(most).map(|(at, _)| at).last().unwrap_or_default();
        let mut bytes = 0;
        while let Some((letter, tag)) = round.scan.next().await? {
            let alike = remaining.alike.get_key_value(letter.brief.id.digits());
            let place = alike.and_then(|(digits, places)| {
                let nth = found.entry(digits).or_default();
                *nth += 1;
                places.get(*nth - 1).copied()
            });
            match place {
                Some(at) if at <= wanted => {
                    bytes += letter.size();
                    round.held.insert(at, (letter, tag));
                }
                _ => others.push(tag),
            }
            while bytes > HELD_BYTES && round.held.len() > 1 {
                if let Some((_, (letter, tag))) = round.held.pop_last() {
                    bytes -= letter.size().min(bytes);
                    others.push(tag);
                }
            }
        }
        round.whole = round.scan.extent().stopped.is_none();
        for (digits, places) in &remaining.alike {
            let found = found.get(digits.as_str()).copied().unwrap_or(0);
            round.missing.extend(places.iter().skip(found));
        }
        round.missing.sort_unstable();
        round.scan.browser().requeue(others).await?;
        desk.set_held(round.held.len());
        taking.release().await?;
        Ok(round)
    }

    /// Takes a letter out of the queue.
    pub(super) async fn acknowledge(&mut self, tag: Tag) -> Result<(), DeskError> {
        Ok(self.scan.browser().acknowledge(tag).await?)
    }

    /// Gives back what was not acknowledged.
    pub(super) async fn release(self, desk: &Desk) -> Result<(), DeskError> {
        self.scan.release().await?;
        desk.set_held(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_alike_stand_for_each_other() {
        let ids = ["a", "b", "a.2", "a.3"].map(LetterId::from);
        let mut remaining = Remaining::new(&ids);
        assert_eq!(remaining.alike.get("a"), Some(&VecDeque::from([0, 2, 3])));
        assert_eq!(remaining.remove(0), Some("a".into()));
        assert_eq!(remaining.alike.get("a"), Some(&VecDeque::from([2, 3])));
        assert_eq!(remaining.next(2).map(|(at, _)| at).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(remaining.remove(0), None);
        assert_eq!(remaining.len(), 3);
    }
}
