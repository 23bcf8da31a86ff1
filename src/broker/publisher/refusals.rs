//! Exchanges to which RabbitMQ refuses to publish: the user may not write, or there is no exchange.
//! Each refusal closes a channel, and lapin never frees the number of a channel that RabbitMQ closed.
//! So while an exchange refuses, one publish at a time tries, with backoff. The first success lets all
//! others continue.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::outgoing::Route;
use crate::broker::Backoff;

/// The routes that refuse now. A route includes the routing key, because RabbitMQ can refuse single
/// keys of a topic exchange.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Whether there is any. While there is none, publishes need no lock.
    any: AtomicBool,
    routes: Mutex<HashMap<Route, Arc<Refused>>>,
}

#[derive(Debug)]
struct Refused {
    /// Locked by the publish that tries.
    schedule: Arc<tokio::sync::Mutex<Schedule>>,
    ended: AtomicBool,
}

#[derive(Debug)]
struct Schedule {
    backoff: Backoff,
    next_at: Instant,
}

impl Schedule {
    fn postpone(&mut self) {
        self.next_at = Instant::now() + self.backoff.next(fastrand::f64());
    }
}

/// The one publish that tries whether a route still refuses. All others wait until this is dropped.
#[derive(Debug)]
pub(super) struct Attempt {
    refused: Arc<Refused>,
    schedule: OwnedMutexGuard<Schedule>,
}

impl Refusals {
    /// Waits until this publish may try; at once if the route does not refuse. `None` if the route
    /// accepts messages. All publishes that came before try first, each after a backoff of at most
    /// 10 s.
    pub(super) async fn wait_for_turn(&self, exchange: &str, routing_key: &str) -> Option<Attempt> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let refused = self.lock().get(&Route::new(exchange, routing_key)).cloned()?;
        let schedule = Arc::clone(&refused.schedule).lock_owned().await;
        if refused.ended.load(Ordering::Acquire) {
            return None;
        }
        tokio::time::sleep_until(schedule.next_at).await;
        Some(Attempt { refused, schedule })
    }

    /// Whether a publish could not be tried now.
    pub(super) fn must_wait(&self, exchange: &str, routing_key: &str) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let Some(refused) = self.lock().get(&Route::new(exchange, routing_key)).cloned() else {
            return false;
        };
        // If it is locked, another publish tries.
        refused.schedule.try_lock().map_or(true, |schedule| schedule.next_at > Instant::now())
    }

    /// The route refused a publish. `attempt` is `None` if it is the first refusal.
    pub(super) fn refused(&self, route: &Route, attempt: Option<Attempt>) {
        if let Some(mut attempt) = attempt {
            attempt.schedule.postpone();
            return;
        }
        let mut routes = self.lock();
        routes.entry(route.clone()).or_insert_with(|| {
            let mut schedule = Schedule { backoff: Backoff::new(), next_at: Instant::now() };
            schedule.postpone();
            let schedule = Arc::new(tokio::sync::Mutex::new(schedule));
            Arc::new(Refused { schedule, ended: AtomicBool::new(false) })
        });
        self.any.store(true, Ordering::Relaxed);
    }

    /// The route accepts messages again.
    pub(super) fn accepted(&self, route: &Route, attempt: Attempt) {
        let mut routes = self.lock();
        routes.remove(route);
        self.any.store(!routes.is_empty(), Ordering::Relaxed);
        attempt.refused.ended.store(true, Ordering::Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Route, Arc<Refused>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn while_a_route_refuses_one_publish_tries_and_a_success_frees_all() {
        let refusals = Refusals::default();
        assert!(refusals.wait_for_turn("e", "k").await.is_none(), "nothing was refused");
        let route = Route::new("e", "k");
        refusals.refused(&route, None);
        assert!(refusals.wait_for_turn("e", "other").await.is_none(), "another key is another route");
        assert!(refusals.must_wait("e", "k") && !refusals.must_wait("e", "other"));
        let started = Instant::now();
        let first = refusals.wait_for_turn("e", "k").await.expect("it tries");
        assert!(started.elapsed().as_millis() >= 200, "tries at once");
        assert!(refusals.must_wait("e", "k"), "another one tries");
        let waiting = refusals.wait_for_turn("e", "k");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        refusals.refused(&route, Some(first));
        let second = waiting.await.expect("its turn");
        let freed = refusals.wait_for_turn("e", "k");
        tokio::pin!(freed);
        assert!(futures_util::poll!(freed.as_mut()).is_pending());
        refusals.accepted(&route, second);
        assert!(freed.await.is_none());
        assert!(!refusals.must_wait("e", "k"));
        assert!(refusals.wait_for_turn("e", "k").await.is_none());
    }

    #[tokio::test]
    async fn one_that_gives_up_trying_leaves_the_turn_to_the_next() {
        let refusals = Refusals::default();
        refusals.refused(&Route::new("e", "k"), None);
        drop(refusals.wait_for_turn("e", "k").await.expect("it tries"));
        assert!(refusals.wait_for_turn("e", "k").await.is_some());
    }
}
