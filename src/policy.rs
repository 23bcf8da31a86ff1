//! Classifies Trackfinity's replies, and decides what happens to the request. Pure: the time, the
//! history and the jitter are arguments.

mod certificate_fault;

use std::{borrow::Cow, fmt, time::Duration};

pub use self::certificate_fault::CertificateFault;
use crate::message::Timestamp;

/// How much of a response body is read, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// The longest pause that a 429 can cause.
const MAX_RATE_LIMIT_PAUSE: Duration = Duration::from_secs(300);
/// The pause after a 429 without `Retry-After`.
const DEFAULT_RATE_LIMIT_PAUSE: Duration = Duration::from_secs(1);

/// The result of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Response(HttpResponse),
    /// No complete response within `trackfinity.timeout`.
    Timeout,
    /// Connecting, TLS, writing or reading failed.
    Connection(String),
    /// Trackfinity's certificate is not accepted, or that of a proxy which opens TLS.
    Certificate(CertificateFault),
    /// The HTTP proxy opened no tunnel to Trackfinity: the status of its answer, if it gave one, and the
    /// failure for people.
    NoTunnel {
        status: Option<u16>,
        detail: String,
    },
}

impl Reply {
    /// The status of Trackfinity's response, if there is one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Response(response) => Some(response.status),
            Self::Timeout | Self::Connection(_) | Self::Certificate(_) | Self::NoTunnel { .. } => None,
        }
    }

    /// The body as text, unless it is empty.
    pub fn body_text(&self) -> Option<String> {
        match self {
            Self::Response(response) if !response.body.is_empty() => {
                Some(String::from_utf8_lossy(&response.body).into_owned())
            }
            _ => None,
        }
    }

    /// The `error.type` of OpenTelemetry's conventions for HTTP: the status if it is 400 or more, else a
    /// code.
    pub fn error_type(&self) -> Option<String> {
        match self {
            Self::Response(response) => (response.status >= 400).then(|| response.status.to_string()),
            Self::Timeout => Some("timeout".to_owned()),
            Self::Connection(_) | Self::Certificate(_) | Self::NoTunnel { status: None, .. } => {
                Some("connection".to_owned())
            }
            Self::NoTunnel { status: Some(status), .. } => Some(Reason::ProxyRefused(*status).to_string()),
        }
    }
}

/// An HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    pub status: u16,
    /// The body, cut to [`MAX_RESPONSE_BYTES`].
    pub body: Vec<u8>,
    /// Whether the body was longer.
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
    /// Reads both forms, seconds and a date. Anything else counts as absent.
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

    /// How long to wait, counted from `now`.
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
    /// There is no connection because of the certificate. Its code is that of `Connection`.
    Certificate(CertificateFault),
    /// There is no connection to the HTTP proxy. Its code is that of `Connection`.
    ProxyConnection,
    /// The HTTP proxy refused a tunnel with this status.
    ProxyRefused(u16),
    RateLimited,
    UnexpectedReply,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(status) => write!(f, "http_{status}"),
            Self::NotTrue => f.write_str("not_true"),
            Self::Timeout => f.write_str("timeout"),
            Self::Connection | Self::Certificate(_) | Self::ProxyConnection => f.write_str("connection"),
            Self::ProxyRefused(status) => write!(f, "proxy_{status}"),
            Self::RateLimited => f.write_str("rate_limited"),
            Self::UnexpectedReply => f.write_str("unexpected_reply"),
        }
    }
}

impl Reason {
    /// The reason in words, for people.
    pub fn describe(self) -> String {
        match self {
            Self::Http(status) => format!("Trackfinity answered {status}"),
            Self::NotTrue => "Trackfinity answered, but not with true".to_owned(),
            Self::Timeout => "Trackfinity did not answer within trackfinity.timeout".to_owned(),
            Self::Connection => "the connection to Trackfinity failed".to_owned(),
            Self::Certificate(fault) => format!("Trackfinity's certificate is not accepted: {fault}"),
            Self::ProxyConnection => "the HTTP proxy for Trackfinity cannot be reached".to_owned(),
            Self::ProxyRefused(status) => {
                format!("the HTTP proxy answered {status} and opened no tunnel to Trackfinity")
            }
            Self::RateLimited => "Trackfinity answered 429, too many requests".to_owned(),
            Self::UnexpectedReply => "Trackfinity answered with success, but not with JSON".to_owned(),
        }
    }

    /// Whether the failure cannot have to do with the request: the proxy has not seen it.
    pub fn is_blind_to_request(self) -> bool {
        matches!(self, Self::ProxyConnection | Self::ProxyRefused(_))
    }
}

/// What a reply means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classification {
    Unlocked,
    /// Trackfinity refuses this request finally.
    Refused(Reason),
    /// A 404: no such customer, or a wrong address. A ping shows which of both.
    NotFound,
    /// A later attempt may succeed. `Retry-After` is the shortest wait.
    Transient(Reason, Option<RetryAfter>),
    RateLimited(Option<RetryAfter>),
    /// The key, the allow-list, the address or the proxy is wrong. It is not the request's fault.
    EndpointFault(Reason),
}

/// Classifies a reply by the contract's table.
pub fn classify(reply: &Reply) -> Classification {
    let response = match reply {
        Reply::Timeout => return Classification::Transient(Reason::Timeout, None),
        Reply::Connection(_) => return Classification::Transient(Reason::Connection, None),
        Reply::Certificate(fault) => return Classification::Transient(Reason::Certificate(*fault), None),
        Reply::NoTunnel { status, .. } => return classify_tunnel(*status),
        Reply::Response(response) => response,
    };
    let http = Reason::Http(response.status);
    match response.status {
        200..=299 => classify_success(response),
        404 => Classification::NotFound,
        429 => Classification::RateLimited(response.retry_after),
        408 | 425 => Classification::Transient(http, response.retry_after),
        300..=399 | 401 | 403 | 405 | 407 | 501 => Classification::EndpointFault(http),
        400..=499 => Classification::Refused(http),
        _ => Classification::Transient(http, response.retry_after),
    }
}

/// A proxy that cannot be reached, or does not reach Trackfinity, is an outage like any other. One that
/// refuses the tunnel for another reason has another login, other rules or another address than it should.
fn classify_tunnel(status: Option<u16>) -> Classification {
    match status {
        None => Classification::Transient(Reason::ProxyConnection, None),
        Some(status @ (408 | 425 | 429)) => Classification::Transient(Reason::ProxyRefused(status), None),
        Some(status @ (300..=499 | 501)) => Classification::EndpointFault(Reason::ProxyRefused(status)),
        Some(status) => Classification::Transient(Reason::ProxyRefused(status), None),
    }
}

fn classify_success(response: &HttpResponse) -> Classification {
    // A body that was cut is not JSON, even if its beginning is.
    let json = if response.cut { None } else { serde_json::from_slice(&response.body).ok() };
    match json {
        Some(serde_json::Value::Bool(true)) => Classification::Unlocked,
        Some(_) => Classification::Refused(Reason::NotTrue),
        None => Classification::Transient(Reason::UnexpectedReply, response.retry_after),
    }
}

impl Classification {
    /// The result of a call, as a metric's label.
    pub fn result(self) -> Cow<'static, str> {
        let reason = match self {
            Self::Unlocked => return "unlocked".into(),
            Self::Refused(reason) | Self::Transient(reason, _) | Self::EndpointFault(reason) => reason,
            Self::NotFound => Reason::Http(404),
            Self::RateLimited(_) => Reason::RateLimited,
        };
        reason.to_string().into()
    }

    /// Whether only Trackfinity itself can have answered so. It proves that the address is right, so
    /// that a later 404 means "no such customer".
    pub fn proves_address(self) -> bool {
        matches!(self, Self::Unlocked | Self::Refused(Reason::Http(400 | 409 | 422)))
    }
}

/// How often and for how long a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryLimits {
    pub max_attempts: u32,
    pub max_delay: Duration,
    /// Counted from when the request was first received.
    pub give_up_after: Duration,
}

/// Whether a failed call is the request's own fault. The circuit breaker decides it by comparing with
/// the calls of other requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The failure counts as an attempt of this request.
    Counts,
    /// The failure is part of an outage and does not count as an attempt.
    Spared,
    /// The endpoint serves other requests, but this request got an endpoint fault again.
    OwnFault,
}

/// What a decision needs to know about earlier attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptHistory {
    /// Calls that counted as attempts, without the current one.
    pub attempts: u32,
    pub first_received_at: Timestamp,
    /// From then on the request is not tried any more, if it expires.
    pub expires_at: Option<Timestamp>,
    /// Whether the current call counts as an attempt.
    pub judgement: Judgement,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Unlocked {
        attempts: u32,
    },
    Refused {
        attempts: u32,
        reason: Reason,
    },
    Abandoned {
        attempts: u32,
        reason: Reason,
    },
    /// It would expire before it comes back from any retry queue. `reason`: why the last call failed.
    Expired {
        attempts: u32,
        reason: Reason,
    },
    Retry {
        attempts: u32,
        reason: Reason,
        tier: Tier,
    },
}

/// Decides what happens to a request. `jitter` is uniform in (0, 1].
#[must_use]
pub fn decide(
    classification: Classification,
    history: AttemptHistory,
    now: Timestamp,
    jitter: f64,
    limits: &RetryLimits,
) -> Verdict {
    let attempts = history.attempts.saturating_add(1);
    let backoff = limits.max_delay.min(Duration::from_secs(1 << history.attempts.min(10))).mul_f64(jitter);
    let retry = |attempts, reason, at_least: Duration| {
        let at_least = at_least.min(limits.max_delay);
        match Tier::before(history.expires_at.map(|at| at.since(now)), backoff, at_least) {
            Some(tier) => Verdict::Retry { attempts, reason, tier },
            None => Verdict::Expired { attempts, reason },
        }
    };
    match classification {
        Classification::Unlocked => Verdict::Unlocked { attempts },
        Classification::Refused(reason) => Verdict::Refused { attempts, reason },
        Classification::NotFound => Verdict::Refused { attempts, reason: Reason::Http(404) },
        Classification::EndpointFault(reason) if history.judgement == Judgement::OwnFault => {
            Verdict::Refused { attempts, reason }
        }
        Classification::EndpointFault(reason) => retry(history.attempts, reason, Duration::ZERO),
        Classification::RateLimited(retry_after) => {
            let reason = Reason::RateLimited;
            if is_too_old(history, now, limits) {
                return Verdict::Abandoned { attempts: history.attempts, reason };
            }
            let asked = retry_after.map_or(DEFAULT_RATE_LIMIT_PAUSE, |after| after.delay(now));
            retry(history.attempts, reason, asked)
        }
        Classification::Transient(reason, retry_after) => {
            let asked = retry_after.map_or(Duration::ZERO, |after| after.delay(now));
            // A call in an outage is not an attempt, but the time limit still applies. Otherwise a request
            // that is alone in the queue would be used as a probe for ever.
            let counts = history.judgement != Judgement::Spared;
            let attempts = if counts { attempts } else { history.attempts };
            let used_up = counts && attempts >= limits.max_attempts;
            if used_up || is_too_old(history, now, limits) {
                return Verdict::Abandoned { attempts, reason };
            }
            retry(attempts, reason, asked)
        }
    }
}

/// For how long a 429 pauses all calls.
pub fn rate_limit_pause(retry_after: Option<RetryAfter>, now: Timestamp) -> Duration {
    retry_after.map_or(DEFAULT_RATE_LIMIT_PAUSE, |after| after.delay(now)).min(MAX_RATE_LIMIT_PAUSE)
}

fn is_too_old(history: AttemptHistory, now: Timestamp, limits: &RetryLimits) -> bool {
    now.since(history.first_received_at) >= limits.give_up_after
}

/// A retry queue, named by how many seconds a request waits in it: a power of two, up to 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tier(u8);

impl Tier {
    /// All tiers, the shortest first.
    pub const ALL: [Self; 11] =
        [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5), Self(6), Self(7), Self(8), Self(9), Self(10)];
    /// The shortest wait, one second.
    pub const SHORTEST: Self = Self(0);

    /// The shortest tier of at least `delay`, or else the longest tier.
    pub fn at_least(delay: Duration) -> Self {
        let long_enough = Self::ALL.into_iter().find(|tier| tier.duration() >= delay);
        long_enough.unwrap_or(Self(10))
    }

    /// The tier for a delay of `backoff`, but at least `at_least`. If the request would expire before it
    /// comes back from there, a shorter one: the longest from which it comes back in time. `None` if it
    /// would expire in all of them. `left`: the time until it expires.
    pub fn before(left: Option<Duration>, backoff: Duration, at_least: Duration) -> Option<Self> {
        let tier = Self::at_least(backoff.max(at_least));
        match left {
            Some(left) if tier.duration() >= left => {
                let in_time = Self::ALL.into_iter().rev().find(|tier| tier.duration() < left);
                in_time.filter(|tier| *tier >= Self::at_least(at_least))
            }
            _ => Some(tier),
        }
    }

    /// How long a request waits in it.
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
