//! The requests that wait for their outcome.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::oneshot;

/// How many requests may wait at once; others are answered as if they did not ask to.
const MAX_WAITERS: usize = 20_000;

/// The requests that wait, by their id. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiters(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Where outcomes are sent to, while they are received.
    address: Mutex<Option<Arc<str>>>,
    waiting: Mutex<HashMap<String, Vec<Place>>>,
    count: AtomicUsize,
    last: AtomicUsize,
}

#[derive(Debug)]
struct Place {
    number: usize,
    outcome: oneshot::Sender<Arc<[u8]>>,
}

/// A request that waits. Frees its place when dropped.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) reply_to: Arc<str>,
    request_id: String,
    number: usize,
    outcome: oneshot::Receiver<Arc<[u8]>>,
    shared: Arc<Shared>,
}

impl Waiters {
    /// Outcomes are received now, at this address.
    pub(super) fn connected(&self, address: String) {
        *lock(&self.0.address) = Some(address.into());
    }

    /// Outcomes are no longer received: nobody waits for one any more.
    pub(super) fn disconnected(&self) {
        let mut address = lock(&self.0.address);
        *address = None;
        lock(&self.0.waiting).clear();
    }

    /// Waits for the outcome of a request; `None` if none can be received now, or too many wait.
    pub(super) fn register(&self, request_id: &str) -> Option<Waiter> {
        // Held to the end: `disconnected` must see everybody who waits at the old address.
        let address = lock(&self.0.address);
        let reply_to = address.clone()?;
        if self.0.count.fetch_add(1, Ordering::Relaxed) >= MAX_WAITERS {
            self.0.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let number = self.0.last.fetch_add(1, Ordering::Relaxed);
        let (sender, outcome) = oneshot::channel();
        let place = Place { number, outcome: sender };
        lock(&self.0.waiting).entry(request_id.to_owned()).or_default().push(place);
        let shared = Arc::clone(&self.0);
        Some(Waiter { reply_to, request_id: request_id.to_owned(), number, outcome, shared })
    }

    /// Hands an outcome to all that wait for it.
    pub(super) fn deliver(&self, request_id: &str, outcome: &Arc<[u8]>) {
        let places = lock(&self.0.waiting).remove(request_id).unwrap_or_default();
        for place in places {
            // It may have just given up.
            place.outcome.send(Arc::clone(outcome)).ok();
        }
    }

    /// How many wait.
    pub(super) fn count(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }
}

impl Waiter {
    /// The outcome; `None` if none will come.
    pub(super) async fn outcome(&mut self) -> Option<Arc<[u8]>> {
        (&mut self.outcome).await.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.shared.count.fetch_sub(1, Ordering::Relaxed);
        let mut waiting = lock(&self.shared.waiting);
        if let Some(places) = waiting.get_mut(&self.request_id) {
            places.retain(|place| place.number != self.number);
            if places.is_empty() {
                waiting.remove(&self.request_id);
            }
        }
        // A map never gives memory back by itself.
        if waiting.is_empty() && waiting.capacity() > 1024 {
            waiting.shrink_to_fit();
        }
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_that_wait_for_a_request_get_its_outcome_and_others_none() {
        let waiters = Waiters::default();
        assert!(waiters.register("a").is_none(), "no outcome is received yet");
        waiters.connected("address".to_owned());
        let register = |id| waiters.register(id).expect("a place");
        let (mut first, mut second, mut other) = (register("a"), register("a"), register("b"));
        waiters.deliver("a", &b"outcome"[..].into());
        assert_eq!(first.outcome().await.as_deref(), Some(&b"outcome"[..]));
        assert_eq!(second.outcome().await.as_deref(), Some(&b"outcome"[..]));
        waiters.disconnected();
        assert_eq!(other.outcome().await, None);
        drop((first, second, other));
        assert_eq!(waiters.count(), 0);
    }

    #[test]
    fn who_gives_up_frees_the_place_and_leaves_the_others() {
        let waiters = Waiters::default();
        waiters.connected("address".to_owned());
        let first = waiters.register("a");
        let second = waiters.register("a");
        drop(first);
        assert_eq!((waiters.count(), lock(&waiters.0.waiting).len()), (1, 1));
        drop(second);
        assert_eq!((waiters.count(), lock(&waiters.0.waiting).len()), (0, 0));
    }

    #[test]
    fn no_more_than_the_limit_wait() {
        let waiters = Waiters::default();
        waiters.connected("address".to_owned());
        let places: Vec<_> = (0..MAX_WAITERS).map(|n| waiters.register(&n.to_string())).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(waiters.register("one more").is_none());
        drop(places);
        assert!(waiters.register("one more").is_some());
    }
}
