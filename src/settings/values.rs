//! From a raw value to a valid one. An error is the phrase for [`super::Fault::wrong`]; it may repeat the value, so
//! nothing here is for secrets but the `check_…` functions, which never do.

use std::error::Error;
use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::ValueKind;
use url::{Host, Url};

/// A valid value, or what is wrong with the raw one.
pub(super) type Parsed<T> = Result<T, String>;

/// Trackfinity's address: `https`, or `http` where that is allowed, without query, fragment and credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    base: Url,
    unlock: Url,
    ping: Url,
}

impl BaseUrl {
    /// `http` to another machine than this one is refused unless `allow_http`.
    ///
    /// # Errors
    /// What is wrong, as a phrase for people that shows no credentials.
    pub fn parse(text: &str, allow_http: bool) -> Parsed<Self> {
        if text.is_empty() {
            return Err("is empty".into());
        }
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err("holds a blank or a control character".into());
        }
        let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "holds credentials, which belong in trackfinity.api_key and trackfinity.api_username".into(),
            );
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("holds a query or a fragment".into());
        }
        match url.scheme() {
            "https" => {}
            "http" if allow_http || is_this_machine(&url) => {}
            "http" => {
                return Err(format!(
                    "{url} would send the key in clear text to another machine: use https://, or set trackfinity.allow_http = true"
                ));
            }
            _ => return Err("is neither an https:// nor an http:// URL".into()),
        }
        Self::under(url).map_err(|error| format!("is not a URL to which a path can be appended: {error}"))
    }

    fn under(mut base: Url) -> Result<Self, url::ParseError> {
        // Without a slash at its end, joining would replace the last segment.
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { unlock: base.join("api/customer/unlock")?, ping: base.join("api/service/ping")?, base })
    }

    /// The address itself, with a slash at its end.
    pub fn as_url(&self) -> &Url {
        &self.base
    }

    /// `{base}/api/customer/unlock`
    pub fn unlock_url(&self) -> Url {
        self.unlock.clone()
    }

    /// `{base}/api/service/ping`
    pub fn ping_url(&self) -> Url {
        self.ping.clone()
    }
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => Ipv4Addr::is_loopback(&address),
        Some(Host::Ipv6(address)) => Ipv6Addr::to_canonical(&address).is_loopback(),
        None => false,
    }
}

/// What every exchange and queue name starts with: 1 to 200 bytes of `A-Z a-z 0-9 . _ : -`, not starting with `amq.`.
/// AMQP allows names of 255 bytes; the longest suffix (`.retry.1024s`) fits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopologyPrefix(String);

impl TopologyPrefix {
    /// Takes a valid prefix.
    ///
    /// # Errors
    /// What is wrong, as a phrase for people.
    pub fn parse(text: &str) -> Parsed<Self> {
        if text.is_empty() {
            return Err("is empty".into());
        }
        if text.len() > 200 {
            return Err(format!(
                "is {} bytes long; at most 200 leave room for the names' endings",
                text.len()
            ));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        if let Some(c) = text.chars().find(|c| !allowed(*c)) {
            return Err(format!("{} holds {c:?}; allowed are A-Z a-z 0-9 . _ : -", quoted(text)));
        }
        if text.starts_with("amq.") {
            return Err(format!("{} starts with amq., which RabbitMQ keeps for itself", quoted(text)));
        }
        Ok(Self(text.to_owned()))
    }

    /// The prefix, without a dot at its end unless it was written with one.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for TopologyPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many requests are in flight at once, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// So many: 1 to [`Concurrency::MOST`].
    Fixed(NonZeroU16),
    /// As many as Trackfinity serves best, which the worker finds out.
    Auto,
}

impl Concurrency {
    /// The most a quorum queue allows as a prefetch (RabbitMQ docs, "Quorum queues").
    pub const MOST: u16 = 2000;

    pub(super) fn parse(kind: &ValueKind) -> Parsed<Self> {
        let wrong = format!("neither \"auto\" nor a whole number from 1 to {}", Self::MOST);
        let (number, shown) = match kind {
            ValueKind::String(text) if text.trim() == "auto" => return Ok(Self::Auto),
            ValueKind::String(text) => (text.trim().parse().ok(), quoted(text)),
            ValueKind::I64(number) => (u16::try_from(*number).ok(), number.to_string()),
            other => return Err(format!("is {}, {wrong}", kind_name(other))),
        };
        let allowed = number.filter(|number| *number <= Self::MOST).and_then(NonZeroU16::new);
        allowed.map(Self::Fixed).ok_or_else(|| format!("{shown} is {wrong}"))
    }
}

/// A number of calls per second, 0.001 to 1,000,000: finite, and its interval neither overflows nor is zero.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct RateLimit(f64);

impl RateLimit {
    pub(super) fn parse(kind: &ValueKind) -> Parsed<Self> {
        let per_second = match kind {
            ValueKind::Float(number) => *number,
            ValueKind::I64(number) => *number as f64,
            ValueKind::String(text) => {
                text.trim().parse().map_err(|_| format!("{} is not a number", quoted(text)))?
            }
            other => return Err(format!("is {}, not a number", kind_name(other))),
        };
        Self::new(per_second)
            .ok_or_else(|| format!("{per_second} is not between 0.001 and 1000000 calls per second"))
    }

    /// `per_second` as a limit, if it is one.
    pub fn new(per_second: f64) -> Option<Self> {
        (0.001..=1_000_000.0).contains(&per_second).then_some(Self(per_second))
    }

    /// Calls per second.
    pub fn per_second(self) -> f64 {
        self.0
    }

    /// The time between two calls: 1 µs to 1000 s.
    pub fn interval(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.0)
    }
}

pub(super) fn text(kind: &ValueKind) -> Parsed<&str> {
    match kind {
        ValueKind::String(text) => Ok(text.trim()),
        other => Err(format!("is {}, not a string: write it in quotes", kind_name(other))),
    }
}

pub(super) fn boolean(kind: &ValueKind) -> Parsed<bool> {
    match kind {
        ValueKind::Boolean(value) => Ok(*value),
        ValueKind::String(text) => match text.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("{} is neither true nor false", quoted(other))),
        },
        other => Err(format!("is {}, neither true nor false", kind_name(other))),
    }
}

/// A whole number within `allowed`, as the type `T`, which must be able to hold all of `allowed`.
pub(super) fn whole_number<T: TryFrom<i64>>(kind: &ValueKind, allowed: RangeInclusive<i64>) -> Parsed<T> {
    let number: i64 = match kind {
        ValueKind::I64(number) => *number,
        ValueKind::String(text) => {
            text.trim().parse().map_err(|_| format!("{} is not a whole number", quoted(text)))?
        }
        other => return Err(format!("is {}, not a whole number", kind_name(other))),
    };
    let outside = || format!("{number} is not between {} and {}", allowed.start(), allowed.end());
    if !allowed.contains(&number) {
        return Err(outside());
    }
    T::try_from(number).map_err(|_| outside())
}

/// A duration within `allowed`. Without an upper limit a clock that adds it could overflow.
pub(super) fn duration(kind: &ValueKind, allowed: RangeInclusive<Duration>) -> Parsed<Duration> {
    let text = match kind {
        ValueKind::String(text) => text.trim(),
        ValueKind::I64(number) => {
            return Err(format!("{number} has no unit: write for example \"{number}s\""));
        }
        other => {
            return Err(format!("is {}, not a duration such as \"10s\"", kind_name(other)));
        }
    };
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{} is not a duration such as \"10s\": {error}", quoted(text)))?;
    if !allowed.contains(&duration) {
        let [from, to] = [allowed.start(), allowed.end()].map(|limit| humantime::format_duration(*limit));
        return Err(format!("{} is not between {from} and {to}", quoted(text)));
    }
    Ok(duration)
}

/// An address to listen on; an empty one is none.
pub(super) fn listen(kind: &ValueKind) -> Parsed<Option<SocketAddr>> {
    let text = text(kind)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        format!(
            "{} is not an IP address and a port, such as 127.0.0.1:9464 or [::]:9464; \"\" is off",
            quoted(text)
        )
    })
}

/// A path; "" is none.
pub(super) fn path(kind: &ValueKind) -> Parsed<Option<PathBuf>> {
    let text = text(kind)?;
    Ok((!text.is_empty()).then(|| text.into()))
}

/// The address of a trace in a tracing system, with the place for the trace's id; "" is none.
pub(super) fn trace_url(kind: &ValueKind) -> Parsed<Option<String>> {
    let text = text(kind)?;
    if text.is_empty() {
        return Ok(None);
    }
    if !text.contains("{trace_id}") {
        return Err(format!("{} does not contain {{trace_id}}", quoted(text)));
    }
    match Url::parse(&text.replace("{trace_id}", "0")) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Some(text.to_owned())),
        _ => Err(format!("{} is not an http:// or https:// address", quoted(text))),
    }
}

/// Host names, without scheme and path; a port only where it is part of the `Host` header.
pub(super) fn hosts(kind: &ValueKind) -> Parsed<Vec<String>> {
    let hosts = list(kind)?;
    match hosts.iter().find(|host| host.is_empty() || host.contains(['/', ' ', '@', '*'])) {
        Some(wrong) => Err(format!("{} is not a host name such as unlocker.example.com", quoted(wrong))),
        None => Ok(hosts.iter().map(|host| host.to_ascii_lowercase()).collect()),
    }
}

/// What a `reply_to` may start with.
pub(super) fn prefixes(kind: &ValueKind) -> Parsed<Vec<String>> {
    let items = list(kind)?;
    for item in &items {
        if item.is_empty() {
            return Err("holds an empty prefix, which any reply_to would start with".into());
        }
        if item.len() > 255 || item.contains(char::is_control) {
            return Err(format!("holds {}, with which no queue's name can start", quoted(item)));
        }
    }
    Ok(items)
}

/// A list of strings, or one string with commas between them.
fn list(kind: &ValueKind) -> Parsed<Vec<String>> {
    let items: Vec<&str> = match kind {
        ValueKind::String(text) if text.trim().is_empty() => Vec::new(),
        ValueKind::String(text) => text.split(',').map(str::trim).collect(),
        ValueKind::Array(values) => values
            .iter()
            .map(|value| text(&value.kind))
            .collect::<Parsed<_>>()
            .map_err(|wrong| format!("holds an item that {wrong}"))?,
        other => return Err(format!("is {}, not a list of strings", kind_name(other))),
    };
    Ok(items.into_iter().map(str::to_owned).collect())
}

/// Whether a secret can be sent as an HTTP header's value.
pub(super) fn check_header_value(value: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    if value.starts_with(' ') || value.ends_with(' ') {
        return Err("it starts or ends with a blank".into());
    }
    if !value.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        return Err("it holds a character other than visible ASCII (a line break at its end, perhaps)".into());
    }
    Ok(())
}

/// Whether a secret can be used as a bearer token.
pub(super) fn check_token(value: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    if value.contains(' ') {
        return Err("it holds a blank".into());
    }
    check_header_value(value)
}

/// What a raw value is, without showing it.
pub(super) fn kind_name(kind: &ValueKind) -> &'static str {
    match kind {
        ValueKind::Nil => "empty",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
        ValueKind::Float(_) => "a fraction",
        ValueKind::String(_) => "a string",
        ValueKind::Table(_) => "a section",
        ValueKind::Array(_) => "a list",
    }
}

/// A value in quotes, escaped, and cut to a length that a terminal can bear.
pub(super) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
