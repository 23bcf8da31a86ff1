//! The one circuit breaker that all tasks of the worker share.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use tokio::{sync::watch, time::Instant};

use crate::{
    breaker::{Breaker, BreakerLimits, CallResult, Cause, Notice, Pause, ProbeStep},
    policy::Judgement,
    telemetry::logs::millis,
    trackfinity::Route,
};

/// A [`Breaker`] behind a lock, which logs when it opens and closes.
#[derive(Debug)]
pub struct SharedBreaker {
    breaker: Mutex<Breaker>,
    cause: watch::Sender<Option<Cause>>,
    /// [`Breaker::ramp`], readable without the lock; [`u32::MAX`] for none.
    ramp: AtomicU32,
    route: Route,
}

impl SharedBreaker {
    /// A closed breaker for calls that take this way.
    pub fn new(limits: BreakerLimits, route: Route) -> Self {
        Self {
            route,
            breaker: Mutex::new(Breaker::new(limits)),
            cause: watch::Sender::new(None),
            ramp: AtomicU32::new(u32::MAX),
        }
    }

    /// The pause, if calls are paused.
    pub fn pause(&self) -> Option<Pause> {
        self.lock().pause()
    }

    /// Which way calls take.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// What to do about a pause with this cause, and which proxy calls go through, if they do.
    pub fn advice(&self, cause: Cause) -> String {
        match self.route.proxy() {
            Some(_) => format!("{}. Calls go {}", cause.advice(), self.route),
            None => cause.advice().to_owned(),
        }
    }

    /// Why calls are paused, if they are.
    pub fn cause(&self) -> Option<Cause> {
        *self.cause.borrow()
    }

    /// Follows the cause.
    pub fn subscribe(&self) -> watch::Receiver<Option<Cause>> {
        self.cause.subscribe()
    }

    /// Calls in flight at most, for a while after a pause; else [`u32::MAX`].
    pub(super) fn ramp(&self) -> u32 {
        self.ramp.load(Ordering::Relaxed)
    }

    pub(super) fn record(&self, request_id: &str, started: Instant, result: CallResult) -> Judgement {
        self.change(|breaker, now| breaker.record(request_id, started, result, now))
    }

    pub(super) fn begin_probe(&self) {
        self.lock().begin_probe();
    }

    pub(super) fn has_just_failed(&self, request_id: &str) -> bool {
        self.lock().has_just_failed(request_id)
    }

    pub(super) fn probe_answered(&self, request_id: &str, started: Instant, result: CallResult) -> ProbeStep {
        self.change(|breaker, now| breaker.probe_answered(request_id, started, result, now))
    }

    pub(super) fn probe_exhausted(&self) -> ProbeStep {
        self.change(|breaker, now| breaker.probe_exhausted(now))
    }

    pub(super) fn ping_answered(&self, success: bool) -> Judgement {
        self.change(|breaker, now| breaker.ping_answered(success, now))
    }

    pub(super) fn abandon_probe(&self) {
        self.lock().abandon_probe(Instant::now());
    }

    pub(super) fn probe_now(&self) {
        self.lock().probe_now(Instant::now());
    }

    fn change<T>(&self, transition: impl FnOnce(&mut Breaker, Instant) -> (T, Option<Notice>)) -> T {
        let (value, notice) = {
            let mut breaker = self.lock();
            let changed = transition(&mut breaker, Instant::now());
            // Under the lock, so that an older cause never overwrites a newer one.
            let cause = breaker.pause().map(|pause| pause.cause);
            self.cause.send_if_modified(|current| std::mem::replace(current, cause) != cause);
            self.ramp.store(breaker.ramp().unwrap_or(u32::MAX), Ordering::Relaxed);
            changed
        };
        match notice {
            Some(Notice::Paused(cause, wait)) => tracing::warn!(
                event = "pause_began",
                cause = cause.as_str(),
                next_probe_in_ms = millis(wait),
                "calls are paused: {cause}. {}",
                self.advice(cause)
            ),
            Some(Notice::StillPaused { cause, paused_for, next_probe_in }) => tracing::warn!(
                event = "pause_continues",
                cause = cause.as_str(),
                paused_for_ms = millis(paused_for),
                next_probe_in_ms = millis(next_probe_in),
                "calls are still paused: {cause}. {}",
                self.advice(cause)
            ),
            Some(Notice::Resumed(after)) => {
                tracing::info!(
                    event = "pause_ended",
                    paused_for_ms = millis(after),
                    "calls are made again: Trackfinity answered a probe"
                );
            }
            None => {}
        }
        value
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        // Transitions do not panic; if one did, the state that it left would still be a valid one.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;
    use crate::{policy::Reason, trackfinity::Direct};

    #[test]
    fn the_watched_cause_is_written_before_the_next_task_may_change_the_breaker() {
        let limits =
            BreakerLimits { after_failures: 1, probe_delay: Duration::ZERO, probe_max_delay: Duration::ZERO };
        let shared = SharedBreaker::new(limits, Route::Direct(Direct::NoProxy));
        let causes = shared.subscribe();
        thread::scope(|scope| {
            // While this is borrowed, the cause cannot be written.
            let borrowed = causes.borrow();
            scope.spawn(|| {
                shared.record("a", Instant::now(), CallResult::Failure(Reason::Http(503)));
            });
            let mut times_locked = 0;
            while times_locked < 1000 {
                match shared.breaker.try_lock() {
                    Ok(breaker) => assert!(breaker.pause().is_none(), "open, and the cause is not written"),
                    Err(_locked) => times_locked += 1,
                }
                thread::yield_now();
            }
            drop(borrowed);
        });
        assert_eq!(shared.cause(), shared.pause().map(|pause| pause.cause));
        assert!(shared.cause().is_some());
    }
}
