//! What each request is, known from the seed and its number alone.

use fastrand::Rng;
use kit::Properties;

/// What has to come of a request, unless failures outlast its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Trackfinity unlocks it.
    Good,
    /// Trackfinity answers 400.
    Refused,
    /// Trackfinity answers 503, until all faults are healed.
    Doomed,
    /// It cannot be read.
    Invalid,
}

pub fn kind(seed: u64, n: u64) -> Kind {
    match dice(seed, n, 0).f64() {
        dice if dice < 0.020 => Kind::Refused,
        dice if dice < 0.030 => Kind::Invalid,
        dice if dice < 0.033 => Kind::Doomed,
        _ => Kind::Good,
    }
}

/// The generator of one decision about one request.
pub fn dice(seed: u64, n: u64, decision: u64) -> Rng {
    Rng::with_seed(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ decision.rotate_left(40))
}

pub fn message_id(n: u64) -> String {
    format!("soak-{n}")
}

/// The number in a message id or in an outcome's request id.
pub fn number(id: &str) -> Option<u64> {
    id.strip_prefix("soak-")?.parse().ok()
}

/// The message as it is published, the same each time.
pub fn message(seed: u64, n: u64) -> (Properties, Vec<u8>) {
    let properties = Properties::default().with_message_id(message_id(n).into()).with_delivery_mode(2);
    let body = match kind(seed, n) {
        Kind::Invalid if n.is_multiple_of(2) => format!(r#"{{"customer_id":{n}"#),
        Kind::Invalid => r#"{"customer_id":" "}"#.into(),
        Kind::Good | Kind::Refused | Kind::Doomed => format!(r#"{{"customer_id":"{n}"}}"#),
    };
    (properties, body.into_bytes())
}
