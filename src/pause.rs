//! When calls to Trackfinity stop, and how they start again. The transitions are pure: the time is
//! an argument; [`Gate`] shares the one state there is among the tasks.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    policy::{Meaning, Reason},
    telemetry::metrics::PAUSE_CAUSES,
};

/// How often the log may repeat why calls are paused.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Why calls are paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Key, allow-list or address is wrong.
    EndpointFault(Reason),
    /// So many transient failures in a row.
    Failures(Reason),
    /// Trackfinity asked for it with a 429.
    RateLimited,
}

impl Cause {
    /// All kinds of causes, as they stand in metrics.
    pub const KINDS: [&'static str; 3] = PAUSE_CAUSES;

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
            Self::Failures(_) => "nothing, if Trackfinity is known to be down: calls resume by themselves",
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

/// What a pause needs to know of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Trackfinity serves.
    Served,
    Failure(Reason),
    EndpointFault(Reason),
    /// Wait so long.
    RateLimited(Duration),
}

impl Signal {
    /// The signal of a reply; `rate_limit` is the wait that a 429 asks for.
    #[must_use]
    pub fn of(meaning: Meaning, rate_limit: Duration) -> Self {
        match meaning {
            Meaning::Unlocked | Meaning::Refused(_) | Meaning::NotFound => Self::Served,
            Meaning::Transient(reason, _) => Self::Failure(reason),
            Meaning::EndpointFault(reason) => Self::EndpointFault(reason),
            Meaning::RateLimited(_) => Self::RateLimited(rate_limit),
        }
    }
}

/// What there is to say about a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Calls are paused, for this cause, until the next probe at the latest in so long.
    Paused(Cause, Duration),
    /// Calls flow again, after so long.
    Resumed(Duration),
}

/// When a pause opens and how it is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PauseLimits {
    /// Consecutive transient failures that open it.
    pub after_failures: u32,
    /// The wait before the first probe.
    pub probe_delay: Duration,
    /// The longest wait between two probes.
    pub probe_max_delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Calls flow; so many failures in a row.
    Closed { failures: u32 },
    /// No calls until `probe_at`; after another failure the wait is `next_delay`.
    Open { cause: Cause, since: Instant, probe_at: Instant, next_delay: Duration },
    /// One request is tried.
    Probing { cause: Cause, since: Instant, next_delay: Duration },
}

/// The state machine.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    limits: PauseLimits,
    phase: Phase,
    /// No call before, whatever a probe says: a 429 asked for it.
    not_before: Option<Instant>,
    /// When each kind of cause was last told, in the order of [`Cause::KINDS`].
    said_at: [Option<Instant>; Cause::KINDS.len()],
    /// Whether this pause was told of, so that its end is worth telling.
    said: bool,
}

impl Pause {
    #[must_use]
    pub fn new(limits: PauseLimits) -> Self {
        Self {
            limits,
            phase: Phase::Closed { failures: 0 },
            not_before: None,
            said_at: Default::default(),
            said: false,
        }
    }

    /// Why calls are paused, if they are.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        match self.phase {
            Phase::Closed { .. } => None,
            Phase::Open { cause, .. } | Phase::Probing { cause, .. } => Some(cause),
        }
    }

    /// When the next probe is due, if calls are paused and none is under way.
    #[must_use]
    pub fn probe_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open { probe_at, .. } => Some(probe_at).max(self.not_before),
            _ => None,
        }
    }

    /// Takes in the reply to a call that was no probe. One that was under way when the pause opened
    /// can't end it, but an endpoint fault among them is the cause worth telling.
    pub fn observe(&mut self, signal: Signal, now: Instant) -> Option<Notice> {
        match (self.phase, signal) {
            (Phase::Closed { .. }, Signal::Served) => {
                self.phase = Phase::Closed { failures: 0 };
                None
            }
            (Phase::Closed { failures }, Signal::Failure(reason)) => {
                let failures = failures.saturating_add(1);
                self.phase = Phase::Closed { failures };
                let full = failures >= self.limits.after_failures;
                full.then(|| self.open(Cause::Failures(reason), self.limits.probe_delay, now))?
            }
            (Phase::Closed { .. }, Signal::EndpointFault(reason)) => {
                self.open(Cause::EndpointFault(reason), self.limits.probe_delay, now)
            }
            (Phase::Closed { .. }, Signal::RateLimited(wait)) => {
                self.not_before = Some(now + wait);
                // One that asks for no wait at all still wants fewer calls.
                self.open(Cause::RateLimited, wait.max(self.limits.probe_delay), now)
            }
            (Phase::Open { cause, .. }, Signal::EndpointFault(reason))
                if !matches!(cause, Cause::EndpointFault(_)) =>
            {
                self.set_cause(Cause::EndpointFault(reason));
                self.say(now)
            }
            (_, Signal::RateLimited(wait)) => {
                self.not_before = self.not_before.max(Some(now + wait));
                None
            }
            _ => None,
        }
    }

    /// A request is about to be tried.
    pub fn begin_probe(&mut self) {
        if let Phase::Open { cause, since, next_delay, .. } = self.phase {
            self.phase = Phase::Probing { cause, since, next_delay };
        }
    }

    /// Takes in the reply to a probe; `None` if it came to no call, or its broker was lost.
    pub fn end_probe(&mut self, signal: Option<Signal>, now: Instant) -> Option<Notice> {
        let Phase::Probing { cause, since, next_delay } = self.phase else {
            return None;
        };
        let (cause, wait) = match signal {
            Some(Signal::Served) if self.not_before.is_some_and(|moment| moment > now) => {
                self.phase = Phase::Open { cause: Cause::RateLimited, since, probe_at: now, next_delay };
                return self.say(now);
            }
            Some(Signal::Served) => {
                self.phase = Phase::Closed { failures: 0 };
                let told = std::mem::take(&mut self.said);
                return told.then(|| Notice::Resumed(now.saturating_duration_since(since)));
            }
            Some(Signal::Failure(reason)) => (Cause::Failures(reason), next_delay),
            Some(Signal::EndpointFault(reason)) => (Cause::EndpointFault(reason), next_delay),
            Some(Signal::RateLimited(wait)) => {
                self.not_before = self.not_before.max(Some(now + wait));
                (Cause::RateLimited, wait.max(next_delay))
            }
            // Nothing was learned, so the next one may come at once.
            None => {
                self.phase = Phase::Open { cause, since, probe_at: now, next_delay };
                return None;
            }
        };
        let next_delay = (next_delay * 2).min(self.limits.probe_max_delay);
        self.phase = Phase::Open { cause, since, probe_at: now + wait, next_delay };
        self.say(now)
    }

    fn open(&mut self, cause: Cause, wait: Duration, now: Instant) -> Option<Notice> {
        let next_delay = (self.limits.probe_delay * 2).min(self.limits.probe_max_delay);
        self.phase = Phase::Open { cause, since: now, probe_at: now + wait, next_delay };
        self.say(now)
    }

    fn set_cause(&mut self, new: Cause) {
        if let Phase::Open { cause, .. } = &mut self.phase {
            *cause = new;
        }
    }

    /// Says why, once, and again at most every minute; another cause is worth saying at once.
    fn say(&mut self, now: Instant) -> Option<Notice> {
        let (cause, wait) = match self.phase {
            Phase::Open { cause, probe_at, .. } => (cause, probe_at.saturating_duration_since(now)),
            _ => return None,
        };
        let kinds = Cause::KINDS.iter().zip(&mut self.said_at);
        for (_, said_at) in kinds.filter(|(kind, _)| **kind == cause.as_str()) {
            if said_at.is_some_and(|at| now.saturating_duration_since(at) < SAY_AGAIN_AFTER) {
                return None;
            }
            *said_at = Some(now);
        }
        self.said = true;
        Some(Notice::Paused(cause, wait))
    }
}

/// The pause, shared by all tasks: the only state they share.
#[derive(Debug)]
pub struct Gate {
    pause: Mutex<Pause>,
    paused: watch::Sender<Option<Cause>>,
    probe_ended: Notify,
}

impl Gate {
    #[must_use]
    pub fn new(limits: PauseLimits) -> Self {
        Self {
            pause: Mutex::new(Pause::new(limits)),
            paused: watch::Sender::new(None),
            probe_ended: Notify::new(),
        }
    }

    /// Why calls are paused, if they are.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        *self.paused.borrow()
    }

    /// Follows the cause, for whoever waits for it or shows it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Cause>> {
        self.paused.subscribe()
    }

    /// See [`Pause::probe_at`].
    #[must_use]
    pub fn probe_at(&self) -> Option<Instant> {
        self.lock().probe_at()
    }

    /// See [`Pause::observe`].
    pub fn observe(&self, signal: Signal) {
        self.change(|pause| pause.observe(signal, Instant::now()));
    }

    /// See [`Pause::begin_probe`].
    pub fn begin_probe(&self) {
        self.lock().begin_probe();
    }

    /// See [`Pause::end_probe`].
    pub fn end_probe(&self, signal: Option<Signal>) {
        self.change(|pause| pause.end_probe(signal, Instant::now()));
        self.probe_ended.notify_waiters();
    }

    /// Waits for the end of the probe that is under way; none, if none is.
    pub async fn probe_ended(&self) {
        let ended = self.probe_ended.notified();
        let probing = matches!(self.lock().phase, Phase::Probing { .. });
        if probing {
            ended.await;
        }
    }

    fn change(&self, transition: impl FnOnce(&mut Pause) -> Option<Notice>) {
        let (notice, cause) = {
            let mut pause = self.lock();
            (transition(&mut pause), pause.cause())
        };
        self.paused.send_if_modified(|paused| std::mem::replace(paused, cause) != cause);
        match notice {
            Some(Notice::Paused(cause, wait)) => tracing::warn!(
                cause = cause.as_str(),
                next_probe_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "calls are paused: {cause}: {}",
                cause.advice()
            ),
            Some(Notice::Resumed(after)) => {
                tracing::info!(paused_for_s = after.as_secs(), "calls flow again")
            }
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pause> {
        // Transitions do not panic; were one to, the state it left is a state all the same.
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
