//! Outcomes that were published and not confirmed in time. Their requests wait in a retry queue,
//! and background tasks wait for their confirms: an outcome whose confirm comes late is not
//! published again when its request comes back (decision 51).

use std::{
    collections::HashMap,
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

/// Remembers outcomes by their message ids, for the life of the process. Clones share the entries.
#[derive(Clone, Debug, Default)]
pub(super) struct LateConfirms {
    remembered: Arc<Mutex<HashMap<String, (LateConfirm, Instant)>>>,
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
        message_id: String,
        unconfirmed: Unconfirmed,
        tasks: &TaskTracker,
        session_over: CancellationToken,
    ) {
        self.lock().insert(message_id.clone(), (LateConfirm::Awaited, Instant::now()));
        let late = self.clone();
        self.awaited.fetch_add(1, Ordering::Relaxed);
        tasks.spawn(async move {
            let confirmed = session_over.run_until_cancelled(unconfirmed).await;
            late.awaited.fetch_sub(1, Ordering::Relaxed);
            let mut remembered = late.lock();
            match confirmed {
                Some(Ok(routed)) => {
                    if let Some((state, _)) = remembered.get_mut(&message_id) {
                        *state = LateConfirm::Confirmed { routed };
                    }
                }
                // Refused or lost: it must be published again.
                _ => drop(remembered.remove(&message_id)),
            }
        });
    }

    /// What is known of an outcome. Removes the entry if the outcome is confirmed.
    pub(super) fn take(&self, message_id: &str) -> Option<LateConfirm> {
        let mut remembered = self.lock();
        let (state, _) = *remembered.get(message_id)?;
        if state != LateConfirm::Awaited {
            remembered.remove(message_id);
        }
        Some(state)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (LateConfirm, Instant)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
