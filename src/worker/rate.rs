//! `worker.rate_limit`: the maximum number of calls per second.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};

use crate::settings::RateLimit;

/// The calls of this much time may be made at once. Timers tick in milliseconds: without a burst, a
/// high limit would become one call a tick.
const BURST_PERIOD: Duration = Duration::from_millis(2);

/// Spaces calls out.
#[derive(Debug)]
pub(super) struct RateLimiter {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
    /// Serves waiting calls in their order, and needs one timer instead of one for each of them.
    queue: tokio::sync::Mutex<()>,
}

impl RateLimiter {
    pub(super) fn new(limit: RateLimit) -> Self {
        let burst = (limit.per_second() * BURST_PERIOD.as_secs_f64()).ceil() as u32;
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let interval = Duration::from_secs_f64(1.0 / limit.per_second());
        let quota = Quota::with_period(interval).map(|quota| quota.allow_burst(burst));
        // The interval is never zero, as the limit has an upper bound.
        let quota = quota.unwrap_or(Quota::per_second(NonZeroU32::MAX));
        Self {
            limiter: DefaultDirectRateLimiter::direct(quota),
            clock: DefaultClock::default(),
            queue: tokio::sync::Mutex::default(),
        }
    }

    /// Waits until a call may be made. A call that is not `wanted` any more when its turn comes
    /// uses up none of the rate.
    pub(super) async fn wait(&self, wanted: impl Fn() -> bool) {
        let _turn = self.queue.lock().await;
        if !wanted() {
            return;
        }
        while let Err(early) = self.limiter.check() {
            tokio::time::sleep(early.wait_time_from(self.clock.now())).await;
        }
    }
}
