//! What each request is, known from the seed and its number alone.

use fastrand::Rng;
use kit::Properties;

/// Numbers from here on are of messages that cannot be read; see [`bad_ids`](crate::bad_ids).
pub const UNREADABLE_FROM: u64 = 1 << 40;
/// So many of a kind are shown in full.
pub const SHOWN: usize = 10;
/// How long some requests may wait, in milliseconds: longer than without faults, shorter than most faults.
const EXPIRATION: &str = "300";

/// What the gateway puts before the keys of those who need no token.
pub const GATEWAY_CLIENT: &str = "local/";

/// What has to come of a request, unless failures outlast its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Trackfinity unlocks it.
    Good,
    /// The same, if it is taken before it expires.
    Expiring,
    /// Trackfinity answers 400.
    Refused,
    /// Its customer is in the bad shard: Trackfinity answers 503, until all faults are healed, and its ping with 200.
    Shard,
    /// Trackfinity answers 403, until all faults are healed.
    Forbidden,
    /// It is no request.
    Invalid,
    /// Its AMQP properties cannot be read.
    Unreadable,
}

pub fn kind(seed: u64, n: u64) -> Kind {
    if n >= UNREADABLE_FROM {
        return Kind::Unreadable;
    }
    match dice(seed, n, 0).f64() {
        dice if dice < 0.020 => Kind::Refused,
        dice if dice < 0.030 => Kind::Invalid,
        dice if dice < 0.035 => Kind::Shard,
        dice if dice < 0.040 => Kind::Forbidden,
        dice if dice < 0.060 => Kind::Expiring,
        _ => Kind::Good,
    }
}

/// The decision whether a request goes over the gateway; calls are numbered from 1.
const WAY: u64 = u64::MAX;
const OVER_GATEWAY: f64 = 0.15;

/// Whether a request is sent to the gateway, and not to RabbitMQ. What the gateway cannot express never is.
pub fn goes_over_gateway(seed: u64, n: u64) -> bool {
    let fits = !matches!(kind(seed, n), Kind::Expiring | Kind::Unreadable);
    fits && dice(seed, n, WAY).f64() < OVER_GATEWAY
}

/// The generator of one decision about one request.
pub fn dice(seed: u64, n: u64, decision: u64) -> Rng {
    Rng::with_seed(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ decision.rotate_left(40))
}

/// The message's id; of one that cannot be read, its customer's.
pub fn message_id(n: u64) -> String {
    match n.checked_sub(UNREADABLE_FROM) {
        Some(n) => format!("unreadable-{n}"),
        None => format!("soak-{n}"),
    }
}

/// The number in a message id, in an outcome's request id, or in the customer's id of what cannot be read.
pub fn number(id: &str) -> Option<u64> {
    let id = id.strip_prefix(GATEWAY_CLIENT).unwrap_or(id);
    if let Some(n) = id.strip_prefix("unreadable-") {
        return Some(UNREADABLE_FROM + n.parse::<u64>().ok()?);
    }
    id.strip_prefix("soak-")?.parse().ok()
}

/// The message as it is published, the same each time.
pub fn message(seed: u64, n: u64) -> (Properties, Vec<u8>) {
    let kind = kind(seed, n);
    let properties = Properties::default().with_message_id(message_id(n).into()).with_delivery_mode(2);
    let properties = match kind {
        Kind::Expiring => properties.with_expiration(EXPIRATION.into()),
        _ => properties,
    };
    (properties, body(seed, n))
}

pub fn body(seed: u64, n: u64) -> Vec<u8> {
    let body = match kind(seed, n) {
        Kind::Invalid if n.is_multiple_of(2) => format!(r#"{{"customer_id":{n}"#),
        Kind::Invalid => r#"{"customer_id":" "}"#.into(),
        Kind::Unreadable => format!(r#"{{"customer_id":"{}"}}"#, message_id(n)),
        _ => format!(r#"{{"customer_id":"{n}"}}"#),
    };
    body.into_bytes()
}

/// For people: the first ids.
pub fn ids(numbers: &[u64]) -> String {
    let ids: Vec<_> = numbers.iter().take(SHOWN).map(|&n| message_id(n)).collect();
    format!("{}{}", ids.join(" "), if numbers.len() > SHOWN { " …" } else { "" })
}
