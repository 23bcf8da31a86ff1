//! Letters as they are taken, in the queue's order.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    letter::{Letter, LetterId, fingerprint},
    lock::Holder,
};
use crate::broker::{
    browse::{Bounds, BrowsedMessage, Incomplete, QueueBrowser, Tag},
    wire::{WireConnection, WireDelivery, WireError},
};

/// How far a scan came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Extent {
    /// Letters that were looked at.
    pub seen: usize,
    /// Letters there were when it began, those included that somebody works on.
    pub of: usize,
    /// Why it ended before the last one.
    pub stopped: Option<Stopped>,
    /// Who works on some of them, which cannot be seen meanwhile.
    pub held: Option<Held>,
}

/// Why a scan ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// There are more than are looked at in one go.
    Count,
    /// It took too long.
    Time,
    /// Somebody else has taken some of them meanwhile.
    Elsewhere,
}

/// Letters that somebody works on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Held {
    /// How many; null if their holder does not say.
    pub count: Option<usize>,
    /// Who, doing what, since when.
    pub by: String,
}

impl Held {
    pub(super) fn new(holder: &Holder) -> Self {
        Self { count: holder.holds, by: holder.to_string() }
    }
}

impl Extent {
    /// Whether there may be letters that were not looked at.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.stopped.is_some() || self.held.as_ref().is_some_and(|held| held.count != Some(0))
    }
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "saw {} of {}", self.seen, self.of)?;
        match self.stopped {
            None => {}
            Some(Stopped::Count) => write!(f, "; there are more than are looked at in one go")?,
            Some(Stopped::Time) => write!(f, "; to look at the rest takes too long")?,
            Some(Stopped::Elsewhere) => write!(f, "; somebody else has taken the rest meanwhile")?,
        }
        match &self.held {
            Some(Held { count: Some(count), by }) => write!(f, "; {by} holds {count} of them"),
            Some(Held { count: None, by }) => write!(f, "; {by} holds some of them"),
            None => Ok(()),
        }
    }
}

/// Whether letters are given their ids, which is most of the work of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    Given,
    /// For who only counts.
    None,
}

/// Letters that are held.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    browser: QueueBrowser<'a>,
    ids: Ids,
    held: Option<Held>,
    names: Names,
}

impl<'a> Scan<'a> {
    /// `held` are those that are not in the queue because somebody works on them.
    pub(super) async fn begin(
        connection: &'a WireConnection,
        queue: &str,
        bounds: Bounds,
        ids: Ids,
        held: Option<Held>,
    ) -> Result<Self, WireError> {
        let browser = QueueBrowser::open(connection, queue, bounds).await?;
        Ok(Self { browser, ids, held, names: Names::default() })
    }

    /// The next letter, and what to acknowledge it by. `None` when there are no more, or no more may
    /// be taken.
    pub(super) async fn next(&mut self) -> Result<Option<(Letter, Tag)>, WireError> {
        let Some(BrowsedMessage { delivery, tag }) = self.browser.next().await? else {
            return Ok(None);
        };
        let WireDelivery { properties, body, .. } = delivery;
        let letter = Letter::open(properties, body, |properties, body| match self.ids {
            Ids::Given => self.names.name(&fingerprint(properties, body)),
            Ids::None => LetterId::from(""),
        });
        Ok(Some((letter, tag)))
    }

    pub(super) fn extent(&self) -> Extent {
        let stopped = self.browser.incomplete().map(|incomplete| match incomplete {
            Incomplete::Count => Stopped::Count,
            Incomplete::Time => Stopped::Time,
            Incomplete::Elsewhere => Stopped::Elsewhere,
        });
        let held = self.held.as_ref().and_then(|held| held.count).unwrap_or(0);
        Extent {
            seen: self.browser.taken(),
            of: self.browser.total() + held,
            stopped,
            held: self.held.clone(),
        }
    }

    /// The place of the letter that came last, counted from one.
    pub(super) fn place(&self) -> usize {
        self.browser.taken()
    }

    pub(super) fn browser(&mut self) -> &mut QueueBrowser<'a> {
        &mut self.browser
    }

    /// Gives back all that was not acknowledged.
    pub(super) async fn release(self) -> Result<(), WireError> {
        self.browser.release().await
    }
}

/// How many letters would have had each id.
#[derive(Debug, Default)]
struct Names(HashMap<LetterId, u32>);

impl Names {
    /// The next letter's id: another than all before it.
    fn name(&mut self, fingerprint: &str) -> LetterId {
        let nth = self.0.entry(LetterId::new(fingerprint, 1)).or_insert(0);
        *nth += 1;
        LetterId::new(fingerprint, *nth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_differ_have_different_ids_also_where_their_digests_begin_alike() {
        let mut names = Names::default();
        let ids = ["0123456789abcd", "0123456789abce", "0123456789abcd", "ffffffffffffff"];
        let ids = ids.map(|fingerprint| names.name(fingerprint).to_string());
        assert_eq!(ids, ["0123456789ab", "0123456789ab.2", "0123456789ab.3", "ffffffffffff"]);
    }

    #[test]
    fn what_others_hold_makes_a_look_short_and_is_said() {
        let held = Held { count: Some(3), by: "alice by command line (replay, since …)".to_owned() };
        let extent = Extent { seen: 7, of: 10, stopped: None, held: Some(held) };
        assert!(extent.is_short());
        assert_eq!(
            extent.to_string(),
            "saw 7 of 10; alice by command line (replay, since …) holds 3 of them"
        );
        assert!(!Extent { seen: 7, of: 7, stopped: None, held: None }.is_short());
    }
}
