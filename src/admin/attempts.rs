//! How often a wrong token may be tried: pure, the time is an argument.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Wrong tokens from one address before it has to wait, and how long until it may try once more.
const PER_ADDRESS: Allowance = Allowance { burst: 5.0, refill: Duration::from_secs(12) };
/// The same for all addresses together.
const OVERALL: Allowance = Allowance { burst: 100.0, refill: Duration::from_secs(1) };
/// Addresses that are remembered. When there are more, all begin anew; the overall limit stays.
const MOST: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Allowance {
    burst: f64,
    refill: Duration,
}

/// What is left of an allowance.
#[derive(Clone, Copy, Debug)]
struct Left {
    tries: f64,
    at: Instant,
}

impl Left {
    fn now(self, allowance: Allowance, now: Instant) -> f64 {
        let refilled = now.duration_since(self.at).as_secs_f64() / allowance.refill.as_secs_f64();
        (self.tries + refilled).min(allowance.burst)
    }

    /// How long until there is a try again; none if there is one.
    fn wait(self, allowance: Allowance, now: Instant) -> Option<Duration> {
        let missing = 1.0 - self.now(allowance, now);
        (missing > 0.0).then(|| allowance.refill.mul_f64(missing))
    }
}

/// The wrong tokens so far.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<Failed>);

#[derive(Debug, Default)]
struct Failed {
    overall: Option<Left>,
    by_address: HashMap<IpAddr, Left>,
}

impl Attempts {
    /// How long this address has to wait before any token of it is looked at; none if not at all.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let failed = self.lock();
        let own = failed.by_address.get(&network(address)).and_then(|left| left.wait(PER_ADDRESS, now));
        own.max(failed.overall.and_then(|left| left.wait(OVERALL, now)))
    }

    /// A wrong token came from this address.
    pub(super) fn failed(&self, address: IpAddr, now: Instant) {
        let spend = |left: Option<Left>, allowance: Allowance| {
            let tries = left.map_or(allowance.burst, |left| left.now(allowance, now));
            Left { tries: (tries - 1.0).max(0.0), at: now }
        };
        let mut failed = self.lock();
        if failed.by_address.len() >= MOST {
            failed.by_address.clear();
        }
        failed.overall = Some(spend(failed.overall, OVERALL));
        let own = failed.by_address.get(&network(address)).copied();
        failed.by_address.insert(network(address), spend(own, PER_ADDRESS));
    }

    fn lock(&self) -> MutexGuard<'_, Failed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever has one IPv6 address has its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_may_err_five_times_and_then_every_twelve_seconds() {
        let (attempts, start, here) = (Attempts::default(), Instant::now(), address("192.0.2.1"));
        for _ in 0..5 {
            assert_eq!(attempts.wait(here, start), None);
            attempts.failed(here, start);
        }
        assert_eq!(attempts.wait(here, start), Some(Duration::from_secs(12)));
        assert_eq!(attempts.wait(address("192.0.2.2"), start), None);
        let later = start + Duration::from_secs(13);
        assert_eq!(attempts.wait(here, later), None);
        attempts.failed(here, later);
        assert!(attempts.wait(here, later).is_some());
    }

    #[test]
    fn many_addresses_share_a_limit_too() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..100 {
            attempts.failed(address(&format!("2001:db8:0:{n}::1")), now);
        }
        assert!(attempts.wait(address("192.0.2.1"), now).is_some());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..5 {
            attempts.failed(address(&format!("2001:db8::{n}")), now);
        }
        assert!(attempts.wait(address("2001:db8::ffff"), now).is_some());
    }
}
