//! What each answer of Trackfinity means, and what is done about it. Pure: the time, the history
//! and the jitter are arguments.

use std::{borrow::Cow, fmt, time::Duration};

use crate::message::Timestamp;

/// The most of an answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The longest pause that a 429 can ask for.
const MAX_RATE_LIMIT_PAUSE: Duration = Duration::from_secs(300);
/// The pause of a 429 that names none.
const DEFAULT_RATE_LIMIT_PAUSE: Duration = Duration::from_secs(1);

/// What came of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Answer(Answer),
    /// No whole answer within `trackfinity.timeout`.
    Timeout,
    /// Connecting, TLS, writing or reading failed.
    Connection(String),
}

impl Reply {
    /// The HTTP status, if there is one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answer(answer) => Some(answer.status),
            Self::Timeout | Self::Connection(_) => None,
        }
    }

    /// The body as text, unless it is empty.
    #[must_use]
    pub fn body_text(&self) -> Option<String> {
        match self {
            Self::Answer(answer) if !answer.body.is_empty() => {
                Some(String::from_utf8_lossy(&answer.body).into_owned())
            }
            _ => None,
        }
    }

    /// The `error.type` of OpenTelemetry's conventions for HTTP: the status if it is 400 or more, else a
    /// code.
    #[must_use]
    pub fn error_type(&self) -> Option<String> {
        match self {
            Self::Answer(answer) => (answer.status >= 400).then(|| answer.status.to_string()),
            Self::Timeout => Some("timeout".to_owned()),
            Self::Connection(_) => Some("connection".to_owned()),
        }
    }
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The body, at most [`MAX_ANSWER_BYTES`] of it.
    pub body: Vec<u8>,
    /// Whether the body went on.
    pub cut: bool,
    pub retry_after: Option<RetryAfter>,
}

/// A `Retry-After` header (RFC 9110, section 10.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    Delay(Duration),
    At(Timestamp),
}

impl RetryAfter {
    /// Reads either form; anything else counts as absent.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let value = value.trim();
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            let seconds = value.parse().unwrap_or(u64::MAX);
            return Some(Self::Delay(Duration::from_secs(seconds)));
        }
        let date = httpdate::parse_http_date(value).ok()?;
        let since_epoch = date.duration_since(std::time::UNIX_EPOCH).ok()?;
        let milliseconds = i64::try_from(since_epoch.as_millis()).ok()?;
        Some(Self::At(Timestamp::from_millis(milliseconds)))
    }

    /// How long to wait from `now` on.
    #[must_use]
    pub fn delay(self, now: Timestamp) -> Duration {
        match self {
            Self::Delay(delay) => delay,
            Self::At(moment) => moment.since(now),
        }
    }
}

/// A stable code that says why a request was not unlocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Http(u16),
    NotTrue,
    Timeout,
    Connection,
    RateLimited,
    UnexpectedReply,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(status) => write!(f, "http_{status}"),
            Self::NotTrue => f.write_str("not_true"),
            Self::Timeout => f.write_str("timeout"),
            Self::Connection => f.write_str("connection"),
            Self::RateLimited => f.write_str("rate_limited"),
            Self::UnexpectedReply => f.write_str("unexpected_reply"),
        }
    }
}

impl Reason {
    /// The same in words, for people.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Http(status) => format!("Trackfinity answered {status}"),
            Self::NotTrue => "Trackfinity answered, but not with true".to_owned(),
            Self::Timeout => "Trackfinity did not answer within trackfinity.timeout".to_owned(),
            Self::Connection => "the connection to Trackfinity failed".to_owned(),
            Self::RateLimited => "Trackfinity answered 429, too many requests".to_owned(),
            Self::UnexpectedReply => "Trackfinity answered with success, but not with JSON".to_owned(),
        }
    }
}

/// What a reply means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    Unlocked,
    /// Trackfinity's final no to this request.
    Refused(Reason),
    /// A 404, which is a no to the request or a wrong address: a ping tells which.
    NotFound,
    /// May succeed if tried again; `Retry-After` is a lower bound.
    Transient(Reason, Option<RetryAfter>),
    RateLimited(Option<RetryAfter>),
    /// Key, allow-list or address is wrong; the request is innocent.
    EndpointFault(Reason),
}

/// Reads a reply by the contract's table.
#[must_use]
pub fn classify(reply: &Reply) -> Meaning {
    let answer = match reply {
        Reply::Timeout => return Meaning::Transient(Reason::Timeout, None),
        Reply::Connection(_) => return Meaning::Transient(Reason::Connection, None),
        Reply::Answer(answer) => answer,
    };
    let http = Reason::Http(answer.status);
    match answer.status {
        200..=299 => classify_success(answer),
        404 => Meaning::NotFound,
        429 => Meaning::RateLimited(answer.retry_after),
        408 | 425 => Meaning::Transient(http, answer.retry_after),
        300..=399 | 401 | 403 | 405 | 407 | 501 => Meaning::EndpointFault(http),
        400..=499 => Meaning::Refused(http),
        _ => Meaning::Transient(http, answer.retry_after),
    }
}

fn classify_success(answer: &Answer) -> Meaning {
    // What goes on past the limit can't be read as JSON, whatever it begins with.
    let json = if answer.cut { None } else { serde_json::from_slice(&answer.body).ok() };
    match json {
        Some(serde_json::Value::Bool(true)) => Meaning::Unlocked,
        Some(_) => Meaning::Refused(Reason::NotTrue),
        None => Meaning::Transient(Reason::UnexpectedReply, answer.retry_after),
    }
}

impl Meaning {
    /// What came of a call, as a label.
    #[must_use]
    pub fn result(self) -> Cow<'static, str> {
        let reason = match self {
            Self::Unlocked => return "unlocked".into(),
            Self::Refused(reason) | Self::Transient(reason, _) | Self::EndpointFault(reason) => reason,
            Self::NotFound => Reason::Http(404),
            Self::RateLimited(_) => Reason::RateLimited,
        };
        reason.to_string().into()
    }

    /// Whether a wrong address could not have answered so: from then on a 404 is about a request.
    #[must_use]
    pub fn proves_address(self) -> bool {
        matches!(self, Self::Unlocked | Self::Refused(Reason::Http(400 | 409 | 422)))
    }
}

/// How long and how often a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryLimits {
    pub max_attempts: u32,
    pub max_delay: Duration,
    /// Since the request was first received.
    pub give_up_after: Duration,
}

/// What a failed call says of its request, as far as the calls of others tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The failure is this request's: it counts as an attempt.
    Counts,
    /// It is part of an outage: the request is innocent, and no attempt is burned.
    Spared,
    /// The endpoint serves others, and this request met an endpoint fault again.
    OwnFault,
}

/// A request's past, as far as a decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// Calls that counted as attempts, without the one that is judged.
    pub attempts: u32,
    pub first_received_at: Timestamp,
    /// What the call that is judged says of the request.
    pub judgement: Judgement,
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Unlocked { attempts: u32 },
    Refused { attempts: u32, reason: Reason },
    Abandoned { attempts: u32, reason: Reason },
    Parked { attempts: u32, reason: Reason, tier: Tier },
}

/// Decides what is done with a request. `jitter` is uniform in (0, 1].
#[must_use]
pub fn decide(meaning: Meaning, past: Past, now: Timestamp, jitter: f64, limits: &RetryLimits) -> Verdict {
    let attempts = past.attempts.saturating_add(1);
    let backoff = limits.max_delay.min(Duration::from_secs(1 << past.attempts.min(10))).mul_f64(jitter);
    match meaning {
        Meaning::Unlocked => Verdict::Unlocked { attempts },
        Meaning::Refused(reason) => Verdict::Refused { attempts, reason },
        Meaning::NotFound => Verdict::Refused { attempts, reason: Reason::Http(404) },
        Meaning::EndpointFault(reason) if past.judgement == Judgement::OwnFault => {
            Verdict::Refused { attempts, reason }
        }
        Meaning::EndpointFault(reason) => {
            Verdict::Parked { attempts: past.attempts, reason, tier: Tier::at_least(backoff) }
        }
        Meaning::RateLimited(retry_after) => {
            let reason = Reason::RateLimited;
            if out_of_time(past, now, limits) {
                return Verdict::Abandoned { attempts: past.attempts, reason };
            }
            let asked = retry_after.map_or(DEFAULT_RATE_LIMIT_PAUSE, |after| after.delay(now));
            let delay = backoff.max(asked.min(limits.max_delay));
            Verdict::Parked { attempts: past.attempts, reason, tier: Tier::at_least(delay) }
        }
        Meaning::Transient(reason, retry_after) => {
            let at_least = retry_after.map_or(Duration::ZERO, |after| after.delay(now));
            let tier = Tier::at_least(backoff.max(at_least.min(limits.max_delay)));
            // An outage burns no attempt, but time goes on: otherwise a request that is the only one there
            // is would be probed for ever.
            let counts = past.judgement != Judgement::Spared;
            let attempts = if counts { attempts } else { past.attempts };
            let used_up = counts && attempts >= limits.max_attempts;
            if used_up || out_of_time(past, now, limits) {
                return Verdict::Abandoned { attempts, reason };
            }
            Verdict::Parked { attempts, reason, tier }
        }
    }
}

/// How long a 429 pauses all calls.
#[must_use]
pub fn rate_limit_pause(retry_after: Option<RetryAfter>, now: Timestamp) -> Duration {
    retry_after.map_or(DEFAULT_RATE_LIMIT_PAUSE, |after| after.delay(now)).min(MAX_RATE_LIMIT_PAUSE)
}

fn out_of_time(past: Past, now: Timestamp, limits: &RetryLimits) -> bool {
    now.since(past.first_received_at) >= limits.give_up_after
}

/// A retry queue, by the seconds that a request waits in it: a power of two, up to 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tier(u8);

impl Tier {
    /// Every tier, the shortest first.
    pub const ALL: [Self; 11] =
        [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5), Self(6), Self(7), Self(8), Self(9), Self(10)];
    /// The shortest wait, one second.
    pub const SHORTEST: Self = Self(0);

    /// The shortest tier that lasts at least `delay`; the longest, if none does.
    #[must_use]
    pub fn at_least(delay: Duration) -> Self {
        let lasting = Self::ALL.into_iter().find(|tier| tier.duration() >= delay);
        lasting.unwrap_or(Self(10))
    }

    /// How long a request waits in it.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(1 << self.0)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.duration().as_secs())
    }
}

#[cfg(test)]
mod tests;
