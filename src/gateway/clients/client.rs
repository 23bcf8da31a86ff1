//! A client of the gateway.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{http::Gcra, settings::RateLimit};

/// The client's name where no directory is set. No file may have it.
pub(super) const LOCAL: &str = "local";

/// A client that may use the gateway. Clones share the rate.
#[derive(Clone)]
pub struct Client {
    name: Arc<str>,
    rate: Option<Arc<ClientRate>>,
}

struct ClientRate {
    limit: RateLimit,
    used_until: Mutex<Option<Instant>>,
}

impl Client {
    pub(super) fn local() -> Self {
        Self { name: LOCAL.into(), rate: None }
    }

    pub(super) fn new(name: Arc<str>, limit: Option<RateLimit>) -> Self {
        let rate = |limit| Arc::new(ClientRate { limit, used_until: Mutex::default() });
        Self { name, rate: limit.map(rate) }
    }

    /// The same client with this rate. An unchanged rate continues where it was, so that reading a
    /// file again gives no new burst.
    pub(super) fn with_rate(&self, limit: Option<RateLimit>) -> Self {
        if self.rate.as_ref().map(|rate| rate.limit) == limit {
            return self.clone();
        }
        Self::new(Arc::clone(&self.name), limit)
    }

    /// The name: that of its file, or `local`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::gateway) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Whether this is the client of a gateway without a directory, which sees all requests.
    pub fn is_local(&self) -> bool {
        &*self.name == LOCAL
    }

    /// Counts `requests` towards the client's rate. At most a second's requests pass at once; a larger
    /// batch passes after a second without requests, and the next requests wait until it is paid for.
    ///
    /// # Errors
    /// If the rate is exceeded: how long to wait. Then none of the requests is counted.
    pub fn allow(&self, requests: u32) -> Result<(), Duration> {
        self.allow_at(requests, Instant::now())
    }

    pub(super) fn allow_at(&self, requests: u32, now: Instant) -> Result<(), Duration> {
        let Some(rate) = &self.rate else {
            return Ok(());
        };
        // At most 1,000,000 a second: the limit's own bound.
        let burst = rate.limit.per_second().ceil().max(1.0) as u32;
        let gcra = Gcra { interval: rate.limit.interval(), burst };
        let mut used_until = rate.used_until.lock().unwrap_or_else(PoisonError::into_inner);
        *used_until = Some(gcra.take(*used_until, requests, now)?);
        Ok(())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(per_second: f64) -> Client {
        Client::new("shop".into(), RateLimit::new(per_second))
    }

    #[test]
    fn a_client_without_a_rate_is_never_limited() {
        let client = Client::new("shop".into(), None);
        assert!((0..100_000).all(|_| client.allow(1000).is_ok()));
    }

    #[test]
    fn the_burst_is_the_requests_of_a_second_and_at_least_one() {
        for (per_second, burst) in [(20.0, 20), (2.5, 3), (0.001, 1), (1_000_000.0, 1_000_000)] {
            let (client, now) = (limited(per_second), Instant::now());
            assert_eq!(client.allow_at(burst, now), Ok(()), "{per_second}");
            assert!(client.allow_at(1, now).is_err(), "{per_second}");
        }
        let (slow, now) = (limited(0.001), Instant::now());
        assert_eq!(slow.allow_at(1, now), Ok(()));
        assert_eq!(slow.allow_at(1, now), Err(Duration::from_secs(1000)));
    }

    #[test]
    fn clones_share_the_rate_and_it_survives_a_read_with_the_same_rate() {
        let (client, now) = (limited(2.0), Instant::now());
        assert_eq!(client.clone().allow_at(2, now), Ok(()));
        assert!(client.with_rate(RateLimit::new(2.0)).allow_at(1, now).is_err());
        assert_eq!(client.with_rate(RateLimit::new(3.0)).allow_at(3, now), Ok(()));
        assert_eq!(client.with_rate(None).allow_at(1000, now), Ok(()));
    }
}
