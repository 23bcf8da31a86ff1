//! How many requests may be under way at once. With `worker.concurrency = "auto"` the worker finds
//! out how many Trackfinity serves best: the limit rises while calls take no longer for it, and falls
//! when they do, or when more of them fail (after Vector's Adaptive Request Concurrency and Netflix's
//! Gradient2). Pure: the time is an argument, and nothing is shared.

#[cfg(test)]
mod tests;
mod window;

use std::{ops::RangeInclusive, time::Duration};

use tokio::time::Instant;

use self::window::{Figures, Took, Window};
use crate::settings::{Concurrency, RateLimit};

/// Where the limit starts, and starts again after a pause.
const START: f64 = 8.0;
/// Calls that take so much longer than without a queue, as a share or in seconds, are no sign of
/// one.
const TOLERATED_SHARE: f64 = 0.25;
const TOLERATED_SECONDS: f64 = 0.01;
/// The least that is left of the limit after one window.
const LARGEST_CUT: f64 = 0.5;
/// How much of the limit is left while it is lowered to see how long calls take without a queue.
const MEASURING: f64 = 0.5;
/// How often that is done, at least. By the clock, so that all workers do it at the same moment:
/// while others keep up the queue, there is nothing to be seen.
const MEASURING_INTERVAL: Duration = Duration::from_secs(10);
/// A longer interval is this one times a power of two, up to [`LONGEST_INTERVAL`], and at least so
/// many calls long.
const CALLS_BETWEEN_MEASURING: f64 = 40.0;
pub(super) const LONGEST_INTERVAL: Duration = Duration::from_secs(640);
/// Where less than this share is left of a call's duration while measuring, calls may still queue:
/// what is left is not what they take without. Where it is more, it is just changing.
const SAME: RangeInclusive<f64> = 0.85..=1.15;
/// A larger share of failing calls is never taken for usual.
const MOST_USUAL_FAILURES: f64 = 0.5;
/// So far below the limit at which calls were turned away it is kept for a while, and then raised one
/// by one.
const CEILING: f64 = 0.95;
const CEILING_AFTER_PAUSE: f64 = 0.9;
const CEILING_HOLDS: Duration = Duration::from_secs(30);
/// So far above the ceiling is forgotten.
const CEILING_PASSED: f64 = 1.1;
/// How long a quarter of the prefetch has to be enough before it shrinks.
const PREFETCH_SHRINKS_AFTER: Duration = Duration::from_secs(10);

/// What came of one call to Trackfinity that was no probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// From sending it to the last byte of its answer.
    pub(super) took: Duration,
    /// How long it had waited for its turn under `worker.rate_limit`.
    pub(super) waited: Duration,
    /// Whether Trackfinity served it, be it by a no; else it failed for the moment.
    pub(super) served: bool,
}

/// How many requests may be under way at once.
#[derive(Debug)]
pub(super) enum Limit {
    Fixed(u16),
    Auto(Box<Adaptive>),
}

impl Limit {
    /// No more than a low rate limit lets through in a minute: what waits here for its turn for
    /// longer than the broker's `consumer_timeout` would be taken for lost. `mark` is a multiple of
    /// [`LONGEST_INTERVAL`] by the clock, the same for all workers.
    pub(super) fn new(
        concurrency: Concurrency,
        rate: Option<RateLimit>,
        now: Instant,
        mark: Instant,
    ) -> Self {
        let a_minute = rate.map_or(u16::MAX, |limit| (limit.per_second() * 60.0) as u16);
        let bound = |number: u16| number.min(a_minute.max(1));
        match concurrency {
            Concurrency::Fixed(number) => Self::Fixed(bound(number.get())),
            Concurrency::Auto => Self::Auto(Box::new(Adaptive::new(bound(Concurrency::MAX), now, mark))),
        }
    }

    /// Requests under way, at most.
    pub(super) fn current(&self) -> u16 {
        match self {
            Self::Fixed(number) => *number,
            Self::Auto(adaptive) => adaptive.current(),
        }
    }

    /// Requests to ask the broker for, at most.
    pub(super) fn prefetch(&mut self, now: Instant) -> u16 {
        match self {
            Self::Fixed(number) => *number,
            Self::Auto(adaptive) => adaptive.prefetch(now),
        }
    }

    /// Takes in a call; so many requests were under way until its own ended.
    pub(super) fn finished(&mut self, call: Call, under_way: usize, now: Instant) {
        if let Self::Auto(adaptive) = self {
            adaptive.finished(call, under_way, now);
        }
    }

    /// A session begins: what was under way in the last one is gone.
    pub(super) fn begin(&mut self, now: Instant) {
        if let Self::Auto(adaptive) = self {
            adaptive.open(0, now);
        }
    }

    /// Calls flow again after a pause; so many requests are under way.
    pub(super) fn resume(&mut self, under_way: usize, now: Instant) {
        if let Self::Auto(adaptive) = self {
            adaptive.resume(under_way, now);
        }
    }
}

/// Finds the limit, a window of calls at a time.
#[derive(Debug)]
pub(super) struct Adaptive {
    most: u16,
    /// The limit while nothing is measured, with its fraction.
    level: f64,
    /// Below this it doubles; above, it rises by its square root.
    doubles_below: f64,
    ceiling: Option<Ceiling>,
    /// What a call takes without a queue, in seconds.
    base: Option<f64>,
    /// The share of calls that fail whatever the limit is.
    usual_failures: Option<f64>,
    /// Whether more did in the last window, which may have been chance.
    suspicious: bool,
    /// The highest level without pressure since the last time something was measured.
    peak: f64,
    window: Window,
    /// The last window.
    last: Option<Took>,
    /// Whether the limit was reached in it.
    limited: bool,
    measuring: Option<Measuring>,
    mark: Instant,
    measure_at: Instant,
    prefetch: u16,
    /// Since when a quarter of it is enough.
    prefetch_idle_since: Option<Instant>,
}

/// What is learned from a window in which the limit is lowered.
#[derive(Clone, Copy, Debug)]
enum Measuring {
    /// How many calls fail.
    Failures,
    /// And how long they take; this was what they took before.
    Both(Took),
}

/// Above it, calls were turned away.
#[derive(Clone, Copy, Debug)]
struct Ceiling {
    level: f64,
    holds_until: Instant,
}

impl Adaptive {
    fn new(most: u16, now: Instant, mark: Instant) -> Self {
        let level = START.min(most.into());
        Self {
            most,
            level,
            doubles_below: f64::INFINITY,
            ceiling: None,
            base: None,
            usual_failures: None,
            suspicious: false,
            peak: level,
            window: Window::open(level as usize, now),
            last: None,
            limited: false,
            measuring: None,
            mark,
            measure_at: now + until_multiple(MEASURING_INTERVAL, mark, now),
            prefetch: 0,
            prefetch_idle_since: None,
        }
    }

    fn current(&self) -> u16 {
        let share = if self.measuring.is_some() { MEASURING } else { 1.0 };
        ((self.level * share) as u16).clamp(1, self.most)
    }

    /// A power of two, so that it seldom changes; larger at once, smaller after a while. What is
    /// measured does not change it.
    fn prefetch(&mut self, now: Instant) -> u16 {
        let wanted = (self.level as u16).max(1).next_power_of_two().min(self.most);
        if wanted.saturating_mul(4) > self.prefetch {
            self.prefetch_idle_since = None;
            self.prefetch = self.prefetch.max(wanted);
        } else if now >= *self.prefetch_idle_since.get_or_insert(now) + PREFETCH_SHRINKS_AFTER {
            self.prefetch_idle_since = None;
            self.prefetch = wanted;
        }
        self.prefetch
    }

    fn resume(&mut self, under_way: usize, now: Instant) {
        self.doubles_below = self.level / 2.0;
        self.ceiling =
            Some(Ceiling { level: self.level * CEILING_AFTER_PAUSE, holds_until: now + CEILING_HOLDS });
        self.level = (self.level / 2.0).clamp(1.0, START);
        self.peak = self.level;
        self.open(under_way, now);
    }

    /// Begins anew, with the next window.
    fn open(&mut self, under_way: usize, now: Instant) {
        self.limited = false;
        self.measuring = None;
        self.open_window(under_way, now);
    }

    /// Those that are under way tell of the limit before; and so do those that now begin all at once,
    /// as they find less of a queue than the ones to come.
    fn open_window(&mut self, under_way: usize, now: Instant) {
        self.window = Window::open(under_way.max(self.current().into()), now);
    }

    fn finished(&mut self, call: Call, under_way: usize, now: Instant) {
        let limit = usize::from(self.current());
        self.window.add(call, under_way >= limit);
        let others = under_way.saturating_sub(1);
        if now >= self.measure_at {
            self.measure_at = now + until_multiple(self.interval(), self.mark, now);
            if let Some(before) = self.last.filter(|_| self.limited) {
                self.measuring = Some(Measuring::Both(before));
                self.open_window(others, now);
                return;
            }
        }
        let measuring = self.measuring.is_some();
        let call = self.last.map_or(0.0, |last| last.mean).max(self.base.unwrap_or_default());
        if !self.window.is_over(limit, measuring, call, now) {
            return;
        }
        let (figures, settled) = (self.window.figures(), self.window.has_settled());
        match self.measuring.take() {
            Some(measuring) if settled => self.measured(measuring, figures),
            Some(_) => {}
            None => self.adjust(figures, self.window.was_limited(), now),
        }
        self.open_window(others, now);
    }

    fn interval(&self) -> Duration {
        let at_least = Duration::from_secs_f64(self.base.unwrap_or_default() * CALLS_BETWEEN_MEASURING);
        let mut interval = MEASURING_INTERVAL;
        while interval < at_least.min(LONGEST_INTERVAL) {
            interval *= 2;
        }
        interval
    }

    /// Sets the limit by a window.
    fn adjust(&mut self, figures: Figures, limited: bool, now: Instant) {
        self.base = lower(self.base, figures.took);
        let usual = *self.usual_failures.get_or_insert(figures.failed.min(MOST_USUAL_FAILURES));
        // What never reached the limit says nothing of it.
        self.last = figures.took.or(self.last);
        self.limited = limited;
        if !limited {
            return;
        }
        let queueing = self.left_by_queueing(figures.took);
        let failing = (1.0 - (figures.failed_at_least(usual) - usual)).clamp(LARGEST_CUT, 1.0);
        let confirmed = std::mem::replace(&mut self.suspicious, failing < 1.0);
        if failing == 1.0 && queueing == 1.0 {
            self.grow(now);
            self.level = self.level.min(self.most.into());
            self.peak = self.peak.max(self.level);
            return;
        }
        if queueing == 1.0 && !confirmed {
            return;
        }
        self.doubles_below = 0.0;
        if failing < 1.0 && confirmed {
            let level = (self.level * CEILING).max(1.0);
            self.ceiling = Some(Ceiling { level, holds_until: now + CEILING_HOLDS });
            self.level *= failing.min(queueing);
            // If as many fail under a lower limit, it is not for the limit.
            self.measuring = Some(Measuring::Failures);
        } else {
            self.level = self.level * queueing + self.level.sqrt();
        }
        self.level = self.level.clamp(1.0, self.most.into());
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
        if self.level > ceiling.level * CEILING_PASSED + 1.0 {
            self.ceiling = None;
        }
    }

    /// What is left of the limit, as calls queue: 1, if they do not.
    fn left_by_queueing(&self, took: Option<Took>) -> f64 {
        let (Some(base), Some(took)) = (self.base, took) else {
            return 1.0;
        };
        (tolerated(base) / took.at_least()).clamp(LARGEST_CUT, 1.0)
    }

    /// Learns from a window with a lower limit how many calls fail, and what they take, whatever the
    /// limit is. What lowered the limit before may turn out to have been no pressure.
    fn measured(&mut self, measuring: Measuring, figures: Figures) {
        let usual = self.usual_failures.unwrap_or(figures.failed);
        let more_fail = figures.failed_at_least(usual) > usual && usual < MOST_USUAL_FAILURES;
        let failed = if more_fail { figures.failed } else { (figures.failed + usual) / 2.0 };
        self.usual_failures = Some(failed.min(MOST_USUAL_FAILURES));
        if more_fail {
            self.ceiling = None;
            self.doubles_below = self.doubles_below.max(self.peak);
        }
        let (Measuring::Both(before), Some(took)) = (measuring, figures.took) else {
            return;
        };
        let was_pressure = self.base.is_some_and(|base| before.mean > tolerated(base));
        let same = took.is_about(before, SAME);
        self.base = if same { Some(took.mean) } else { lower(self.base, Some(took)) };
        if was_pressure && self.base.is_some_and(|base| before.mean <= tolerated(base)) {
            self.doubles_below = self.doubles_below.max(self.peak);
        }
        if self.doubles_below < self.peak {
            self.peak = self.level;
        }
    }
}

/// What a call may take without there being a queue.
fn tolerated(base: f64) -> f64 {
    base + (base * TOLERATED_SHARE).max(TOLERATED_SECONDS)
}

/// The lower one. A figure from few calls, or from ones that differ much, may be low by chance: it
/// counts for what it is at most.
fn lower(base: Option<f64>, took: Option<Took>) -> Option<f64> {
    match (base, took) {
        (Some(base), Some(took)) => Some(base.min(took.at_most())),
        (base, took) => base.or(took.map(Took::at_most)),
    }
}

/// How long it is until the next multiple of the interval, counted from a mark, past or to come.
fn until_multiple(interval: Duration, mark: Instant, now: Instant) -> Duration {
    let nanos = interval.as_nanos().max(1);
    let to_come = mark.saturating_duration_since(now).as_nanos() % nanos;
    let past = now.saturating_duration_since(mark).as_nanos() % nanos;
    let left = if to_come > 0 { to_come } else { nanos - past };
    Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
}
