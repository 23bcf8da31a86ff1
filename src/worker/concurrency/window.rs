//! A window: some calls that ended one after the other, and their statistics.

use std::{ops::RangeInclusive, time::Duration};

use tokio::time::Instant;

use super::tuning::Tuning;

/// One call to Trackfinity that was no probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) struct Call {
    /// From sending it to the last byte of its answer.
    pub(in crate::worker) took: Duration,
    /// How long it had waited for `worker.rate_limit`.
    pub(in crate::worker) waited: Duration,
    /// Whether Trackfinity served it, also by refusing it; otherwise it failed transiently.
    pub(in crate::worker) served: bool,
}

/// A window that is open.
#[derive(Debug)]
pub(super) struct Window {
    opened: Instant,
    /// How many of the first calls are left out.
    skipped: usize,
    /// The seconds that each took; `None` if it failed.
    calls: Vec<Option<f64>>,
    limit_reached: bool,
    took: Duration,
    waited: Duration,
}

/// The statistics of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowStats {
    calls: usize,
    /// The share of calls that failed.
    pub(super) failures: f64,
    /// `None` if too few calls were served.
    pub(super) latency: Option<LatencyStats>,
}

/// How long calls took, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct LatencyStats {
    pub(super) mean: f64,
    /// The standard error of the mean.
    error: f64,
}

impl Window {
    /// The first `skipped` calls are left out of the statistics if enough others end.
    pub(super) fn new(skipped: usize, now: Instant) -> Self {
        Self {
            opened: now,
            skipped,
            calls: Vec::new(),
            limit_reached: false,
            took: Duration::ZERO,
            waited: Duration::ZERO,
        }
    }

    pub(super) fn add(&mut self, call: Call, limit_reached: bool) {
        self.calls.push(call.served.then_some(call.took.as_secs_f64()));
        self.limit_reached |= limit_reached;
        self.took = self.took.saturating_add(call.took);
        self.waited = self.waited.saturating_add(call.waited);
    }

    /// Whether the concurrency limit held requests back, and not the rate limit.
    pub(super) fn was_limited(&self) -> bool {
        self.limit_reached && self.waited <= self.took
    }

    /// `latency`: how many seconds a call takes at the moment.
    pub(super) fn is_complete(&self, limit: usize, measuring: bool, latency: f64, now: Instant) -> bool {
        let lasted = now.saturating_duration_since(self.opened);
        let shortest = if measuring { Tuning::MIN_BASELINE_WINDOW } else { Tuning::MIN_WINDOW };
        if lasted < shortest || self.calls.len() < Tuning::MIN_SAMPLES {
            return false;
        }
        let longest = Tuning::MAX_WINDOW.as_secs_f64().max(Tuning::MAX_WINDOW_IN_CALLS * latency);
        self.calls.len() >= self.skipped + needed(limit, measuring) || lasted.as_secs_f64() >= longest
    }

    /// Leaves out the first calls, unless too few others ended.
    pub(super) fn stats(&self) -> WindowStats {
        let enough = self.calls.len().saturating_sub(Tuning::MIN_WINDOW_CALLS);
        let calls = self.calls.iter().skip(self.skipped.min(enough));
        let mut served: Vec<f64> = calls.clone().flatten().copied().collect();
        let count = calls.len();
        WindowStats {
            calls: count,
            failures: (count - served.len()) as f64 / count.max(1) as f64,
            latency: (served.len() >= Tuning::MIN_SAMPLES).then(|| LatencyStats::new(&mut served)),
        }
    }
}

fn needed(limit: usize, measuring: bool) -> usize {
    if measuring { limit.max(Tuning::MIN_BASELINE_CALLS) } else { (limit / 2).max(Tuning::MIN_WINDOW_CALLS) }
}

impl WindowStats {
    /// Whether more calls failed than the baseline, and not just by chance.
    pub(super) fn more_fail(&self, baseline: f64) -> bool {
        let share = baseline.max(Tuning::MIN_FAILURES_FOR_ERROR);
        let error = (share * (1.0 - share) / self.calls.max(1) as f64).sqrt();
        self.failures > baseline + Tuning::BASELINE_STANDARD_ERRORS * error
    }
}

impl LatencyStats {
    /// A trimmed mean: unlike a mean it leaves out a few calls that hang, and unlike the median it
    /// does not jump where there are fast and slow calls.
    fn new(seconds: &mut [f64]) -> Self {
        seconds.sort_unstable_by(f64::total_cmp);
        let trimmed = (seconds.len() as f64 * Tuning::TRIMMED_SHARE) as usize;
        let middle = seconds.get(trimmed..seconds.len() - trimmed).unwrap_or_default();
        let (Some(lowest), Some(highest)) = (middle.first(), middle.last()) else {
            return Self { mean: 0.0, error: 0.0 };
        };
        let count = middle.len() as f64;
        let mean = middle.iter().sum::<f64>() / count;
        // The standard error of a trimmed mean, after Tukey and McLaughlin: a value that is left
        // out counts like the nearest one that is not.
        let square = |each: &f64| (each - mean).powi(2);
        let squares =
            middle.iter().map(square).sum::<f64>() + trimmed as f64 * (square(lowest) + square(highest));
        Self { mean, error: squares.sqrt() / count }
    }

    /// Whether this latency may be a multiple of the other one within `times`.
    pub(super) fn is_about(self, other: Self, times: RangeInclusive<f64>) -> bool {
        let margin = Tuning::CUT_STANDARD_ERRORS * self.error.hypot(other.error);
        self.mean >= other.mean * times.start() - margin && self.mean <= other.mean * times.end() + margin
    }

    pub(super) fn lower_bound(self) -> f64 {
        (self.mean - Tuning::CUT_STANDARD_ERRORS * self.error).max(0.0)
    }

    pub(super) fn upper_bound(self) -> f64 {
        self.mean + Tuning::BASELINE_STANDARD_ERRORS * self.error
    }
}
