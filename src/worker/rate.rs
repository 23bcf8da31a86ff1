//! `worker.rate_limit`: at most so many calls per second.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};

use crate::settings::RateLimit;

/// Timers tick in milliseconds: so much of a second's calls may come at once, lest a high limit be
/// held down to one call a tick.
const BURST: Duration = Duration::from_millis(2);

/// Spaces calls out.
#[derive(Debug)]
pub(super) struct RateLimiter {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
    /// First come, first served; and one timer, not one a waiter.
    line: tokio::sync::Mutex<()>,
}

impl RateLimiter {
    pub(super) fn new(limit: RateLimit) -> Self {
        let burst = (limit.per_second() * BURST.as_secs_f64()).ceil() as u32;
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let interval = Duration::from_secs_f64(1.0 / limit.per_second());
        let quota = Quota::with_period(interval).map(|quota| quota.allow_burst(burst));
        // The interval is never zero, as the limit has an upper bound.
        let quota = quota.unwrap_or(Quota::per_second(NonZeroU32::MAX));
        Self {
            limiter: DefaultDirectRateLimiter::direct(quota),
            clock: DefaultClock::default(),
            line: tokio::sync::Mutex::default(),
        }
    }

    /// Waits until a call may be made. One that is not `wanted` any more when its time comes takes
    /// nobody else's place.
    pub(super) async fn turn(&self, wanted: impl Fn() -> bool) {
        let _place = self.line.lock().await;
        if !wanted() {
            return;
        }
        while let Err(early) = self.limiter.check() {
            tokio::time::sleep(early.wait_time_from(self.clock.now())).await;
        }
    }
}
