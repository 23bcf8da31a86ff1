//! Limits how many wrong credentials come from an address. The time is an argument.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::gcra::Gcra;

/// The most networks that are remembered. If there are more, the one that must wait least is forgotten.
const MAX_NETWORKS: usize = 4096;

/// Too many wrong credentials: how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many wrong tokens; try again in {} s", self.seconds())]
pub struct Wait(pub Duration);

impl Wait {
    /// For the header `Retry-After`: whole seconds, rounded up, and at least 1.
    pub fn seconds(self) -> u64 {
        self.0.as_secs().saturating_add(u64::from(self.0.subsec_nanos() > 0)).max(1)
    }
}

/// Counts wrong credentials by network.
#[derive(Debug)]
pub struct Throttle {
    per_network: Gcra,
    overall: Option<Gcra>,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    overall: Option<Instant>,
    networks: HashMap<IpAddr, Instant>,
}

impl Throttle {
    /// The wrong credentials that a network (for IPv6, a /64) may send, and all networks together.
    pub fn new(per_network: Gcra, overall: Option<Gcra>) -> Self {
        Self { per_network, overall, failures: Mutex::default() }
    }

    /// Runs `attempt`, and counts it if it returns `None`. Does not run it after too many wrong ones:
    /// right credentials must wait, too.
    ///
    /// # Errors
    /// If there were too many wrong credentials.
    pub fn attempt<T>(
        &self,
        address: IpAddr,
        now: Instant,
        attempt: impl FnOnce() -> Option<T>,
    ) -> Result<Option<T>, Wait> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let after_a_failure = self.after_a_failure(&failures, address, now)?;
        let found = attempt();
        if found.is_none() {
            failures.record(address, now, after_a_failure);
        }
        Ok(found)
    }

    /// Counts wrong credentials from this address.
    ///
    /// # Errors
    /// If there were too many. These do not count.
    pub fn record_failure(&self, address: IpAddr, now: Instant) -> Result<(), Wait> {
        self.attempt(address, now, || None::<()>).map(drop)
    }

    fn after_a_failure(&self, failures: &Failures, address: IpAddr, now: Instant) -> Result<UsedUntil, Wait> {
        let used_until = failures.networks.get(&network(address)).copied();
        let network = self.per_network.take(used_until, 1, now).map_err(Wait)?;
        let overall = self.overall.map(|overall| overall.take(failures.overall, 1, now)).transpose();
        Ok(UsedUntil { network, overall: overall.map_err(Wait)? })
    }
}

/// Until when the rates are used up, if one more failure counts.
#[derive(Clone, Copy, Debug)]
struct UsedUntil {
    network: Instant,
    overall: Option<Instant>,
}

impl Failures {
    fn record(&mut self, address: IpAddr, now: Instant, used_until: UsedUntil) {
        let (network, networks) = (network(address), &mut self.networks);
        self.overall = used_until.overall;
        if networks.len() >= MAX_NETWORKS && !networks.contains_key(&network) {
            networks.retain(|_, until| *until > now);
            if networks.len() >= MAX_NETWORKS {
                let soonest = networks.iter().min_by_key(|(_, until)| **until).map(|(network, _)| *network);
                soonest.map(|network| networks.remove(&network));
            }
        }
        networks.insert(network, used_until.network);
    }
}

/// The address for IPv4, its /64 network for IPv6: one host usually has a whole /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WRONG: fn() -> Option<()> = || None;
    const RIGHT: fn() -> Option<()> = || Some(());

    /// Ten wrong ones at once, then one a second.
    fn throttle() -> Throttle {
        Throttle::new(Gcra { interval: SECOND, burst: 10 }, None)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_of_failures_is_free_and_then_the_rate_holds() {
        let (throttle, start, here) = (throttle(), Instant::now(), address("192.0.2.1"));
        for _ in 0..10 {
            assert_eq!(throttle.record_failure(here, start), Ok(()));
        }
        assert_eq!(throttle.record_failure(here, start), Err(Wait(SECOND)));
        assert_eq!(throttle.record_failure(address("192.0.2.2"), start), Ok(()), "others have their own");
        assert_eq!(throttle.record_failure(here, start + SECOND), Ok(()));
        assert!(throttle.record_failure(here, start + SECOND).is_err());
        let passed = (0..99).filter(|_| throttle.record_failure(here, start + 60 * SECOND).is_ok()).count();
        assert_eq!(passed, 10, "after a quiet time it is as at the start");
    }

    #[test]
    fn an_attempt_after_too_many_wrong_ones_must_wait_even_if_it_is_right() {
        let (throttle, start, here) = (throttle(), Instant::now(), address("192.0.2.1"));
        for _ in 0..100 {
            assert_eq!(throttle.attempt(here, start, RIGHT), Ok(Some(())), "right ones never count");
        }
        for _ in 0..10 {
            assert_eq!(throttle.attempt(here, start, WRONG), Ok(None));
        }
        let later = start + SECOND / 4;
        assert_eq!(throttle.attempt(here, later, RIGHT), Err(Wait(3 * SECOND / 4)));
        assert_eq!(throttle.attempt(address("192.0.2.2"), later, RIGHT), Ok(Some(())), "others need not");
        assert_eq!(throttle.attempt(here, start + SECOND, RIGHT), Ok(Some(())));
    }

    #[test]
    fn many_addresses_together_must_wait() {
        let (now, overall) = (Instant::now(), Gcra { interval: SECOND, burst: 50 });
        let throttle = Throttle::new(Gcra { interval: SECOND, burst: 10 }, Some(overall));
        for n in 0..50 {
            assert_eq!(throttle.attempt(address(&format!("2001:db8:0:{n}::1")), now, WRONG), Ok(None));
        }
        assert_eq!(throttle.attempt(address("192.0.2.1"), now, RIGHT), Err(Wait(SECOND)));
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_a_mapped_ipv4_address_as_itself() {
        let (throttle, now) = (throttle(), Instant::now());
        for n in 0..10 {
            assert_eq!(throttle.record_failure(address(&format!("2001:db8::{n}")), now), Ok(()));
            assert_eq!(throttle.record_failure(address("192.0.2.1"), now), Ok(()));
        }
        assert!(throttle.record_failure(address("2001:db8::ffff"), now).is_err());
        assert!(throttle.record_failure(address("::ffff:192.0.2.1"), now).is_err());
        assert_eq!(throttle.record_failure(address("2001:db8:0:1::1"), now), Ok(()));
    }

    #[test]
    fn the_memory_is_bounded_and_those_that_must_wait_longest_stay() {
        let (throttle, now, guesser) = (throttle(), Instant::now(), address("192.0.2.1"));
        while throttle.record_failure(guesser, now).is_ok() {}
        for n in 0..5_000_u128 {
            let other = IpAddr::V6(((0x2001_0db8 << 96) + (n << 64)).into());
            assert_eq!(throttle.record_failure(other, now), Ok(()));
        }
        assert_eq!(throttle.failures.lock().unwrap().networks.len(), MAX_NETWORKS);
        assert!(throttle.record_failure(guesser, now).is_err());
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_after_which_it_is_over() {
        let seconds = [0, 1, 999, 1000, 1001].map(|millis| Wait(Duration::from_millis(millis)).seconds());
        assert_eq!(seconds, [1, 1, 1, 1, 2]);
        let wait = Wait(Duration::from_millis(11_001));
        assert_eq!(wait.to_string(), "too many wrong tokens; try again in 12 s");
    }
}
