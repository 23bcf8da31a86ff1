//! Probes: what the answers to their calls change.

use std::time::Duration;

use tokio::time::Instant;

use super::{Breaker, CallResult, Cause, Notice, Phase, RAMP_START, Tried, remembered_faults::RequestKey};
use crate::policy::Judgement;

/// Different requests that one probe tries after transient failures, at most.
pub const PROBE_REQUESTS: usize = 5;

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

impl Breaker {
    /// Starts a probe; each answer goes to [`probe_answered`](Self::probe_answered).
    pub fn begin_probe(&mut self) {
        if let Phase::Open { cause, since, next_delay, .. } = self.phase {
            self.phase = Phase::Probing { cause, since, next_delay, tried: Vec::new() };
        }
    }

    /// Whether a probe should take another request, while others wait: this one was tried in this
    /// probe, or failed in the one before.
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
        for fault in tried.iter().filter(|tried| tried.endpoint_fault && !tried.reason.is_blind_to_request())
        {
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

    fn fail_probe(&mut self, cause: Cause, at_least: Option<Duration>, now: Instant) -> Option<Notice> {
        let Phase::Probing { cause: before, since, next_delay, ref tried } = self.phase else {
            return None;
        };
        self.failed_in_last_probe = tried.iter().map(|tried| tried.request).collect();
        let wait = at_least.unwrap_or_default().max(next_delay);
        let next_delay = (next_delay * 2).min(self.limits.probe_max_delay);
        self.phase = Phase::Open { cause, since, probe_at: now + wait, next_delay };
        self.notice(cause.kind() != before.kind(), now)
    }
}
