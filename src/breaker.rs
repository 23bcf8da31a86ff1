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

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;

use crate::policy::{Classification, Judgement, Reason};

/// Different requests that one probe tries after transient failures, at most.
pub const PROBE_REQUESTS: usize = 5;
/// Calls in flight at most when the breaker closes; doubled with each call that is served.
const RAMP_START: u32 = 8;
/// A ramp this high limits nothing: `worker.concurrency` is at most 2000.
const RAMP_END: u32 = 2048;
/// While a call was served in this time, the endpoint fault of one request does not open the
/// breaker.
const SERVED_RECENTLY: Duration = Duration::from_secs(10);
/// How often the log repeats why the breaker is open.
const REPEAT_NOTICE_AFTER: Duration = Duration::from_secs(60);
/// Requests whose endpoint fault is remembered, at most; the oldest is dropped first.
const MAX_REMEMBERED_FAULTS: usize = 10_000;

/// Why calls are paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The key, the allow-list or the address is wrong.
    EndpointFault(Reason),
    /// Transient failures of different requests in a row.
    Failures(Reason),
    /// Trackfinity asked for a pause with a 429.
    RateLimited,
}

impl Cause {
    /// All kinds of causes, as metrics name them.
    pub const KINDS: [&'static str; 3] = ["endpoint_fault", "failures", "rate_limited"];

    /// The kind of this cause.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndpointFault(_) => "endpoint_fault",
            Self::Failures(_) => "failures",
            Self::RateLimited => "rate_limited",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::EndpointFault(Reason::Http(401 | 403)) => {
                "check trackfinity.api_key, trackfinity.api_username and the install's \
                 ADMIN_API_ALLOWED_IPS"
            }
            Self::EndpointFault(Reason::Http(407)) => "check the HTTP proxy and its credentials",
            Self::EndpointFault(Reason::Http(300..=399)) => {
                "check trackfinity.base_url: redirects are never followed, as they would carry the \
                 key elsewhere"
            }
            Self::EndpointFault(_) => {
                "check trackfinity.base_url: nothing there answers as Trackfinity's API does"
            }
            Self::Failures(_) => "if Trackfinity is known to be down, wait: calls resume by themselves",
            Self::RateLimited => "set worker.rate_limit, if it happens often",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndpointFault(reason) | Self::Failures(reason) => f.write_str(&reason.describe()),
            Self::RateLimited => f.write_str(&Reason::RateLimited.describe()),
        }
    }
}

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
    #[must_use]
    pub fn new(meaning: Classification, rate_limit: Duration) -> Self {
        match meaning {
            Classification::Unlocked | Classification::Refused(_) | Classification::NotFound => Self::Served,
            Classification::Transient(reason, _) => Self::Failure(reason),
            Classification::EndpointFault(reason) => Self::EndpointFault(reason),
            Classification::RateLimited(_) => Self::RateLimited(rate_limit),
        }
    }
}

/// A change that is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Calls are paused, for this cause; the next probe comes after this wait.
    Paused(Cause, Duration),
    /// Calls are made again, after a pause of this length.
    Resumed(Duration),
}

/// What comes next in a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// Try another request, one that this probe has not tried.
    TryAnother,
    /// Call Trackfinity's ping, then call [`Breaker::ping_answered`] with the result.
    Ping,
    /// The probe is over; this holds for every request that it tried.
    Over(Judgement),
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

/// Identifies a request: a hash of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RequestKey(u64);

impl From<&str> for RequestKey {
    fn from(request_id: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        request_id.hash(&mut hasher);
        Self(hasher.finish())
    }
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
    #[must_use]
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
    #[must_use]
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
    #[must_use]
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
        let first_fault_at = self.faults.at(request);
        self.faults.remember(request, first_fault_at.unwrap_or(now));
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

    /// Starts a probe; each answer goes to [`probe_answered`](Self::probe_answered).
    pub fn begin_probe(&mut self) {
        if let Phase::Open { cause, since, next_delay, .. } = self.phase {
            self.phase = Phase::Probing { cause, since, next_delay, tried: Vec::new() };
        }
    }

    /// Whether a probe should take another request, while others wait: this one was tried in this
    /// probe, or failed in the one before.
    #[must_use]
    pub fn has_just_failed(&self, request_id: &str) -> bool {
        let request = RequestKey::from(request_id);
        let tried = match &self.phase {
            Phase::Probing { tried, .. } => tried.iter().any(|tried| tried.request == request),
            _ => false,
        };
        tried || self.failed_in_last_probe.contains(&request)
    }

    /// Records the answer to a call of a probe.
    pub fn probe_answered(
        &mut self,
        request_id: &str,
        started: Instant,
        result: CallResult,
        now: Instant,
    ) -> (ProbeStep, Option<Notice>) {
        let Phase::Probing { cause, tried, .. } = &mut self.phase else {
            return (ProbeStep::Over(Judgement::Spared), None);
        };
        let request = RequestKey::from(request_id);
        match result {
            CallResult::Served => return self.probe_served(request_id, started, now),
            CallResult::RateLimited(wait) => {
                self.not_before = self.not_before.max(Some(now + wait));
                let notice = self.fail_probe(Cause::RateLimited, Some(wait), now);
                return (ProbeStep::Over(Judgement::Spared), notice);
            }
            CallResult::Failure(reason) => tried.push(Tried { request, reason, endpoint_fault: false }),
            CallResult::EndpointFault(reason) => {
                tried.push(Tried { request, reason, endpoint_fault: true });
            }
        }
        // One request is enough to see that a wrong key is still wrong.
        let enough = if matches!(cause, Cause::Failures(_)) { PROBE_REQUESTS } else { 1 };
        if tried.len() < enough {
            return (ProbeStep::TryAnother, None);
        }
        self.all_failed(enough > 1, now)
    }

    /// Ends a probe because no other request waits that it could try.
    pub fn probe_exhausted(&mut self, now: Instant) -> (ProbeStep, Option<Notice>) {
        match &self.phase {
            Phase::Probing { tried, .. } if !tried.is_empty() => self.all_failed(true, now),
            _ => {
                self.abandon_probe(now);
                (ProbeStep::Over(Judgement::Spared), None)
            }
        }
    }

    /// All requests of a probe failed. After failures the ping decides whose fault it is.
    fn all_failed(&mut self, ask_ping: bool, now: Instant) -> (ProbeStep, Option<Notice>) {
        let Phase::Probing { tried, .. } = &self.phase else {
            return (ProbeStep::Over(Judgement::Spared), None);
        };
        let failure = tried.iter().rfind(|tried| !tried.endpoint_fault);
        let cause = match (failure, tried.last()) {
            (Some(_), _) if ask_ping => return (ProbeStep::Ping, None),
            (Some(failure), _) => Cause::Failures(failure.reason),
            (None, Some(fault)) => Cause::EndpointFault(fault.reason),
            (None, None) => return (ProbeStep::Over(Judgement::Spared), None),
        };
        (ProbeStep::Over(Judgement::Spared), self.fail_probe(cause, None, now))
    }

    /// Records the answer to the ping. With a 2xx Trackfinity is well: the failures are the
    /// requests' own, and each counts as an attempt.
    pub fn ping_answered(&mut self, success: bool, now: Instant) -> (Judgement, Option<Notice>) {
        let Phase::Probing { tried, .. } = &self.phase else {
            return (Judgement::Spared, None);
        };
        let Some(failure) = tried.iter().rfind(|tried| !tried.endpoint_fault) else {
            self.abandon_probe(now);
            return (Judgement::Spared, None);
        };
        let notice = self.fail_probe(Cause::Failures(failure.reason), None, now);
        (if success { Judgement::Counts } else { Judgement::Spared }, notice)
    }

    /// Ends a probe that learned nothing, for example because the connection to RabbitMQ was lost.
    /// The next probe is due at once.
    pub fn abandon_probe(&mut self, now: Instant) {
        if let Phase::Probing { cause, since, next_delay, .. } = self.phase {
            self.phase = Phase::Open { cause, since, probe_at: now, next_delay };
        }
    }

    /// Makes the next probe due now, for example because a changed key may have ended the fault.
    pub fn probe_now(&mut self, now: Instant) {
        if let Phase::Open { probe_at, .. } = &mut self.phase {
            *probe_at = (*probe_at).min(now);
        }
    }

    fn probe_served(
        &mut self,
        request_id: &str,
        started: Instant,
        now: Instant,
    ) -> (ProbeStep, Option<Notice>) {
        let Phase::Probing { since, next_delay, ref tried, .. } = self.phase else {
            return (ProbeStep::Over(Judgement::Spared), None);
        };
        // Others were served after them: the next endpoint fault is their own.
        for fault in tried.iter().filter(|tried| tried.endpoint_fault) {
            self.faults.remember(fault.request, started);
        }
        self.served(request_id, started, now);
        self.failed_in_last_probe.clear();
        if self.not_before.is_some_and(|moment| moment > now) {
            self.phase = Phase::Open { cause: Cause::RateLimited, since, probe_at: now, next_delay };
            return (ProbeStep::Over(Judgement::Spared), self.notice(true, now));
        }
        self.phase = Phase::Closed;
        self.ramp = Some(RAMP_START);
        let paused_for = now.saturating_duration_since(since);
        (ProbeStep::Over(Judgement::Counts), Some(Notice::Resumed(paused_for)))
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

    fn fail_probe(&mut self, cause: Cause, at_least: Option<Duration>, now: Instant) -> Option<Notice> {
        let Phase::Probing { cause: before, since, next_delay, ref tried } = self.phase else {
            return None;
        };
        self.failed_in_last_probe = tried.iter().map(|tried| tried.request).collect();
        let wait = at_least.unwrap_or_default().max(next_delay);
        let next_delay = (next_delay * 2).min(self.limits.probe_max_delay);
        self.phase = Phase::Open { cause, since, probe_at: now + wait, next_delay };
        self.notice(cause.as_str() != before.as_str(), now)
    }

    /// A notice why the breaker is open: at once for a new cause, and again after
    /// [`REPEAT_NOTICE_AFTER`] for the same one.
    fn notice(&mut self, is_new: bool, now: Instant) -> Option<Notice> {
        let Pause { cause, probe_at, .. } = self.pause()?;
        let is_due =
            self.noticed_at.is_none_or(|at| now.saturating_duration_since(at) >= REPEAT_NOTICE_AFTER);
        if !is_new && !is_due {
            return None;
        }
        self.noticed_at = Some(now);
        let wait = probe_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        Some(Notice::Paused(cause, wait))
    }
}

/// When requests had their first endpoint fault, as far as this process knows. In memory and not in
/// headers, because a producer could forge headers.
#[derive(Clone, Debug, Default)]
struct RememberedFaults {
    at: HashMap<RequestKey, Instant>,
    oldest_first: VecDeque<RequestKey>,
}

impl RememberedFaults {
    fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    fn at(&self, request: RequestKey) -> Option<Instant> {
        self.at.get(&request).copied()
    }

    fn remember(&mut self, request: RequestKey, at: Instant) {
        if self.at.insert(request, at).is_none() {
            self.oldest_first.push_back(request);
        }
        while self.oldest_first.len() > MAX_REMEMBERED_FAULTS {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.at.remove(&oldest);
            }
        }
    }

    fn forget(&mut self, request: RequestKey) {
        if self.at.remove(&request).is_some() {
            self.oldest_first.retain(|other| *other != request);
        }
    }
}

#[cfg(test)]
mod tests;
