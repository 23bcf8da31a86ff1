//! From a raw value to its text, and from the text to a valid value. An error is the phrase for
//! [`Fault::wrong`](super::Fault::wrong). It may repeat the value, so only the `check_…` functions,
//! which never do, are for secrets.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    ops::RangeInclusive,
    path::Path,
    str::FromStr,
    time::Duration,
};

use config::ValueKind;
use url::{Host, Url};

/// A valid value, or what is wrong with the raw one.
pub(super) type Parsed<T> = Result<T, String>;

const CREDENTIALS: &str =
    "contains credentials, which belong in trackfinity.api_key and trackfinity.api_username";

/// Ends of a URL that is copied from Trackfinity's documentation instead of its base.
const API_PATHS: [&str; 4] = ["/api/", "/api/customer/", "/api/customer/unlock/", "/api/service/ping/"];

/// The phrase as an error, if the value is wrong.
pub(super) fn refuse_if(is_wrong: bool, phrase: &'static str) -> Result<(), &'static str> {
    if is_wrong { Err(phrase) } else { Ok(()) }
}

pub(super) fn is_blank(c: char) -> bool {
    c.is_control() || c.is_whitespace()
}

/// Trackfinity's address: `https` or `http`, without query, fragment and credentials, with a slash
/// at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Url);

impl BaseUrl {
    pub(super) fn parse(text: &str) -> Parsed<Self> {
        refuse_if(text.contains(is_blank), "contains a blank or a control character")?;
        let mut url = Url::parse(text).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => "does not start with https://".to_owned(),
            error => format!("is not a URL: {error}"),
        })?;
        refuse_if(!url.username().is_empty() || url.password().is_some(), CREDENTIALS)?;
        refuse_if(url.query().is_some() || url.fragment().is_some(), "contains a query or a fragment")?;
        refuse_if(!["https", "http"].contains(&url.scheme()), "is neither an https:// nor an http:// URL")?;
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let api_path = API_PATHS.iter().find(|path| url.path().ends_with(**path));
        match api_path.and_then(|path| url.as_str().strip_suffix(path)) {
            Some(base) => {
                Err(format!("contains the API's path, which the program appends: write \"{base}\""))
            }
            None => Ok(Self(url)),
        }
    }

    /// Whether calls send the key to another machine without TLS.
    pub(super) fn exposes_key(&self) -> bool {
        let loopback = match self.0.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => Ipv4Addr::is_loopback(&address),
            Some(Host::Ipv6(address)) => Ipv6Addr::to_canonical(&address).is_loopback(),
            None => false,
        };
        self.0.scheme() == "http" && !loopback
    }

    /// The address itself, with a slash at its end.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// `{base}/{path}`
    pub fn endpoint(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", url.path()));
        url
    }
}

/// Which requests have a log line for each retry and for their outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestLog {
    All,
    /// Without outcomes that are `unlocked`.
    Failures,
}

impl RequestLog {
    pub(super) fn parse(text: &str) -> Parsed<Self> {
        match text {
            "all" => Ok(Self::All),
            "failures" => Ok(Self::Failures),
            _ => wrong_value(text, "is neither \"all\" nor \"failures\""),
        }
    }
}

/// What every exchange and queue name starts with: 1 to 200 bytes of `A-Z a-z 0-9 . _ : -`, not
/// starting with `amq.`. AMQP allows names of 255 bytes; the longest suffix (`.retry.1024s`) fits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopologyPrefix(String);

impl TopologyPrefix {
    /// Takes a valid prefix.
    ///
    /// # Errors
    /// What is wrong, as a phrase for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        match text.chars().find(|c| !allowed(*c)) {
            _ if !(1..=200).contains(&text.len()) => {
                Err(format!("is {} bytes long; 1 to 200 leave room for the names' endings", text.len()))
            }
            Some(c) => wrong_value(text, &format!("contains {c:?}; allowed are A-Z a-z 0-9 . _ : -")),
            None if text.starts_with("amq.") => {
                wrong_value(text, "starts with amq., which RabbitMQ reserves")
            }
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The prefix, without a dot at its end unless it was written with one.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How many requests may be in flight at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// This number: 1 to [`Concurrency::MAX`].
    Fixed(NonZeroU16),
    /// As many as Trackfinity serves best. The worker finds this number.
    Auto,
}

impl Concurrency {
    /// The largest prefetch of a quorum queue (RabbitMQ docs, "Quorum queues").
    pub const MAX: u16 = 2000;

    pub(super) fn parse(text: &str) -> Parsed<Self> {
        match text.parse::<NonZeroU16>() {
            Ok(number) if number.get() <= Self::MAX => Ok(Self::Fixed(number)),
            _ if text == "auto" => Ok(Self::Auto),
            _ => wrong_value(text, "is neither \"auto\" nor a whole number from 1 to 2000"),
        }
    }
}

/// Calls per second, 0.001 to 1,000,000: the time between two calls neither overflows nor is zero.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct RateLimit(f64);

impl RateLimit {
    pub(super) fn parse(text: &str) -> Parsed<Self> {
        Self::new(parse(text, "is not a number")?)
            .map_or_else(|| wrong_value(text, "is not between 0.001 and 1000000 calls per second"), Ok)
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

/// The text of a string.
pub(super) fn string(kind: &ValueKind) -> Parsed<String> {
    match kind {
        ValueKind::String(text) => Ok(text.trim().to_owned()),
        _ => Err("is not a string: write it in quotes".into()),
    }
}

/// The text of a number, true or false, or a string, since a variable is always a string.
pub(super) fn scalar(kind: &ValueKind) -> Parsed<String> {
    match kind {
        ValueKind::Array(_) => Err("is a list, not a single value".into()),
        // `Display` would make the whole number 64 of 64.0.
        ValueKind::Float(number) => Ok(format!("{number:?}")),
        kind => Ok(kind.to_string().trim().to_owned()),
    }
}

/// The text of a list: its items with commas between them, as in a variable.
pub(super) fn list(kind: &ValueKind) -> Parsed<String> {
    let ValueKind::Array(items) = kind else {
        return string(kind).map_err(|_| "is not a list of strings".into());
    };
    let is_item = |text: &String| !text.is_empty() && !text.contains(',');
    let items: Option<Vec<_>> = items.iter().map(|item| string(&item.kind).ok().filter(is_item)).collect();
    let wrong = "contains an item that is not a string, is empty, or has a comma";
    items.map(|items| items.join(",")).ok_or(wrong.into())
}

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    parse(text, "is neither true nor false")
}

/// A whole number from 1.
pub(super) fn positive(text: &str) -> Parsed<u32> {
    parse(text, "is not a whole number from 1 to 4294967295").map(NonZeroU32::get)
}

/// A duration within `allowed`. Without an upper limit, adding it to a time could overflow.
pub(super) fn duration(allowed: RangeInclusive<Duration>) -> impl FnOnce(&str) -> Parsed<Duration> {
    move |text| {
        let [from, to] = [allowed.start(), allowed.end()].map(|limit| humantime::format_duration(*limit));
        match humantime::parse_duration(text) {
            _ if text.parse::<i64>().is_ok() => {
                Err(format!("{text} has no unit: write for example \"{text}s\""))
            }
            Err(error) => wrong_value(text, &format!("is not a duration such as \"10s\": {error}")),
            Ok(duration) if allowed.contains(&duration) => Ok(duration),
            Ok(_) => wrong_value(text, &format!("is not between {from} and {to}")),
        }
    }
}

/// A number of bytes with its unit: at least 500 MB, fifty segments of a stream.
pub(super) fn stream_bytes(text: &str) -> Parsed<i64> {
    const MIN_BYTES: u64 = 500_000_000;
    match text.parse::<bytesize::ByteSize>() {
        _ if text.parse::<f64>().is_ok() => Err(format!("{text} has no unit: write for example \"5GB\"")),
        Err(_) => wrong_value(text, "is not a number of bytes such as \"5GB\""),
        Ok(bytes) if bytes.as_u64() < MIN_BYTES => wrong_value(text, "is less than 500MB"),
        Ok(bytes) => i64::try_from(bytes.as_u64()).or_else(|_| wrong_value(text, "is too large")),
    }
}

/// An address to listen on.
pub(super) fn listen(text: &str) -> Parsed<SocketAddr> {
    parse(text, "is not an IP address and a port, such as 127.0.0.1:9464 or [::]:9464; \"\" is off")
}

/// Why a file cannot be created or appended to, as far as its path shows.
pub(super) fn file_fault(file: &Path) -> Option<&'static str> {
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
    match directory {
        _ if file.is_dir() => Some("is a directory, not a file"),
        Some(directory) if !directory.is_dir() => Some("is in a directory that does not exist"),
        _ => None,
    }
}

/// The address of a trace in a tracing system, with the place for the trace's id.
pub(super) fn trace_url(text: &str) -> Parsed<String> {
    match Url::parse(&text.replace("{trace_id}", "0")) {
        _ if !text.contains("{trace_id}") => wrong_value(text, "does not contain {trace_id}"),
        Ok(url) if ["http", "https"].contains(&url.scheme()) => Ok(text.to_owned()),
        _ => wrong_value(text, "is not an http:// or https:// address"),
    }
}

/// An address for people.
pub(super) fn link(text: &str) -> Parsed<String> {
    match Url::parse(text) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) => Ok(text.to_owned()),
        _ => wrong_value(text, "is not an http:// or https:// address"),
    }
}

/// A host name, without scheme and path; with a port only where it is part of the `Host` header.
pub(super) fn host(text: &str) -> Parsed<String> {
    match text.is_empty() || text.contains(['/', ' ', '@', '*']) {
        true => wrong_value(text, "is not a host name such as unlocker.example.com"),
        false => Ok(text.to_ascii_lowercase()),
    }
}

/// What a `reply_to` may start with.
pub(super) fn prefix(text: &str) -> Parsed<String> {
    match text {
        "" => Err("contains an empty prefix, which any reply_to would start with".into()),
        _ if text.len() > 255 || text.contains(char::is_control) => {
            Err(format!("contains {}, with which no queue's name can start", quoted(text)))
        }
        _ => Ok(text.to_owned()),
    }
}

/// Whether a secret can be sent as an HTTP header's value.
pub(super) fn check_header_value(value: &str) -> Parsed<()> {
    refuse_if(value.starts_with(' ') || value.ends_with(' '), "it starts or ends with a blank")?;
    let is_visible = value.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    let phrase = "it contains a character other than visible ASCII (perhaps a line break at its end)";
    Ok(refuse_if(!is_visible, phrase)?)
}

/// Whether a text holds certificates of authorities that a TLS client can trust.
pub(super) fn check_authorities(pem: &str) -> Parsed<()> {
    let broken = "it holds a certificate that cannot be read: write each as PEM, from -----BEGIN CERTIFICATE----- to \
                  -----END CERTIFICATE-----";
    let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(|_| broken)?;
    refuse_if(certificates.is_empty(), "it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")?;
    // Only a client reads what is in them.
    reqwest::Client::builder().tls_certs_only(certificates).build().map(drop).map_err(|_| broken.to_owned())
}

/// The shortest token, in characters: a shorter one could be guessed.
const MIN_TOKEN_CHARS: usize = 16;

/// Whether a secret can be used as a bearer token.
pub(super) fn check_token(value: &str) -> Parsed<()> {
    refuse_if(value.contains(' '), "it contains a blank")?;
    refuse_if(value.chars().count() < MIN_TOKEN_CHARS, "it has fewer than 16 characters")?;
    check_header_value(value)
}

fn parse<T: FromStr>(text: &str, wrong: &str) -> Parsed<T> {
    text.parse().or_else(|_| wrong_value(text, wrong))
}

/// That the value, which is no secret, is wrong.
fn wrong_value<T>(text: &str, wrong: &str) -> Parsed<T> {
    Err(format!("{} {wrong}", quoted(text)))
}

/// A value in quotes, escaped, and cut to 80 characters.
pub(super) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
