//! Letters as they are taken, oldest first.

use std::collections::HashMap;

use lapin::Connection;
use serde::Serialize;

use super::letter::{Letter, LetterId, fingerprint};
use crate::broker::holding::{Bounds, Held, Holding, Short};

/// How far a scan came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Extent {
    /// Letters that were looked at.
    pub seen: usize,
    /// Letters there were when it began.
    pub of: usize,
    /// Why it ended before the last one.
    pub stopped: Option<Stopped>,
}

/// Why a scan ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// As many as were wanted.
    Enough,
    /// There are more than are looked at in one go.
    Count,
    /// It took too long.
    Time,
    /// The next letter cannot be read off the wire, and so none behind it.
    Unreadable,
}

impl Extent {
    /// Whether there may be letters that were wanted and not looked at.
    #[must_use]
    pub fn is_short(&self) -> bool {
        !matches!(self.stopped, None | Some(Stopped::Enough))
    }
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "first {} of {}", self.seen, self.of)?;
        match self.stopped {
            None | Some(Stopped::Enough) => Ok(()),
            Some(Stopped::Count) => write!(f, "; there are more than are looked at in one go"),
            Some(Stopped::Time) => write!(f, "; to look at the rest takes too long"),
            Some(Stopped::Unreadable) => {
                write!(f, "; the next one cannot be read, as a text in its properties is not UTF-8")
            }
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
    holding: Holding<'a>,
    ids: Ids,
    seen: usize,
    enough: bool,
    names: Names,
}

impl<'a> Scan<'a> {
    pub(super) async fn begin(
        connection: &'a Connection,
        queue: &str,
        bounds: Bounds,
        ids: Ids,
    ) -> lapin::Result<Self> {
        let holding = Holding::begin(connection, queue, bounds).await?;
        Ok(Self { holding, ids, seen: 0, enough: false, names: Names::default() })
    }

    /// The next letter, and what to acknowledge it by. `None` when there are no more, or no more may
    /// be taken.
    pub(super) async fn next(&mut self) -> lapin::Result<Option<(Letter, Held)>> {
        let Some(mut held) = self.holding.next().await? else {
            return Ok(None);
        };
        self.seen += 1;
        let properties = std::mem::take(&mut held.delivery.properties);
        let body = std::mem::take(&mut held.delivery.data);
        let letter = Letter::open(properties, body, |properties, body| match self.ids {
            Ids::Given => {
                let fingerprint = fingerprint(properties, body);
                self.names.name(&fingerprint)
            }
            Ids::None => LetterId::from(""),
        });
        Ok(Some((letter, held)))
    }

    /// Says that as many were seen as were wanted.
    pub(super) fn enough(&mut self) {
        self.enough = true;
    }

    pub(super) fn extent(&self) -> Extent {
        let of = self.holding.of();
        let stopped = match self.holding.short() {
            Some(Short::Count) => Some(Stopped::Count),
            Some(Short::Time) => Some(Stopped::Time),
            Some(Short::Unreadable) => Some(Stopped::Unreadable),
            None => (self.enough && self.seen < of).then_some(Stopped::Enough),
        };
        Extent { seen: self.seen, of, stopped }
    }

    /// Gives back all that was not acknowledged, in its order.
    pub(super) async fn release(self) -> lapin::Result<()> {
        self.holding.release().await
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
}
