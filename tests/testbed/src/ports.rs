//! Loopback ports below the ephemeral range: no outgoing connection takes one while its listener is away,
//! and a client that keeps dialling a closed one can't connect to itself.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

static START: OnceLock<u32> = OnceLock::new();
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// A listener on a free loopback port.
pub fn listen() -> TcpListener {
    // Test processes run at the same time: each begins elsewhere.
    let start = *START.get_or_init(|| {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
        nanos.wrapping_add(std::process::id().wrapping_mul(7_919)) % COUNT
    });
    for _ in 0..COUNT {
        let port = FIRST + (start + TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port as u16)) {
            return listener;
        }
    }
    panic!("no free loopback port between {FIRST} and {}", FIRST + COUNT);
}

/// A loopback port nobody listens on; no other call in this process returns it soon.
pub fn free_port() -> u16 {
    listen().local_addr().expect("a listener has an address").port()
}
