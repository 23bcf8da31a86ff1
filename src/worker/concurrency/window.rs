//! Some calls that ended one after the other, and what they say in all.

use std::{ops::RangeInclusive, time::Duration};

use tokio::time::Instant;

use super::Call;

/// A window lasts for so many calls at least, or half the limit, if that is more.
const CALLS: usize = 16;
/// One that measures, for so many, or the limit.
const CALLS_TO_MEASURE: usize = 64;
/// However fast calls are, it lasts so long.
const SHORTEST: Duration = Duration::from_millis(50);
/// One that measures has to overlap with those of other workers, whose clocks may be off by some
/// milliseconds.
const SHORTEST_TO_MEASURE: Duration = Duration::from_millis(200);
/// After so long, or so many times what a call takes, a few calls are enough.
const PATIENCE: Duration = Duration::from_secs(1);
const CALLS_OF_PATIENCE: f64 = 3.0;
const FEW_CALLS: usize = 4;
/// The share of the shortest, and of the longest, that are left out of the mean.
const TRIMMED: f64 = 0.1;
/// How many standard errors off a figure may be: where it lowers the limit, and where it is kept, so
/// that the least likely of hundreds counts.
const DOUBT: f64 = 2.0;
const LASTING_DOUBT: f64 = 3.0;
/// A share of failures below this is taken for it when its error is estimated: among few calls there
/// may be none by chance.
const LEAST_FAILURES: f64 = 0.05;

/// A window that is open.
#[derive(Debug)]
pub(super) struct Window {
    opened: Instant,
    earlier: usize,
    /// Seconds that each took; `None` for those that failed.
    calls: Vec<Option<f64>>,
    /// Whether the limit was reached.
    reached: bool,
    took: Duration,
    waited: Duration,
}

/// What a window says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    calls: usize,
    /// The share of calls that failed.
    pub(super) failed: f64,
    /// `None` if there were too few that did not.
    pub(super) took: Option<Took>,
}

/// How long calls took, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub(super) mean: f64,
    /// The standard error of the mean.
    error: f64,
}

impl Window {
    /// The first calls of it, so many, are left out where enough others end.
    pub(super) fn open(earlier: usize, now: Instant) -> Self {
        Self {
            opened: now,
            earlier,
            calls: Vec::new(),
            reached: false,
            took: Duration::ZERO,
            waited: Duration::ZERO,
        }
    }

    pub(super) fn add(&mut self, call: Call, reached: bool) {
        self.calls.push(call.served.then_some(call.took.as_secs_f64()));
        self.reached |= reached;
        self.took = self.took.saturating_add(call.took);
        self.waited = self.waited.saturating_add(call.waited);
    }

    /// Whether it was the limit that held requests back, and not the rate limit.
    pub(super) fn was_limited(&self) -> bool {
        self.reached && self.waited <= self.took
    }

    /// Whether it tells of the limit as it is, and not of the one before.
    pub(super) fn has_settled(&self) -> bool {
        self.calls.len() >= self.earlier + FEW_CALLS
    }

    /// `call` is how many seconds one takes these days.
    pub(super) fn is_over(&self, limit: usize, measuring: bool, call: f64, now: Instant) -> bool {
        let lasted = now.saturating_duration_since(self.opened);
        let shortest = if measuring { SHORTEST_TO_MEASURE } else { SHORTEST };
        if lasted < shortest || self.calls.len() < FEW_CALLS {
            return false;
        }
        let patience = PATIENCE.as_secs_f64().max(CALLS_OF_PATIENCE * call);
        self.calls.len() >= self.earlier + needed(limit, measuring) || lasted.as_secs_f64() >= patience
    }

    /// Without the first calls, unless hardly any others ended.
    pub(super) fn figures(&self) -> Figures {
        let enough = self.calls.len().saturating_sub(CALLS);
        let calls = self.calls.iter().skip(self.earlier.min(enough));
        let mut served: Vec<f64> = calls.clone().flatten().copied().collect();
        let count = calls.len();
        Figures {
            calls: count,
            failed: (count - served.len()) as f64 / count.max(1) as f64,
            took: (served.len() >= FEW_CALLS).then(|| Took::of(&mut served)),
        }
    }
}

fn needed(limit: usize, measuring: bool) -> usize {
    if measuring { limit.max(CALLS_TO_MEASURE) } else { (limit / 2).max(CALLS) }
}

impl Figures {
    /// The share of failures, less what may be chance where `usual` is the usual share; no less than
    /// that.
    pub(super) fn failed_at_least(&self, usual: f64) -> f64 {
        let share = usual.max(LEAST_FAILURES);
        let error = (share * (1.0 - share) / self.calls.max(1) as f64).sqrt();
        (self.failed - LASTING_DOUBT * error).max(usual)
    }
}

impl Took {
    /// The mean of those in the middle: a few that hang do not count, and where calls are of two
    /// kinds it does not jump between them, as the median would.
    fn of(seconds: &mut [f64]) -> Self {
        seconds.sort_unstable_by(f64::total_cmp);
        let trimmed = (seconds.len() as f64 * TRIMMED) as usize;
        let middle = seconds.get(trimmed..seconds.len() - trimmed).unwrap_or_default();
        let (Some(least), Some(most)) = (middle.first(), middle.last()) else {
            return Self { mean: 0.0, error: 0.0 };
        };
        let count = middle.len() as f64;
        let mean = middle.iter().sum::<f64>() / count;
        // The error of a trimmed mean, after Tukey and McLaughlin: what is left out counts as much as
        // the last that is not.
        let square = |each: &f64| (each - mean).powi(2);
        let squares =
            middle.iter().map(square).sum::<f64>() + trimmed as f64 * (square(least) + square(most));
        Self { mean, error: squares.sqrt() / count }
    }

    /// Whether it may be so many times another.
    pub(super) fn is_about(self, other: Self, times: RangeInclusive<f64>) -> bool {
        let doubt = DOUBT * self.error.hypot(other.error);
        self.mean >= other.mean * times.start() - doubt && self.mean <= other.mean * times.end() + doubt
    }

    pub(super) fn at_least(self) -> f64 {
        (self.mean - DOUBT * self.error).max(0.0)
    }

    pub(super) fn at_most(self) -> f64 {
        self.mean + LASTING_DOUBT * self.error
    }
}
