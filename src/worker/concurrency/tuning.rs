//! The constants of the adaptive concurrency limit, and how they work together.
//!
//! Calls are collected in windows. When a window is complete, the limit changes once, by comparing
//! the window with two baselines: how long a call takes without a queue at Trackfinity, and which
//! share of calls fails whatever the limit is.
//!
//! **Growing.** The limit starts at [`Tuning::INITIAL_LIMIT`]. While calls take no longer than the
//! baseline plus a tolerance, and no more of them fail, the limit doubles, up to half the level
//! before the last pause. From there on, and after any sign of too many calls, it grows by its
//! square root. A window in which the limit was not reached says nothing about it.
//!
//! **Shrinking.** If calls take longer, they queue at Trackfinity, and the limit shrinks in
//! proportion, but never below [`Tuning::MIN_LIMIT_FACTOR`] of itself at once. If more calls fail
//! in two windows in a row, it shrinks to a ceiling just below: for [`Tuning::CEILING_HOLD_TIME`] the
//! limit stays under it, and then passes it one by one.
//!
//! **Measuring the baselines.** While calls queue, their latency without a queue cannot be seen. So
//! now and then the limit is halved for one window. All workers do that at the same moments by the
//! clock, as the queue stays while others keep it up. If calls take about as long as before, that
//! is their latency without a queue; if they take less, they may still be queueing, so the baseline
//! only falls. The same happens after more failures: if as many fail under a lower limit, the limit
//! is not the cause.
//!
//! **Chance.** Few calls, or calls that differ much, may look slow or fast by chance. So a mean
//! counts with its standard error: a cut needs [`Tuning::CUT_STANDARD_ERRORS`], and a baseline,
//! which is kept and is the lowest of hundreds of windows, [`Tuning::BASELINE_STANDARD_ERRORS`].
//!
//! The simulation in the unit tests measures the effect: within seconds, more than nine tenths of a
//! capacity from 8 to 400 calls are used.

use std::{ops::RangeInclusive, time::Duration};

/// Holds the constants.
pub(super) struct Tuning;

impl Tuning {
    /// Where the limit starts. After a pause it starts again here, or lower.
    pub(super) const INITIAL_LIMIT: f64 = 8.0;
    /// Calls that take this much longer than the baseline are no sign of a queue: a share of the
    /// baseline, or this many seconds, whichever is more.
    pub(super) const TOLERATED_LATENCY_SHARE: f64 = 0.25;
    pub(super) const TOLERATED_LATENCY_SECONDS: f64 = 0.01;
    /// One window leaves at least this share of the limit.
    pub(super) const MIN_LIMIT_FACTOR: f64 = 0.5;

    /// The share of the limit that is left while a baseline is measured.
    pub(super) const BASELINE_LIMIT_FACTOR: f64 = 0.5;
    /// How often the baselines are measured, at most. A longer interval is this one times a power
    /// of two, and lasts at least
    /// [`MIN_CALLS_BETWEEN_BASELINES`](Self::MIN_CALLS_BETWEEN_BASELINES) calls, one after the
    /// other.
    pub(super) const BASELINE_INTERVAL: Duration = Duration::from_secs(10);
    pub(super) const MAX_BASELINE_INTERVAL: Duration = Duration::from_secs(640);
    pub(super) const MIN_CALLS_BETWEEN_BASELINES: f64 = 40.0;
    /// If a call takes this share of its former latency while a baseline is measured, nothing has
    /// changed. If it takes less, calls may still queue; if it takes more, the latency is just
    /// changing.
    pub(super) const UNCHANGED_LATENCY: RangeInclusive<f64> = 0.85..=1.15;
    /// A larger share of failing calls never becomes the baseline.
    pub(super) const MAX_BASELINE_FAILURES: f64 = 0.5;

    /// The ceiling, as a share of the limit at which more calls failed, or at which calls were
    /// paused.
    pub(super) const CEILING_FACTOR: f64 = 0.95;
    pub(super) const CEILING_FACTOR_AFTER_PAUSE: f64 = 0.9;
    pub(super) const CEILING_HOLD_TIME: Duration = Duration::from_secs(30);
    /// The ceiling is dropped when the limit is above this multiple of it.
    pub(super) const CEILING_DROPPED_FACTOR: f64 = 1.1;

    /// The prefetch shrinks when a quarter of it has been enough for this long.
    pub(super) const PREFETCH_SHRINK_DELAY: Duration = Duration::from_secs(10);

    /// A window has at least this many calls, or half the limit if that is more.
    pub(super) const MIN_WINDOW_CALLS: usize = 16;
    /// A window that measures a baseline has at least this many calls, or the limit if that is
    /// more.
    pub(super) const MIN_BASELINE_CALLS: usize = 64;
    /// A window lasts at least this long, however fast calls are.
    pub(super) const MIN_WINDOW: Duration = Duration::from_millis(50);
    /// The same for one that measures a baseline: it has to overlap with those of other workers,
    /// whose clocks may differ by some milliseconds.
    pub(super) const MIN_BASELINE_WINDOW: Duration = Duration::from_millis(200);
    /// After this time, or this multiple of a call's latency if that is longer, a window is
    /// complete with [`MIN_SAMPLES`](Self::MIN_SAMPLES) calls.
    pub(super) const MAX_WINDOW: Duration = Duration::from_secs(1);
    pub(super) const MAX_WINDOW_IN_CALLS: f64 = 3.0;
    pub(super) const MIN_SAMPLES: usize = 4;
    /// The share of the shortest calls, and of the longest, that are left out of the mean.
    pub(super) const TRIMMED_SHARE: f64 = 0.1;
    /// How many standard errors a mean may be off: where it lowers the limit.
    pub(super) const CUT_STANDARD_ERRORS: f64 = 2.0;
    /// The same where it becomes a baseline.
    pub(super) const BASELINE_STANDARD_ERRORS: f64 = 3.0;
    /// The standard error of a share of failures is estimated for this share at least: few calls
    /// may all succeed by chance.
    pub(super) const MIN_FAILURES_FOR_ERROR: f64 = 0.05;
}
