//! When calls to Trackfinity stop, and how they start again: a circuit breaker. Pure: the time is
//! an argument, and nothing is shared.
//!
//! ```text
//!            endpoint faults, a 429, or failures of different requests in a row
//!   Closed ────────────────────────────────────────────────────────────────────→ Open
//!     ↑                                                                     ↑       │ the probe's time
//!     │ a request of the probe was served         no request was served     │       ↓
//!     └───────────────────────────────────────────────────────────────────── Probing
//! ```
//!
//! The fault may be Trackfinity's or the requests'. So one request alone never opens the breaker
//! while others are served, and a probe after failures tries up to [`PROBE_REQUESTS`] different
//! requests and then calls Trackfinity's ping, to decide whether Trackfinity or the requests are at
//! fault.

mod cause;
mod probe;
mod remembered_faults;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, time::Duration};

use tokio::time::Instant;

use self::remembered_faults::{RememberedFaults, RequestKey};
pub use self::{
    cause::{Cause, CauseKind},
    probe::{PROBE_REQUESTS, ProbeStep},
};
use crate::policy::{Classification, Judgement, Reason};

/// Calls in flight at most when the breaker closes; doubled with each call that is served.
const RAMP_START: u32 = 8;
/// A ramp this high limits nothing: `worker.concurrency` is at most 2000.
const RAMP_END: u32 = 2048;
/// While a call was served in this time, the endpoint fault of one request does not open the
/// breaker.
const SERVED_RECENTLY: Duration = Duration::from_secs(10);
/// How often the log repeats why the breaker is open.
const REPEAT_NOTICE_AFTER: Duration = Duration::from_secs(60);

/// What the breaker needs to know about an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// Trackfinity answered, and the answer is final: yes or no.
    Served,
    /// A transient failure.
    Failure(Reason),
    EndpointFault(Reason),
    /// A 429 that asks for this wait.
    RateLimited(Duration),
}

impl CallResult {
    /// The result of a call; `rate_limit` is the wait that a 429 asks for.
    pub fn new(classification: Classification, rate_limit: Duration) -> Self {
        match classification {
            Classification::Unlocked | Classification::Refused(_) | Classification::NotFound => Self::Served,
            Classification::Transient(reason, _) => Self::Failure(reason),
            Classification::EndpointFault(reason) => Self::EndpointFault(reason),
            Classification::RateLimited(_) => Self::RateLimited(rate_limit),
        }
    }

    /// The result as a stable code.
    pub fn code(self) -> Cow<'static, str> {
        match self {
            Self::Served => "served".into(),
            Self::Failure(reason) | Self::EndpointFault(reason) => reason.to_string().into(),
            Self::RateLimited(_) => Reason::RateLimited.to_string().into(),
        }
    }
}

/// A change that is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A pause begins, for this cause; the first probe comes after this wait.
    Paused(Cause, Duration),
    /// Calls are still paused. The cause may be another one than before.
    StillPaused { cause: Cause, paused_for: Duration, next_probe_in: Duration },
    /// Calls are made again, after a pause of this length.
    Resumed(Duration),
}

/// When the breaker opens and how it is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Transient failures of different requests in a row that open it.
    pub after_failures: u32,
    /// The wait before the first probe.
    pub probe_delay: Duration,
    /// The longest wait between two probes.
    pub probe_max_delay: Duration,
}

/// An open breaker, for logs and health endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    pub cause: Cause,
    pub since: Instant,
    /// When the next probe is due; `None` while one is made.
    pub probe_at: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    /// No calls until `probe_at`; after another failure the wait is `next_delay`.
    Open {
        cause: Cause,
        since: Instant,
        probe_at: Instant,
        next_delay: Duration,
    },
    /// Requests are tried one after the other.
    Probing {
        cause: Cause,
        since: Instant,
        next_delay: Duration,
        tried: Vec<Tried>,
    },
}

/// A request that failed in a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tried {
    request: RequestKey,
    reason: Reason,
    endpoint_fault: bool,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Breaker {
    limits: BreakerLimits,
    phase: Phase,
    /// Requests that failed since something was served, while closed.
    failing: Vec<RequestKey>,
    /// The request whose endpoint fault the next different request decides about, while closed.
    suspect: Option<RequestKey>,
    /// Whether a request ended by an endpoint fault of its own since something was served.
    has_own_fault: bool,
    served_at: Option<Instant>,
    /// The latest start of a call that was served.
    served_call_started_at: Option<Instant>,
    faults: RememberedFaults,
    /// Requests that failed in the last probe.
    failed_in_last_probe: Vec<RequestKey>,
    /// Calls in flight at most, for a while after a pause.
    ramp: Option<u32>,
    /// No call before this time, whatever a probe finds: a 429 asked for it.
    not_before: Option<Instant>,
    noticed_at: Option<Instant>,
}

impl Breaker {
    pub fn new(limits: BreakerLimits) -> Self {
        Self {
            limits,
            phase: Phase::Closed,
            failing: Vec::new(),
            suspect: None,
            has_own_fault: false,
            served_at: None,
            served_call_started_at: None,
            faults: RememberedFaults::default(),
            failed_in_last_probe: Vec::new(),
            ramp: None,
            not_before: None,
            noticed_at: None,
        }
    }

    /// The pause, if calls are paused.
    pub fn pause(&self) -> Option<Pause> {
        match self.phase {
            Phase::Closed => None,
            Phase::Open { cause, since, probe_at, .. } => {
                Some(Pause { cause, since, probe_at: Some(probe_at).max(self.not_before) })
            }
            Phase::Probing { cause, since, .. } => Some(Pause { cause, since, probe_at: None }),
        }
    }

    /// Calls in flight at most, while calls come back after a pause.
    pub fn ramp(&self) -> Option<u32> {
        self.ramp
    }

    /// Records the answer to a call that was no probe, and says what it means for its request.
    pub fn record(
        &mut self,
        request_id: &str,
        started: Instant,
        result: CallResult,
        now: Instant,
    ) -> (Judgement, Option<Notice>) {
        if self.phase != Phase::Closed {
            // The call was in flight when the breaker opened: it is part of the outage.
            if let CallResult::RateLimited(wait) = result {
                self.not_before = self.not_before.max(Some(now + wait));
            }
            let served = result == CallResult::Served;
            return (if served { Judgement::Counts } else { Judgement::Spared }, None);
        }
        match result {
            CallResult::Served => {
                self.served(request_id, started, now);
                (Judgement::Counts, None)
            }
            CallResult::Failure(reason) => (Judgement::Counts, self.failed(request_id, reason, now)),
            CallResult::EndpointFault(reason) => self.endpoint_fault(request_id, reason, now),
            CallResult::RateLimited(wait) => {
                self.not_before = Some(now + wait);
                // A 429 that asks for no wait still asks for fewer calls.
                let wait = wait.max(self.limits.probe_delay);
                (Judgement::Spared, Some(self.open(Cause::RateLimited, wait, now)))
            }
        }
    }

    fn served(&mut self, request_id: &str, started: Instant, now: Instant) {
        self.served_at = Some(now);
        self.served_call_started_at = self.served_call_started_at.max(Some(started));
        self.failing.clear();
        self.suspect = None;
        self.has_own_fault = false;
        if !self.faults.is_empty() {
            self.faults.forget(request_id.into());
        }
        self.ramp = self.ramp.map(|ramp| ramp * 2).filter(|ramp| *ramp < RAMP_END);
    }

    fn failed(&mut self, request_id: &str, reason: Reason, now: Instant) -> Option<Notice> {
        let request = request_id.into();
        if !self.failing.contains(&request) {
            self.failing.push(request);
        }
        let count = u32::try_from(self.failing.len()).unwrap_or(u32::MAX);
        (count >= self.limits.after_failures)
            .then(|| self.open(Cause::Failures(reason), self.limits.probe_delay, now))
    }

    fn endpoint_fault(
        &mut self,
        request_id: &str,
        reason: Reason,
        now: Instant,
    ) -> (Judgement, Option<Notice>) {
        let request = request_id.into();
        let first_fault_at = self.faults.at(request).filter(|_| !reason.is_blind_to_request());
        if !reason.is_blind_to_request() {
            self.faults.remember(request, first_fault_at.unwrap_or(now));
        }
        let recently = |at: Instant| now.saturating_duration_since(at) < SERVED_RECENTLY;
        let is_well = self.served_at.is_some_and(recently);
        // A call that began after this request's first fault was served: the endpoint was well
        // then.
        let is_own = first_fault_at.is_some_and(|fault| self.served_call_started_at >= Some(fault));
        if is_well && is_own {
            // If the key has just become wrong, many requests look like this. So only one is
            // refused until another request is served, and none of them opens the breaker.
            if self.suspect.is_some() || self.has_own_fault {
                return (Judgement::Spared, None);
            }
            self.has_own_fault = true;
            self.faults.forget(request);
            return (Judgement::OwnFault, None);
        }
        if !is_well || self.suspect.is_some_and(|suspect| suspect != request) {
            let notice = self.open(Cause::EndpointFault(reason), self.limits.probe_delay, now);
            return (Judgement::Spared, Some(notice));
        }
        self.suspect = Some(request);
        (Judgement::Spared, None)
    }

    fn open(&mut self, cause: Cause, wait: Duration, now: Instant) -> Notice {
        let next_delay = (self.limits.probe_delay * 2).min(self.limits.probe_max_delay);
        self.phase = Phase::Open { cause, since: now, probe_at: now + wait, next_delay };
        self.failing.clear();
        self.suspect = None;
        self.has_own_fault = false;
        self.failed_in_last_probe.clear();
        self.ramp = None;
        self.noticed_at = Some(now);
        Notice::Paused(cause, wait)
    }

    /// A notice why the breaker is open: at once for a new cause, and again after
    /// [`REPEAT_NOTICE_AFTER`] for the same one.
    fn notice(&mut self, is_new: bool, now: Instant) -> Option<Notice> {
        let Pause { cause, since, probe_at } = self.pause()?;
        let is_due =
            self.noticed_at.is_none_or(|at| now.saturating_duration_since(at) >= REPEAT_NOTICE_AFTER);
        if !is_new && !is_due {
            return None;
        }
        self.noticed_at = Some(now);
        Some(Notice::StillPaused {
            cause,
            paused_for: now.saturating_duration_since(since),
            next_probe_in: probe_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)),
        })
    }
}
