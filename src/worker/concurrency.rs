//! How many requests may be in flight at once. With `worker.concurrency = "auto"` the worker finds
//! the best limit for Trackfinity: it raises the limit while calls do not become slower, and lowers
//! it when they do, or when more of them fail (after Vector's Adaptive Request Concurrency and
//! Netflix's Gradient2). [`tuning`] explains the rules. Pure: the time is an argument, and nothing
//! is shared.

#[cfg(test)]
mod tests;
mod tuning;
mod window;

use std::time::Duration;

use tokio::time::Instant;

pub(super) use self::window::Call;
use self::{
    tuning::Tuning,
    window::{LatencyStats, Window, WindowStats},
};
use crate::settings::{Concurrency, RateLimit};

/// The longest interval between two measurements of the baselines.
pub(super) const MAX_BASELINE_INTERVAL: Duration = Tuning::MAX_BASELINE_INTERVAL;

/// How many requests may be in flight at once.
#[derive(Debug)]
pub(super) enum ConcurrencyLimit {
    Fixed(u16),
    Auto(Box<AdaptiveLimit>),
}

impl ConcurrencyLimit {
    /// The limit is at most what the rate limit allows in a minute: if requests waited here for
    /// longer than RabbitMQ's `consumer_timeout`, it would close the channel. `mark` is a multiple
    /// of [`MAX_BASELINE_INTERVAL`] by the clock, the same for all workers.
    pub(super) fn new(
        concurrency: Concurrency,
        rate: Option<RateLimit>,
        now: Instant,
        mark: Instant,
    ) -> Self {
        let per_minute = rate.map_or(u16::MAX, |limit| (limit.per_second() * 60.0) as u16);
        let bound = |number: u16| number.min(per_minute.max(1));
        match concurrency {
            Concurrency::Fixed(number) => Self::Fixed(bound(number.get())),
            Concurrency::Auto => Self::Auto(Box::new(AdaptiveLimit::new(bound(Concurrency::MAX), now, mark))),
        }
    }

    /// Requests in flight at most.
    pub(super) fn current(&self) -> u16 {
        match self {
            Self::Fixed(number) => *number,
            Self::Auto(adaptive) => adaptive.current(),
        }
    }

    /// The prefetch count.
    pub(super) fn prefetch(&mut self, now: Instant) -> u16 {
        match self {
            Self::Fixed(number) => *number,
            Self::Auto(adaptive) => adaptive.prefetch(now),
        }
    }

    /// Records a call; `in_flight` counts the requests in flight when it ended, with its own.
    pub(super) fn record(&mut self, call: Call, in_flight: usize, now: Instant) {
        if let Self::Auto(adaptive) = self {
            adaptive.record(call, in_flight, now);
        }
    }

    /// A session starts: nothing of the last one is in flight any more.
    pub(super) fn start_session(&mut self, now: Instant) {
        if let Self::Auto(adaptive) = self {
            adaptive.restart(0, now);
        }
    }

    /// Calls are made again after a pause; `in_flight` requests are in flight.
    pub(super) fn resume(&mut self, in_flight: usize, now: Instant) {
        if let Self::Auto(adaptive) = self {
            adaptive.resume(in_flight, now);
        }
    }
}

/// Finds the limit: adjusts it after each window of calls.
#[derive(Debug)]
pub(super) struct AdaptiveLimit {
    max: u16,
    /// The limit while no baseline is measured, with its fraction.
    level: f64,
    /// Below this the level doubles; above, it grows by its square root.
    doubles_below: f64,
    ceiling: Option<Ceiling>,
    /// What a call takes without a queue, in seconds.
    baseline_latency: Option<f64>,
    /// The share of calls that fail whatever the limit is.
    baseline_failures: Option<f64>,
    /// Whether more calls failed in the last window, which may have been chance.
    failures_suspected: bool,
    window: Window,
    /// The latency in the last window.
    last_latency: Option<LatencyStats>,
    /// Whether the limit was reached in the last window.
    was_limited: bool,
    measuring: Option<Measuring>,
    mark: Instant,
    next_baseline_at: Instant,
    prefetch: u16,
    /// Since when a quarter of the prefetch is enough.
    prefetch_idle_since: Option<Instant>,
}

/// What a window with a lowered limit measures.
#[derive(Clone, Copy, Debug)]
enum Measuring {
    /// How many calls fail.
    Failures,
    /// How many fail, and how long they take. Holds their latency before.
    Both(LatencyStats),
}

/// A level above which more calls failed, or calls were paused.
#[derive(Clone, Copy, Debug)]
struct Ceiling {
    level: f64,
    holds_until: Instant,
}

impl AdaptiveLimit {
    fn new(max: u16, now: Instant, mark: Instant) -> Self {
        let level = Tuning::INITIAL_LIMIT.min(max.into());
        Self {
            max,
            level,
            doubles_below: f64::INFINITY,
            ceiling: None,
            baseline_latency: None,
            baseline_failures: None,
            failures_suspected: false,
            window: Window::new(level as usize, now),
            last_latency: None,
            was_limited: false,
            measuring: None,
            mark,
            next_baseline_at: now + until_multiple(Tuning::BASELINE_INTERVAL, mark, now),
            prefetch: 0,
            prefetch_idle_since: None,
        }
    }

    fn current(&self) -> u16 {
        let share = if self.measuring.is_some() { Tuning::BASELINE_LIMIT_FACTOR } else { 1.0 };
        ((self.level * share) as u16).clamp(1, self.max)
    }

    /// A power of two, so that it rarely changes. Grows at once, and shrinks after a delay.
    /// Measuring a baseline does not change it.
    fn prefetch(&mut self, now: Instant) -> u16 {
        let wanted = (self.level as u16).max(1).next_power_of_two().min(self.max);
        if wanted.saturating_mul(4) > self.prefetch {
            self.prefetch_idle_since = None;
            self.prefetch = self.prefetch.max(wanted);
        } else if now >= *self.prefetch_idle_since.get_or_insert(now) + Tuning::PREFETCH_SHRINK_DELAY {
            self.prefetch_idle_since = None;
            self.prefetch = wanted;
        }
        self.prefetch
    }

    fn resume(&mut self, in_flight: usize, now: Instant) {
        self.doubles_below = self.level / 2.0;
        self.ceiling = Some(Ceiling {
            level: self.level * Tuning::CEILING_FACTOR_AFTER_PAUSE,
            holds_until: now + Tuning::CEILING_HOLD_TIME,
        });
        self.level = (self.level / 2.0).clamp(1.0, Tuning::INITIAL_LIMIT);
        self.restart(in_flight, now);
    }

    /// Forgets the last window, and starts a new one.
    fn restart(&mut self, in_flight: usize, now: Instant) {
        self.was_limited = false;
        self.measuring = None;
        self.open_window(in_flight, now);
    }

    /// The first calls of a window are left out. Those in flight began under the limit before.
    /// Those that start now, all at once, meet a shorter queue than the later ones.
    fn open_window(&mut self, in_flight: usize, now: Instant) {
        self.window = Window::new(in_flight.max(self.current().into()), now);
    }

    fn record(&mut self, call: Call, in_flight: usize, now: Instant) {
        let limit = usize::from(self.current());
        self.window.add(call, in_flight >= limit);
        let others = in_flight.saturating_sub(1);
        if now >= self.next_baseline_at {
            self.next_baseline_at = now + until_multiple(self.interval(), self.mark, now);
            if let Some(before) = self.last_latency.filter(|_| self.was_limited) {
                self.measuring = Some(Measuring::Both(before));
                self.open_window(others, now);
                return;
            }
        }
        let measuring = self.measuring.is_some();
        let latency = self.last_latency.map_or(0.0, |last| last.mean);
        if !self.window.is_complete(limit, measuring, latency, now) {
            return;
        }
        let stats = self.window.stats();
        match self.measuring.take() {
            Some(measuring) => self.apply_baseline(measuring, stats),
            None => self.adjust(stats, self.window.was_limited(), now),
        }
        self.open_window(others, now);
    }

    fn interval(&self) -> Duration {
        let at_least = Duration::from_secs_f64(
            self.baseline_latency.unwrap_or_default() * Tuning::MIN_CALLS_BETWEEN_BASELINES,
        );
        let mut interval = Tuning::BASELINE_INTERVAL;
        while interval < at_least.min(Tuning::MAX_BASELINE_INTERVAL) {
            interval *= 2;
        }
        interval
    }

    /// Adjusts the limit after a window.
    fn adjust(&mut self, stats: WindowStats, limited: bool, now: Instant) {
        self.baseline_latency = lower_baseline(self.baseline_latency, stats.latency);
        let baseline =
            *self.baseline_failures.get_or_insert(stats.failures.min(Tuning::MAX_BASELINE_FAILURES));
        // A window in which the limit was not reached says nothing about it.
        self.last_latency = stats.latency.or(self.last_latency);
        self.was_limited = limited;
        if !limited {
            return;
        }
        let queueing = self.queueing_factor(stats.latency);
        let more_fail = stats.more_fail(baseline);
        let confirmed = more_fail && self.failures_suspected;
        self.failures_suspected = more_fail;
        if !more_fail && queueing == 1.0 {
            self.grow(now);
            self.level = self.level.min(self.max.into());
            return;
        }
        if queueing == 1.0 && !confirmed {
            return;
        }
        self.doubles_below = 0.0;
        if confirmed {
            let level = (self.level * Tuning::CEILING_FACTOR).max(1.0);
            self.ceiling = Some(Ceiling { level, holds_until: now + Tuning::CEILING_HOLD_TIME });
            self.level = level * queueing;
            // If as many fail under a lower limit, the limit is not the cause.
            self.measuring = Some(Measuring::Failures);
        } else {
            self.level = self.level * queueing + self.level.sqrt();
        }
        self.level = self.level.clamp(1.0, self.max.into());
    }

    fn grow(&mut self, now: Instant) {
        let by_root = self.level + self.level.sqrt();
        let grown = match self.level < self.doubles_below {
            true => (self.level * 2.0).min(self.doubles_below).max(by_root),
            false => by_root,
        };
        let Some(ceiling) = self.ceiling else {
            self.level = grown;
            return;
        };
        self.level = if grown <= ceiling.level {
            grown
        } else if self.level < ceiling.level {
            ceiling.level
        } else if now < ceiling.holds_until {
            self.level
        } else {
            self.level + 1.0
        };
        if self.level > ceiling.level * Tuning::CEILING_DROPPED_FACTOR + 1.0 {
            self.ceiling = None;
        }
    }

    /// The factor for the limit that follows from how long calls queue; 1 if they do not queue.
    fn queueing_factor(&self, latency: Option<LatencyStats>) -> f64 {
        let (Some(baseline), Some(latency)) = (self.baseline_latency, latency) else {
            return 1.0;
        };
        (tolerated(baseline) / latency.lower_bound()).clamp(Tuning::MIN_LIMIT_FACTOR, 1.0)
    }

    /// Sets the baselines from a window with a lowered limit.
    fn apply_baseline(&mut self, measuring: Measuring, stats: WindowStats) {
        self.baseline_failures = Some(stats.failures.min(Tuning::MAX_BASELINE_FAILURES));
        let (Measuring::Both(before), Some(latency)) = (measuring, stats.latency) else {
            return;
        };
        let is_unchanged = latency.is_about(before, Tuning::UNCHANGED_LATENCY);
        self.baseline_latency = if is_unchanged {
            Some(latency.mean)
        } else {
            lower_baseline(self.baseline_latency, Some(latency))
        };
    }
}

/// How long a call may take without a sign of a queue, in seconds.
fn tolerated(baseline: f64) -> f64 {
    baseline + (baseline * Tuning::TOLERATED_LATENCY_SHARE).max(Tuning::TOLERATED_LATENCY_SECONDS)
}

/// The lower of both latencies. A mean of few calls, or of calls that differ much, may be low by
/// chance: so its upper bound counts.
fn lower_baseline(baseline: Option<f64>, latency: Option<LatencyStats>) -> Option<f64> {
    match (baseline, latency) {
        (Some(baseline), Some(latency)) => Some(baseline.min(latency.upper_bound())),
        (baseline, latency) => baseline.or(latency.map(LatencyStats::upper_bound)),
    }
}

/// The time until the next multiple of the interval, counted from a mark in the past or the future.
fn until_multiple(interval: Duration, mark: Instant, now: Instant) -> Duration {
    let nanos = interval.as_nanos().max(1);
    let ahead = mark.saturating_duration_since(now).as_nanos() % nanos;
    let past = now.saturating_duration_since(mark).as_nanos() % nanos;
    let left = if ahead > 0 { ahead } else { nanos - past };
    Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
}
