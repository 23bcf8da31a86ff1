//! The requests of the last ten minutes, by their key, so that a repeat is not published again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use moka::sync::Cache;
use tokio::sync::watch;

use crate::message::Timestamp;

/// How long a key is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How much memory the keys and their outcomes may take, in bytes, about. Then the oldest are forgotten,
/// and a repeat of theirs is published again, which is harmless.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// What an entry takes beside its key and outcome, in bytes.
const ENTRY_BYTES: usize = 400;

/// A SHA-256 of what came.
pub(super) type Digest = [u8; 32];

/// The requests that came with a key, by their id.
#[derive(Debug)]
pub(super) struct Keys(Cache<String, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    digest: Digest,
    state: watch::Sender<State>,
    /// It may come before the confirm.
    outcome: Arc<Mutex<Option<Arc<[u8]>>>>,
}

impl Entry {
    fn new(digest: Digest) -> Self {
        Self { digest, state: watch::Sender::new(State::Pending), outcome: Arc::default() }
    }

    fn outcome(&self) -> std::sync::MutexGuard<'_, Option<Arc<[u8]>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The first one is being published.
    Pending,
    /// It was not published, or that is unknown.
    Failed,
    Accepted {
        since: Timestamp,
        replied: bool,
    },
}

/// A request that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) since: Timestamp,
    /// Whether its outcome is sent to this gateway.
    pub(super) replied: bool,
    /// Its outcome, if it has come.
    pub(super) outcome: Option<Arc<[u8]>>,
}

/// What to do with a request that came with a key.
#[derive(Debug)]
pub(super) enum Known {
    /// Publish it.
    New(Claim),
    /// It is accepted already.
    Repeat(Accepted),
    /// The key came with another body.
    Conflict,
}

/// The right to publish a request. If it is dropped, the next repeat has it.
#[derive(Debug)]
pub(super) struct Claim {
    keys: Cache<String, Entry>,
    request_id: String,
    state: watch::Sender<State>,
}

impl Keys {
    pub(super) fn new() -> Self {
        let weigh = |id: &String, entry: &Entry| {
            let outcome = entry.outcome().as_ref().map_or(0, |outcome| outcome.len());
            u32::try_from(ENTRY_BYTES + id.len() + outcome).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().time_to_live(REMEMBERED).weigher(weigh).max_capacity(MAX_BYTES);
        Self(cache.build())
    }

    /// Looks a key up. Waits while the same request is being published.
    pub(super) async fn claim(&self, request_id: &str, digest: Digest) -> Known {
        loop {
            let found = self.0.entry_by_ref(request_id).or_insert_with(|| Entry::new(digest));
            let is_new = found.is_fresh();
            let entry = found.into_value();
            if is_new {
                let (keys, request_id) = (self.0.clone(), request_id.to_owned());
                return Known::New(Claim { keys, request_id, state: entry.state });
            }
            if entry.digest != digest {
                return Known::Conflict;
            }
            let mut changes = entry.state.subscribe();
            // Ends: whoever publishes has a time limit, and drops its claim at the latest then.
            let settled = changes.wait_for(|state| !matches!(state, State::Pending)).await;
            match settled.map(|state| *state) {
                Ok(State::Accepted { since, replied }) => {
                    let outcome = entry.outcome().clone();
                    return Known::Repeat(Accepted { since, replied, outcome });
                }
                // Removed by now.
                Ok(State::Pending | State::Failed) | Err(_) => {}
            }
        }
    }

    /// Remembers the outcome of a request.
    pub(super) fn finished(&self, request_id: &str, outcome: &Arc<[u8]>) {
        let Some(entry) = self.0.get(request_id) else { return };
        *entry.outcome() = Some(Arc::clone(outcome));
        // Again, so that it weighs what it holds now.
        self.0.insert(request_id.to_owned(), entry);
    }
}

impl Claim {
    /// The request was published. `replied`: its outcome is sent to this gateway.
    pub(super) fn accepted(self, since: Timestamp, replied: bool) {
        self.state.send_replace(State::Accepted { since, replied });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if matches!(*self.state.borrow(), State::Pending) {
            self.keys.invalidate(&self.request_id);
            self.state.send_replace(State::Failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Digest = [1; 32];
    const NOW: Timestamp = Timestamp::EPOCH;

    async fn claim(keys: &Keys) -> Claim {
        match keys.claim("shop/1", ONE).await {
            Known::New(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_repeat_is_not_published_again_and_gets_the_outcome_once_it_has_come() {
        let keys = Keys::new();
        claim(&keys).await.accepted(NOW, true);
        let Known::Repeat(accepted) = keys.claim("shop/1", ONE).await else { panic!("a repeat") };
        assert_eq!((accepted.outcome, accepted.replied), (None, true));
        keys.finished("shop/1", &b"outcome"[..].into());
        keys.finished("shop/2", &b"nobody's"[..].into());
        let Known::Repeat(accepted) = keys.claim("shop/1", ONE).await else { panic!("a repeat") };
        assert_eq!(accepted.outcome.as_deref(), Some(&b"outcome"[..]));
    }

    #[tokio::test]
    async fn another_body_conflicts_also_while_the_first_is_being_published() {
        let keys = Keys::new();
        let first = claim(&keys).await;
        assert!(matches!(keys.claim("shop/1", [2; 32]).await, Known::Conflict));
        first.accepted(NOW, false);
        assert!(matches!(keys.claim("shop/1", [2; 32]).await, Known::Conflict));
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first_and_takes_its_place_if_that_fails() {
        let keys = Keys::new();
        let first = claim(&keys).await;
        let repeat = keys.claim("shop/1", ONE);
        tokio::pin!(repeat);
        assert!(futures_util::poll!(repeat.as_mut()).is_pending());
        drop(first);
        let Known::New(second) = repeat.await else { panic!("its turn") };
        let third = keys.claim("shop/1", ONE);
        tokio::pin!(third);
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        second.accepted(NOW, false);
        assert!(matches!(third.await, Known::Repeat(_)));
    }
}
