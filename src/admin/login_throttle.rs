//! Counts wrong tokens, and rejects all further attempts for a while after too many. The time is an
//! argument.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Wrong tokens within a [`WINDOW`] after which an address must wait.
const MAX_PER_ADDRESS: u32 = 5;
/// Wrong tokens within a [`WINDOW`] after which everyone must wait.
const MAX_OVERALL: u32 = 50;
const WINDOW: Duration = Duration::from_secs(60);

/// Too many wrong tokens: how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many wrong tokens; try again in {} s", .0.as_secs().max(1))]
pub(super) struct Wait(pub(super) Duration);

/// Limits login attempts. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub(super) struct LoginThrottle(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    since: Option<Instant>,
    overall: u32,
    /// At most [`MAX_OVERALL`] entries.
    networks: HashMap<IpAddr, u32>,
}

impl LoginThrottle {
    /// Runs `attempt`, and counts it if it returns `None`. Does not run it after too many wrong
    /// tokens.
    ///
    /// # Errors
    /// If there were too many wrong tokens.
    pub(super) fn attempt<T>(
        &self,
        address: IpAddr,
        now: Instant,
        attempt: impl FnOnce() -> Option<T>,
    ) -> Result<Option<T>, Wait> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_duration_since(*counts.since.get_or_insert(now));
        if age >= WINDOW {
            *counts = Counts { since: Some(now), ..Counts::default() };
        }
        let network = network(address);
        let own = counts.networks.get(&network).copied().unwrap_or_default();
        if own >= MAX_PER_ADDRESS || counts.overall >= MAX_OVERALL {
            return Err(Wait(WINDOW.saturating_sub(age)));
        }
        let found = attempt();
        if found.is_none() {
            counts.overall += 1;
            *counts.networks.entry(network).or_default() += 1;
        }
        Ok(found)
    }
}

/// The address for IPv4, its /64 network for IPv6: one host usually has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRONG: fn() -> Option<()> = || None;
    const RIGHT: fn() -> Option<()> = || Some(());

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn after_five_wrong_tokens_the_right_one_must_wait_too() {
        let (throttle, start, here) = (LoginThrottle::default(), Instant::now(), address("192.0.2.1"));
        for _ in 0..MAX_PER_ADDRESS {
            assert_eq!(throttle.attempt(here, start, WRONG), Ok(None));
        }
        let later = start + Duration::from_secs(20);
        assert_eq!(throttle.attempt(here, later, RIGHT), Err(Wait(Duration::from_secs(40))));
        assert_eq!(throttle.attempt(address("192.0.2.2"), later, RIGHT), Ok(Some(())), "others need not");
        assert_eq!(throttle.attempt(here, start + WINDOW, RIGHT), Ok(Some(())));
    }

    #[test]
    fn many_addresses_together_must_wait_and_right_tokens_never_count() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(throttle.attempt(address("192.0.2.1"), now, RIGHT), Ok(Some(())));
        }
        for n in 0..MAX_OVERALL {
            assert_eq!(throttle.attempt(address(&format!("2001:db8:0:{n}::1")), now, WRONG), Ok(None));
        }
        assert!(throttle.attempt(address("192.0.2.1"), now, RIGHT).is_err());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        for n in 0..MAX_PER_ADDRESS {
            assert_eq!(throttle.attempt(address(&format!("2001:db8::{n}")), now, WRONG), Ok(None));
        }
        assert!(throttle.attempt(address("2001:db8::ffff"), now, RIGHT).is_err());
    }
}
