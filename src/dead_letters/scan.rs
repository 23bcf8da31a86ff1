//! Consumes dead letters, in any order.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    dead_letter::{DeadLetter, DeadLetterId, fingerprint},
    lock::Holder,
};
use crate::broker::{
    browse::{Bounds, BrowsedMessage, Incomplete, QueueBrowser, Tag},
    wire::{WireConnection, WireDelivery, WireError},
};

/// How many dead letters a browse saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Coverage {
    /// Dead letters that were seen.
    pub seen: usize,
    /// Dead letters that existed at the start, including those that someone else is changing.
    pub total: usize,
    /// Why the browse stopped before the last one.
    pub stopped: Option<StopReason>,
    /// Who is changing some of them; these cannot be seen meanwhile.
    #[serde(rename = "held")]
    pub taken: Option<Taken>,
}

/// Why a browse stopped early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// There are more than one browse may take.
    Count,
    /// It took too long.
    Time,
    /// Someone else has taken some of them meanwhile.
    Elsewhere,
}

/// Dead letters that someone else is changing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Taken {
    /// How many; null if unknown.
    pub count: Option<usize>,
    /// Who, what they do, and since when.
    pub by: String,
}

impl Taken {
    pub(super) fn new(holder: &Holder) -> Self {
        Self { count: holder.taken, by: holder.to_string() }
    }
}

impl Coverage {
    /// Whether there may be dead letters that were not seen.
    pub fn is_incomplete(&self) -> bool {
        self.stopped.is_some() || self.taken.as_ref().is_some_and(|taken| taken.count != Some(0))
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "saw {} of {}", self.seen, self.total)?;
        match self.stopped {
            None => {}
            Some(StopReason::Count) => write!(f, "; there are more than one browse may take")?,
            Some(StopReason::Time) => write!(f, "; the rest would take too long")?,
            Some(StopReason::Elsewhere) => write!(f, "; someone else has taken the rest meanwhile")?,
        }
        match &self.taken {
            Some(Taken { count: Some(count), by }) => write!(f, "; {by} has taken {count} of them"),
            Some(Taken { count: None, by }) => write!(f, "; {by} has taken some of them"),
            None => Ok(()),
        }
    }
}

/// Whether to compute ids, which is most of the work of a browse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdMode {
    Compute,
    /// No ids: enough for counting.
    Skip,
}

/// Consumes dead letters; they stay unacknowledged.
#[derive(Debug)]
pub(super) struct Scan {
    browser: QueueBrowser,
    mode: IdMode,
    taken: Option<Taken>,
    ids: IdAllocator,
}

impl Scan {
    /// `taken`: dead letters that are not in the queue because someone else is changing them.
    pub(super) async fn open(
        connection: &WireConnection,
        queue: &str,
        bounds: Bounds,
        mode: IdMode,
        taken: Option<Taken>,
    ) -> Result<Self, WireError> {
        let browser = QueueBrowser::open(connection, queue, bounds).await?;
        Ok(Self { browser, mode, taken, ids: IdAllocator::default() })
    }

    /// The next dead letter and its tag for the acknowledgement. `None` when there are no more, or
    /// the bounds allow no more. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<(DeadLetter, Tag)>, WireError> {
        let Some(BrowsedMessage { delivery, tag }) = self.browser.next().await? else {
            return Ok(None);
        };
        let WireDelivery { properties, body, .. } = delivery;
        let dead_letter = DeadLetter::new(properties, body, |properties, body| match self.mode {
            IdMode::Compute => self.ids.allocate(&fingerprint(properties, body)),
            IdMode::Skip => DeadLetterId::from(""),
        });
        Ok(Some((dead_letter, tag)))
    }

    pub(super) fn coverage(&self) -> Coverage {
        let stopped = self.browser.incomplete().map(|incomplete| match incomplete {
            Incomplete::Count => StopReason::Count,
            Incomplete::Time => StopReason::Time,
            Incomplete::Elsewhere => StopReason::Elsewhere,
        });
        let taken = self.taken.as_ref().and_then(|taken| taken.count).unwrap_or(0);
        Coverage {
            seen: self.browser.taken(),
            total: self.browser.total() + taken,
            stopped,
            taken: self.taken.clone(),
        }
    }

    pub(super) fn browser(&mut self) -> &mut QueueBrowser {
        &mut self.browser
    }

    /// Requeues all that were not acknowledged, and waits until others can see them.
    pub(super) async fn release(self, connection: &WireConnection) -> Result<(), WireError> {
        self.browser.release(connection).await
    }
}

/// Counts how many dead letters would have had each id.
#[derive(Debug, Default)]
struct IdAllocator(HashMap<DeadLetterId, u32>);

impl IdAllocator {
    /// Returns an id that differs from all before it.
    fn allocate(&mut self, fingerprint: &str) -> DeadLetterId {
        let nth = self.0.entry(DeadLetterId::new(fingerprint, 1)).or_insert(0);
        *nth += 1;
        DeadLetterId::new(fingerprint, *nth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_dead_letters_get_different_ids_even_if_their_digests_start_the_same() {
        let mut allocator = IdAllocator::default();
        let ids = ["0123456789abcd", "0123456789abce", "0123456789abcd", "ffffffffffffff"];
        let ids = ids.map(|fingerprint| allocator.allocate(fingerprint).to_string());
        assert_eq!(ids, ["0123456789ab", "0123456789ab.2", "0123456789ab.3", "ffffffffffff"]);
    }

    #[test]
    fn a_browse_is_incomplete_while_others_hold_dead_letters_and_says_so() {
        let taken = Taken { count: Some(3), by: "alice by command line (replay, since …)".to_owned() };
        let coverage = Coverage { seen: 7, total: 10, stopped: None, taken: Some(taken) };
        assert!(coverage.is_incomplete());
        assert_eq!(
            coverage.to_string(),
            "saw 7 of 10; alice by command line (replay, since …) has taken 3 of them"
        );
        assert!(!Coverage { seen: 7, total: 7, stopped: None, taken: None }.is_incomplete());
    }
}
