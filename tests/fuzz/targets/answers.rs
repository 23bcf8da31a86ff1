//! Trackfinity's responses, and what is decided on them.

use std::time::Duration;

use proptest::prelude::*;
use trackfinity_unlocker::{
    message::Timestamp,
    policy::{
        AttemptHistory, Classification, HttpResponse, Judgement, Reason, Reply, RetryAfter, RetryLimits,
        Tier, Verdict, classify, decide, rate_limit_pause,
    },
};

use super::{Checked, text::Text};

/// A reply, and what it came for.
#[derive(Clone, Debug)]
pub struct Call {
    pub reply: Reply,
    pub history: AttemptHistory,
    pub now: Timestamp,
    /// In (0, 1].
    pub jitter: f64,
    pub limits: RetryLimits,
}

/// A fraction in (0, 1], to the last bit.
pub fn jitter(bits: u64) -> f64 {
    1.0 - (bits >> 11) as f64 / (1_u64 << 53) as f64
}

impl Call {
    fn from_text(text: &Text<'_>) -> Self {
        let reply = match (text.get("timeout"), text.owned("connection")) {
            (Some(_), _) => Reply::Timeout,
            (None, Some(error)) => Reply::Connection(error),
            (None, None) => Reply::Response(HttpResponse {
                status: text.number("status").unwrap_or(200),
                body: text.body.to_vec(),
                cut: text.get("cut").is_some(),
                retry_after: text.get("retry-after").and_then(RetryAfter::parse),
            }),
        };
        let judgement = match text.get("judgement") {
            Some("spared") => Judgement::Spared,
            Some("own fault") => Judgement::OwnFault,
            _ => Judgement::Counts,
        };
        // Within the limits of the settings.
        let number = |name, least: u64, most: u64| text.number(name).unwrap_or(least).clamp(least, most);
        let max_attempts = number("max-attempts", 1, u32::MAX.into());
        Self {
            reply,
            history: AttemptHistory {
                attempts: text.number("attempts").unwrap_or(0),
                first_received_at: text.moment("first-received-at").unwrap_or(Timestamp::EPOCH),
                expires_at: text.moment("expires-at"),
                judgement,
            },
            now: text.moment("now").unwrap_or(Timestamp::EPOCH),
            jitter: jitter(number("jitter", 0, u64::MAX - 1)),
            limits: RetryLimits {
                max_attempts: u32::try_from(max_attempts).unwrap_or(u32::MAX),
                max_delay: Duration::from_millis(number("max-delay-ms", 1_000, 1_024_000)),
                give_up_after: Duration::from_secs(number("give-up-after", 1, 31_536_000)),
            },
        }
    }
}

/// The contract's table, written a second time.
fn table(reply: &Reply) -> &'static str {
    let Reply::Response(answer) = reply else {
        return "transient";
    };
    let json = serde_json::from_slice::<serde_json::Value>(&answer.body).ok().filter(|_| !answer.cut);
    match (answer.status, json) {
        (200..=299, Some(serde_json::Value::Bool(true))) => "unlocked",
        (200..=299, Some(_)) => "refused",
        (200..=299, None) => "transient",
        (401 | 403 | 405 | 407 | 501 | 300..=399, _) => "endpoint fault",
        (408 | 425, _) => "transient",
        (429, _) => "rate limited",
        (404, _) => "not found",
        (400..=499, _) => "refused",
        _ => "transient",
    }
}

pub fn check_bytes(bytes: &[u8]) -> Checked {
    check(Call::from_text(&Text::parse(bytes)))
}

pub fn check(Call { reply, history, now, jitter, limits }: Call) -> Checked {
    let classification = classify(&reply);
    let (name, after) = match classification {
        Classification::Unlocked => ("unlocked", None),
        Classification::Refused(_) => ("refused", None),
        Classification::NotFound => ("not found", None),
        Classification::Transient(_, after) => ("transient", after),
        Classification::RateLimited(after) => ("rate limited", after),
        Classification::EndpointFault(_) => ("endpoint fault", None),
    };
    prop_assert_eq!(name, table(&reply));
    let is_final = matches!(classification, Classification::Unlocked | Classification::Refused(_));
    prop_assert!(is_final || !classification.proves_address());
    prop_assert!(rate_limit_pause(after, now) <= Duration::from_secs(300));

    let is_too_old = now.since(history.first_received_at) >= limits.give_up_after;
    let left = history.expires_at.map(|at| at.since(now));
    let next = history.attempts.saturating_add(1);
    match decide(classification, history, now, jitter, &limits) {
        Verdict::Unlocked { attempts } => prop_assert_eq!((name, attempts), ("unlocked", next)),
        Verdict::Refused { attempts, reason } => {
            let own_fault = name == "endpoint fault" && history.judgement == Judgement::OwnFault;
            prop_assert!(matches!(name, "refused" | "not found") || own_fault);
            let Reply::Response(HttpResponse { status, .. }) = reply else {
                return Err(TestCaseError::fail("refused without an answer"));
            };
            let expected = if status < 300 { Reason::NotTrue } else { Reason::Http(status) };
            prop_assert_eq!((attempts, reason), (next, expected));
        }
        Verdict::Abandoned { attempts, .. } => {
            prop_assert!(matches!(name, "transient" | "rate limited"));
            let counts = name == "transient" && history.judgement != Judgement::Spared;
            prop_assert_eq!(attempts, if counts { next } else { history.attempts });
            prop_assert!(is_too_old || (counts && next >= limits.max_attempts));
        }
        Verdict::Expired { attempts, .. } => {
            prop_assert!(matches!(name, "transient" | "rate limited" | "endpoint fault"));
            let counts = name == "transient" && history.judgement != Judgement::Spared;
            prop_assert_eq!(attempts, if counts { next } else { history.attempts });
            // A second is the shortest wait; only a Retry-After may ask for more.
            let asked = after.map_or(Duration::from_secs(1), |after| after.delay(now));
            let shortest = Tier::at_least(asked.min(limits.max_delay)).duration();
            prop_assert!(left.is_some_and(|left| left <= shortest), "{:?} left", left);
        }
        Verdict::Retry { attempts, tier, .. } => {
            prop_assert!(left.is_none_or(|left| tier.duration() < left), "{} of {:?}", tier, left);
            prop_assert!(matches!(name, "transient" | "rate limited" | "endpoint fault"));
            let counts = name == "transient" && history.judgement != Judgement::Spared;
            prop_assert_eq!(attempts, if counts { next } else { history.attempts });
            prop_assert!(name == "endpoint fault" || !is_too_old);
            prop_assert!(!counts || next < limits.max_attempts);
            let asked = after.map_or(Duration::ZERO, |after| after.delay(now)).min(limits.max_delay);
            prop_assert!(tier.duration() >= asked, "{} for {:?}", tier, asked);
            let doubled = Duration::from_secs(1 << history.attempts.min(10)).min(limits.max_delay);
            let usual =
                if name == "rate limited" && after.is_none() { Duration::from_secs(1) } else { asked };
            prop_assert!(tier <= Tier::at_least(doubled.max(usual)), "{}", tier);
        }
    }
    Ok(())
}
