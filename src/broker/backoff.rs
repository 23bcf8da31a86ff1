//! The wait between two tries to reach RabbitMQ.

use std::time::Duration;

/// Exponential backoff with jitter from 0.2 s to 10 s, so that many workers do not reconnect at once.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    const MIN: Duration = Duration::from_millis(200);
    const MAX: Duration = Duration::from_secs(10);

    pub fn new() -> Self {
        Self { ceiling: Self::MIN * 2 }
    }

    /// The next wait; `jitter` is uniform in (0, 1].
    pub fn next(&mut self, jitter: f64) -> Duration {
        let spread = self.ceiling.saturating_sub(Self::MIN);
        let wait = Self::MIN + spread.mul_f64(jitter);
        self.ceiling = (self.ceiling * 2).min(Self::MAX);
        wait
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_a_fifth_of_a_second_to_ten_seconds() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        assert!(backoff.next(0.01) < Duration::from_millis(300));
        backoff.reset();
        assert!(backoff.next(0.5) < Duration::from_millis(400));
    }
}
