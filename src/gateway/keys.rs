//! The requests of the last ten minutes, by their key, so that a repeat is not published again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use moka::{policy::EvictionPolicy, sync::Cache};
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

#[derive(Clone, Debug)]
enum State {
    /// The first one is being published.
    Pending,
    /// It was certainly not published.
    Failed,
    /// It may have been published. A repeat publishes it again.
    Unknown,
    Accepted {
        since: Timestamp,
        reply_to: Option<Arc<str>>,
    },
}

/// A request that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) since: Timestamp,
    /// Where its outcome is sent to, if this gateway asked for it.
    pub(super) reply_to: Option<Arc<str>>,
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

/// The right to publish a request. If it is dropped, the request may have been published, and the next repeat
/// has it.
#[derive(Debug)]
pub(super) struct Claim {
    keys: Cache<String, Entry>,
    request_id: String,
    state: watch::Sender<State>,
    /// Whether another one with the same key may have been published before.
    pub(super) is_unknown: bool,
}

impl Keys {
    pub(super) fn new() -> Self {
        let weigh = |id: &String, entry: &Entry| {
            let outcome = entry.outcome().as_ref().map_or(0, |outcome| outcome.len());
            u32::try_from(ENTRY_BYTES + id.len() + outcome).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().time_to_live(REMEMBERED).weigher(weigh).max_capacity(MAX_BYTES);
        // moka's own policy would rather forget the newest, whose repeats are the likely ones.
        Self(cache.eviction_policy(EvictionPolicy::lru()).build())
    }

    /// Looks a key up. Waits while the same request is being published.
    pub(super) async fn claim(&self, request_id: &str, digest: Digest) -> Known {
        loop {
            let found = self.0.entry_by_ref(request_id).or_insert_with(|| Entry::new(digest));
            let is_new = found.is_fresh();
            let entry = found.into_value();
            let claim = |is_unknown| {
                let (keys, request_id) = (self.0.clone(), request_id.to_owned());
                Known::New(Claim { keys, request_id, state: entry.state.clone(), is_unknown })
            };
            if is_new {
                return claim(false);
            }
            if entry.digest != digest {
                return Known::Conflict;
            }
            let mut changes = entry.state.subscribe();
            // Ends: the one that publishes has a time limit, and drops its claim at the latest then.
            let settled = changes.wait_for(|state| !matches!(state, State::Pending)).await;
            let settled = settled.map(|state| state.clone());
            match settled {
                Ok(State::Accepted { since, reply_to }) => {
                    let outcome = entry.outcome().clone();
                    return Known::Repeat(Accepted { since, reply_to, outcome });
                }
                // Of several that waited, one publishes it again.
                Ok(State::Unknown) => {
                    let is_first = entry.state.send_if_modified(|state| {
                        let is_first = matches!(state, State::Unknown);
                        if is_first {
                            *state = State::Pending;
                        }
                        is_first
                    });
                    if is_first {
                        return claim(true);
                    }
                }
                // It is being removed.
                Ok(State::Pending | State::Failed) | Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// Remembers the outcome of a request.
    pub(super) fn finished(&self, request_id: &str, outcome: &Arc<[u8]>) {
        let Some(entry) = self.0.get(request_id) else { return };
        *entry.outcome() = Some(Arc::clone(outcome));
        // Again, so that it weighs what it holds now.
        self.0.insert(request_id.to_owned(), entry.clone());
        // Its claim may have been dropped meanwhile, which removed it before.
        if matches!(*entry.state.borrow(), State::Failed) {
            self.0.invalidate(request_id);
        }
    }
}

impl Claim {
    /// The request was published. `reply_to`: where its outcome is sent to, if this gateway asked for it.
    pub(super) fn accepted(self, since: Timestamp, reply_to: Option<Arc<str>>) {
        self.state.send_replace(State::Accepted { since, reply_to });
    }

    /// The request was certainly not published now.
    pub(super) fn not_published(self) {
        if !self.is_unknown {
            // In this order: see `Keys::finished`.
            self.state.send_replace(State::Failed);
            self.keys.invalidate(&self.request_id);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.state.send_if_modified(|state| {
            let is_pending = matches!(state, State::Pending);
            if is_pending {
                *state = State::Unknown;
            }
            is_pending
        });
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
        claim(&keys).await.accepted(NOW, Some("address".into()));
        let Known::Repeat(accepted) = keys.claim("shop/1", ONE).await else { panic!("a repeat") };
        assert_eq!((accepted.outcome, accepted.reply_to.as_deref()), (None, Some("address")));
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
        first.accepted(NOW, None);
        assert!(matches!(keys.claim("shop/1", [2; 32]).await, Known::Conflict));
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first_and_takes_its_place_if_that_may_have_failed() {
        let keys = Keys::new();
        let first = claim(&keys).await;
        let repeat = keys.claim("shop/1", ONE);
        tokio::pin!(repeat);
        assert!(futures_util::poll!(repeat.as_mut()).is_pending());
        drop(first);
        let Known::New(second) = repeat.await else { panic!("its turn") };
        assert!(second.is_unknown);
        assert!(matches!(keys.claim("shop/1", [2; 32]).await, Known::Conflict), "the first may be published");
        let third = keys.claim("shop/1", ONE);
        tokio::pin!(third);
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        second.accepted(NOW, None);
        assert!(matches!(third.await, Known::Repeat(_)));
    }

    #[tokio::test]
    async fn an_outcome_that_comes_while_a_claim_ends_brings_no_failed_entry_back() {
        let keys = Keys::new();
        let first = claim(&keys).await;
        let entry = keys.0.get("shop/1").expect("an entry");
        first.not_published();
        // What `finished` does if the claim ended after it had found the entry.
        keys.0.insert("shop/1".to_owned(), entry);
        keys.finished("shop/1", &b"outcome"[..].into());
        let again = tokio::time::timeout(Duration::from_secs(5), keys.claim("shop/1", ONE)).await;
        assert!(matches!(again, Ok(Known::New(_))), "{again:?}");
    }

    #[tokio::test]
    async fn a_request_that_was_certainly_not_published_leaves_no_trace_unless_one_before_may_have_been() {
        let keys = Keys::new();
        claim(&keys).await.not_published();
        let Known::New(other) = keys.claim("shop/1", [2; 32]).await else { panic!("forgotten") };
        assert!(!other.is_unknown);
        drop(other);
        let Known::New(repeat) = keys.claim("shop/1", [2; 32]).await else { panic!("its turn") };
        repeat.not_published();
        assert!(matches!(keys.claim("shop/1", ONE).await, Known::Conflict), "the one before");
    }

    #[tokio::test]
    async fn the_oldest_are_forgotten_first() {
        let keys = Keys::new();
        for n in 0..30_000 {
            match keys.claim(&n.to_string(), ONE).await {
                Known::New(claim) => claim.accepted(NOW, None),
                other => panic!("{n}: {other:?}"),
            }
        }
        assert!(matches!(keys.claim("29999", ONE).await, Known::Repeat(_)), "the newest");
        assert!(matches!(keys.claim("0", ONE).await, Known::New(_)), "the oldest");
    }
}
