//! Outcomes that were published and not confirmed in time. Their requests wait in a retry queue,
//! and background tasks wait for their confirms: an outcome whose confirm comes late is not
//! published again when its request comes back (decision 51).

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::broker::publisher::Unconfirmed;

/// Outcomes that are remembered, at most; each takes some 200 bytes.
const MAX_REMEMBERED: usize = 20_000;
/// When the map is full, older entries are dropped: their requests came back to another worker.
/// Longer than the longest tier.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// What is known of an outcome that was not confirmed in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LateConfirm {
    /// It may still be confirmed.
    Awaited,
    /// It is published; `routed`: a queue received it.
    Confirmed { routed: bool },
}

/// An outcome: its `message_id`, and a hash of its body. Two requests may have one id by mistake, and so
/// two outcomes one `message_id`: the confirm of one says nothing about the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OutcomeKey {
    message_id: String,
    body: u64,
}

impl OutcomeKey {
    pub(super) fn new(message_id: String, body: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        Self { message_id, body: hasher.finish() }
    }
}

/// Remembers outcomes for the life of the process. Clones share the entries.
#[derive(Clone, Debug, Default)]
pub(super) struct LateConfirms {
    remembered: Arc<Mutex<HashMap<OutcomeKey, (LateConfirm, Instant)>>>,
    awaited: Arc<AtomicUsize>,
}

impl LateConfirms {
    /// Whether one more can be remembered. If not, its handler has to wait for the confirm.
    pub(super) fn has_capacity(&self) -> bool {
        let mut remembered = self.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, (_, since)| since.elapsed() < FORGET_AFTER);
        }
        remembered.len() < MAX_REMEMBERED
    }

    /// How many may still be confirmed.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.load(Ordering::Relaxed)
    }

    /// Waits for a confirm in the background, until the session has ended: then its connection is
    /// closed, and no confirm can come.
    pub(super) fn await_confirm(
        &self,
        outcome: OutcomeKey,
        unconfirmed: Unconfirmed,
        tasks: &TaskTracker,
        session_over: CancellationToken,
    ) {
        self.lock().insert(outcome.clone(), (LateConfirm::Awaited, Instant::now()));
        let late = self.clone();
        self.awaited.fetch_add(1, Ordering::Relaxed);
        tasks.spawn(async move {
            let confirmed = session_over.run_until_cancelled(unconfirmed).await;
            late.awaited.fetch_sub(1, Ordering::Relaxed);
            let mut remembered = late.lock();
            match confirmed {
                Some(Ok(routed)) => {
                    if let Some((state, _)) = remembered.get_mut(&outcome) {
                        *state = LateConfirm::Confirmed { routed };
                    }
                }
                // Refused or lost: it must be published again.
                _ => drop(remembered.remove(&outcome)),
            }
        });
    }

    /// What is known of an outcome. Removes the entry if the outcome is confirmed.
    pub(super) fn take(&self, outcome: &OutcomeKey) -> Option<LateConfirm> {
        let mut remembered = self.lock();
        let (state, _) = *remembered.get(outcome)?;
        if state != LateConfirm::Awaited {
            remembered.remove(outcome);
        }
        Some(state)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OutcomeKey, (LateConfirm, Instant)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_confirm_of_one_outcome_says_nothing_about_another_with_the_same_id() {
        let late = LateConfirms::default();
        let key = |body: &str| OutcomeKey::new("m-1/0".to_owned(), body.as_bytes());
        let (unlocked, refused) = (key(r#"{"status":"unlocked"}"#), key(r#"{"status":"refused"}"#));
        late.lock().insert(unlocked.clone(), (LateConfirm::Confirmed { routed: true }, Instant::now()));
        late.lock().insert(refused.clone(), (LateConfirm::Awaited, Instant::now()));
        assert_eq!(late.take(&refused), Some(LateConfirm::Awaited));
        assert_eq!(late.take(&unlocked), Some(LateConfirm::Confirmed { routed: true }));
        assert_eq!(late.take(&unlocked), None);
    }
}
