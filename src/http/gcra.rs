//! The generic cell rate algorithm. The time is an argument.

use std::time::{Duration, Instant};

/// A rate: one unit each `interval`, and up to `burst` units at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    pub interval: Duration,
    /// At least 1.
    pub burst: u32,
}

impl Gcra {
    /// Takes `units`. `used_until` is when all that was taken so far is paid for; the caller keeps it.
    ///
    /// More units than the burst need a whole burst; the rest is a debt that later units wait for.
    /// Otherwise a batch that is larger than the burst could never pass.
    ///
    /// # Errors
    /// If there are not enough units yet: how long to wait.
    pub fn take(self, used_until: Option<Instant>, units: u32, now: Instant) -> Result<Instant, Duration> {
        let from = used_until.map_or(now, |until| until.max(now));
        let needed = self.interval.saturating_mul(units.min(self.burst));
        let used = from.saturating_duration_since(now).saturating_add(needed);
        let wait = used.saturating_sub(self.interval.saturating_mul(self.burst));
        if wait > Duration::ZERO {
            return Err(wait);
        }
        Ok(from.checked_add(self.interval.saturating_mul(units)).unwrap_or(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RATE: Gcra = Gcra { interval: Duration::from_millis(100), burst: 10 };

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut used_until = None;
        for _ in 0..10 {
            used_until = Some(RATE.take(used_until, 1, start).unwrap());
        }
        assert_eq!(RATE.take(used_until, 1, start), Err(Duration::from_millis(100)));
        let mut taken = 0;
        for millisecond in 0..10_000 {
            if let Ok(until) = RATE.take(used_until, 1, start + Duration::from_millis(millisecond)) {
                (used_until, taken) = (Some(until), taken + 1);
            }
        }
        assert_eq!(taken, 99, "ten a second, and none at the very start");
    }

    #[test]
    fn after_the_wait_that_is_told_the_same_units_pass() {
        let start = Instant::now();
        let used_until = RATE.take(None, 7, start).ok();
        let wait = RATE.take(used_until, 5, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(200));
        assert!(RATE.take(used_until, 5, start + wait).is_ok());
    }

    #[test]
    fn a_batch_larger_than_the_burst_passes_and_is_paid_for_later() {
        let start = Instant::now();
        let used_until = RATE.take(None, 1, start).ok();
        assert_eq!(RATE.take(used_until, 1000, start), Err(Duration::from_millis(100)), "a whole burst");
        let used_until = RATE.take(None, 1000, start).ok();
        assert_eq!(RATE.take(used_until, 1, start + 98 * SECOND), Err(Duration::from_millis(1100)));
        assert!(RATE.take(used_until, 1, start + 100 * SECOND).is_ok());
    }

    #[test]
    fn no_number_overflows() {
        let slow = Gcra { interval: Duration::MAX, burst: u32::MAX };
        let start = Instant::now();
        let used_until = slow.take(None, u32::MAX, start).ok();
        assert!(slow.take(used_until, u32::MAX, start).is_ok());
    }
}
