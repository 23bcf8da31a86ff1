//! Limits how many wrong credentials an address may send. The time is an argument.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::gcra::Gcra;

/// Ten wrong credentials at once, then one a second.
const RATE: Gcra = Gcra { interval: Duration::from_secs(1), burst: 10 };
/// The most networks that are remembered. If there are more, the one that must wait least is forgotten.
const MAX_NETWORKS: usize = 4096;

/// Counts wrong credentials by network.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<HashMap<IpAddr, Instant>>);

impl Throttle {
    /// Counts wrong credentials from this address.
    ///
    /// # Errors
    /// If there were too many: how long to wait.
    pub(super) fn record_failure(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let network = network(address);
        let mut networks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used_until = RATE.take(networks.get(&network).copied(), 1, now)?;
        if networks.len() >= MAX_NETWORKS && !networks.contains_key(&network) {
            networks.retain(|_, until| *until > now);
            if networks.len() >= MAX_NETWORKS {
                let soonest = networks.iter().min_by_key(|(_, until)| **until).map(|(network, _)| *network);
                soonest.map(|network| networks.remove(&network));
            }
        }
        networks.insert(network, used_until);
        Ok(())
    }
}

/// The address for IPv4, its /64 network for IPv6: one host usually has a whole /64.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ten_failures_are_free_and_then_one_a_second() {
        let (throttle, start, here) = (Throttle::default(), Instant::now(), address("192.0.2.1"));
        for _ in 0..10 {
            assert_eq!(throttle.record_failure(here, start), Ok(()));
        }
        assert_eq!(throttle.record_failure(here, start), Err(SECOND));
        assert_eq!(throttle.record_failure(address("192.0.2.2"), start), Ok(()), "others have their own");
        assert_eq!(throttle.record_failure(here, start + SECOND), Ok(()));
        assert!(throttle.record_failure(here, start + SECOND).is_err());
        let passed = (0..10).filter(|_| throttle.record_failure(here, start + 60 * SECOND).is_ok()).count();
        assert_eq!(passed, 10, "after a quiet time it is as at the start");
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_a_mapped_ipv4_address_as_itself() {
        let (throttle, now) = (Throttle::default(), Instant::now());
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
        let (throttle, now, guesser) = (Throttle::default(), Instant::now(), address("192.0.2.1"));
        while throttle.record_failure(guesser, now).is_ok() {}
        for n in 0..5_000_u128 {
            let other = IpAddr::V6(((0x2001_0db8 << 96) + (n << 64)).into());
            assert_eq!(throttle.record_failure(other, now), Ok(()));
        }
        assert_eq!(throttle.0.lock().unwrap().len(), MAX_NETWORKS);
        assert!(throttle.record_failure(guesser, now).is_err());
    }
}
