//! The sections: each key is one row, with its type, how it is read, its name and an example.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use lapin::uri::AMQPUri;
use secrecy::ExposeSecret;

use super::{
    broker_urls::{BrokerUrls, BrokerUrlsError},
    certificates::{MAX_CERTIFICATES_BYTES, check_certificates, check_private_key},
    jwt::{MAX_TOKEN_BYTES, check_jwt, token_in},
    keys::Key,
    login_files::LoginFiles,
    proxy_url::ProxyUrl,
    reader::Reader,
    values::{
        BaseUrl, Concurrency, RateLimit, RequestLog, TopologyPrefix, boolean, check_authorities,
        check_header_value, check_token, duration, file_fault, host, link, listen, positive, prefix, scalar,
        stream_bytes, string, trace_url,
    },
};
use crate::{
    breaker::BreakerLimits,
    policy::RetryLimits,
    secret::{MAX_FILE_BYTES, Secret},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// RabbitMQ closes the channel of a delivery that is unsettled for 30 minutes (`consumer_timeout`).
/// This is half of it.
const MAX_CALL: Duration = Duration::from_secs(15 * 60);
/// The gateway's answer to a request that waits must come within its 60 s.
const MAX_WAIT: Duration = Duration::from_secs(50);
/// The longest retry queue, `.retry.1024s`.
const MAX_TIER: Duration = Duration::from_secs(1024);

/// A section from its rows, `field: type = how the reader reads it, example;`. A field is named
/// like its key. `check` sees each field as an `Option`, and compares those that could be read.
/// `struct` also declares the type.
macro_rules! section {
    ($(#[$doc:meta])* $vis:vis struct $Section:ident = $name:literal {
        $($(#[$field_doc:meta])* $field:ident: $Type:ty = $read:ident($($how:expr),*), $example:expr;)*
    } $($check:tt)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        $vis struct $Section { $($(#[$field_doc])* $vis $field: $Type,)* }
        section! { $Section = $name { $($field: $Type = $read($($how),*), $example;)* } $($check)* }
    };
    ($Section:ident = $name:literal {
        $($field:ident: $Type:ty = $read:ident($($how:expr),*), $example:expr;)*
    } $(check($checker:ident) $check:block)?) => {
        impl $Section {
            pub(super) fn read(reader: &mut Reader) -> Option<Self> {
                // All fields are read before the first missing one counts, so that no fault hides
                // another.
                $(let name = concat!($name, ".", stringify!($field));
                let key = Key { name, example: $example, is_secret: false };
                let $field: Option<$Type> = reader.$read(key, $($how),*);)*
                $({ let $checker = &mut *reader; $check })?
                Some(Self { $($field: $field?),* })
            }
        }
    };
}

section! {
    /// `[trackfinity]`
    pub struct Trackfinity = "trackfinity" {
        /// The address of the Trackfinity installation.
        base_url: BaseUrl = value(string, BaseUrl::parse), "\"https://yourcompany.trackfinity.com\"";
        /// Whether `base_url` may be `http` to another machine.
        allow_http: bool = value(scalar, boolean), "false";
        /// The header `api-key`: visible ASCII.
        api_key: Secret = secret(check_header_value, |_| "***".into()), "the key from Trackfinity's admin pages";
        /// The header `api-username`: visible ASCII.
        api_username: Secret = secret(check_header_value, |_| "***".into()), "the key's user name";
        /// The longest time for one call, from connecting to the last body byte: 1 ms to 15 min.
        timeout: Duration = value(scalar, duration(MS..=MAX_CALL)), "\"10s\"";
        /// The longest time to connect: 1 ms to 15 min.
        connect_timeout: Duration = value(scalar, duration(MS..=MAX_CALL)), "\"3s\"";
        /// The authorities to trust in place of the system's, as PEM. No secret, but read again like
        /// one.
        ca_file: Option<Secret> = watched_file(MAX_CERTIFICATES_BYTES, check_authorities),
            "\"/etc/unlocker/trackfinity-ca.pem\"";
        /// The HTTP proxy to go through, for [`ProxyUrl::parse`].
        proxy: Option<Secret> = optional_secret(ProxyUrl::check, ProxyUrl::masked),
            "\"http://USER:PASSWORD@proxy.example.com:3128\"";
    }
    check(reader) {
        if let (Some(url), Some(false)) = (&base_url, allow_http) && url.exposes_key() {
            let wrong = "would send the key in clear text to another machine: use https://, or set \
                trackfinity.allow_http = true";
            reader.fault("trackfinity.base_url", &format!("{} {wrong}", url.as_url()));
        }
        if let (Some(url), Some(Some(_))) = (&base_url, &ca_file) && url.as_url().scheme() == "http" {
            let wrong = "is never used, because trackfinity.base_url begins with http://";
            reader.fault_with_remedy("trackfinity.ca_file", wrong, "write https:// in base_url, or remove the file");
        }
    }
}

section! {
    /// `[broker]`
    pub struct Broker = "broker" {
        /// The URLs with their passwords, separated by commas, for [`BrokerUrls::parse`]; see
        /// [`Broker::uris`].
        url: Secret = secret(BrokerUrls::check, BrokerUrls::masked),
            "\"amqps://USER:PASSWORD@rabbitmq.example.com/VHOST\"";
        /// Whether to declare the topology, or only to check that it exists.
        declare: bool = value(scalar, boolean), "true";
        /// An OAuth 2 token, which is the password.
        token_file: Option<Secret> = watched_file(MAX_TOKEN_BYTES, check_jwt), "\"/run/secrets/rabbitmq/token\"";
        /// The client certificate, and those of the authorities between it and the one that RabbitMQ trusts.
        client_certificate_file: Option<Secret> = watched_file(MAX_CERTIFICATES_BYTES, check_certificates),
            "\"/run/secrets/rabbitmq/tls.crt\"";
        /// The private key of the client certificate.
        client_key_file: Option<Secret> = watched_file(MAX_FILE_BYTES, check_private_key),
            "\"/run/secrets/rabbitmq/tls.key\"";
        /// The authorities to trust, in the place of the system's.
        ca_file: Option<Secret> = watched_file(MAX_CERTIFICATES_BYTES, check_certificates),
            "\"/run/secrets/rabbitmq/ca.crt\"";
    }
    check(reader) {
        let files = LoginFiles {
            token: token_file.as_ref().map(Option::is_some),
            certificate: client_certificate_file.as_ref().map(Option::is_some),
            key: client_key_file.as_ref().map(Option::is_some),
            authorities: ca_file.as_ref().map(Option::is_some),
        };
        files.check(url.as_ref(), reader);
    }
}

section! {
    /// `[topology]`
    pub(super) struct Topology = "topology" {
        /// What every exchange and queue name starts with.
        prefix: TopologyPrefix = value(string, TopologyPrefix::parse), "\"trackfinity.unlock\"";
    }
}

section! {
    /// `[worker]`
    pub struct Worker = "worker" {
        /// The most requests in flight at once.
        concurrency: Concurrency = value(scalar, Concurrency::parse), "64";
        /// The most calls to Trackfinity per second.
        rate_limit: Option<RateLimit> = optional(scalar, RateLimit::parse, "not set"), "20";
        /// How long calls in flight may continue after SIGTERM: 0 s to 1 h.
        drain_timeout: Duration = value(scalar, duration(Duration::ZERO..=HOUR)), "\"25s\"";
    }
}

section! {
    RetryLimits = "retry" {
        max_attempts: u32 = value(scalar, positive), "12";
        max_delay: Duration = value(scalar, duration(SECOND..=MAX_TIER)), "\"1024s\"";
        give_up_after: Duration = value(scalar, duration(SECOND..=YEAR)), "\"24h\"";
    }
}

section! {
    BreakerLimits = "pause" {
        after_failures: u32 = value(scalar, positive), "10";
        probe_delay: Duration = value(scalar, duration(MS..=HOUR)), "\"1s\"";
        probe_max_delay: Duration = value(scalar, duration(MS..=HOUR)), "\"30s\"";
    }
    check(reader) {
        if let (Some(first), Some(longest)) = (probe_delay, probe_max_delay) && first > longest {
            let [first, longest] = [first, longest].map(humantime::format_duration);
            let wrong = format!("{longest} is shorter than pause.probe_delay, {first}");
            let remedy = format!("set pause.probe_max_delay (UNLOCKER__PAUSE__PROBE_MAX_DELAY) to at least \
                \"{first}\", or pause.probe_delay to less");
            reader.fault_with_remedy("pause.probe_max_delay", &wrong, &remedy);
        }
    }
}

section! {
    /// `[log]`
    pub struct Log = "log" {
        /// Which requests have log lines.
        requests: RequestLog = value(string, RequestLog::parse), "\"failures\"";
    }
}

section! {
    /// `[results]`
    pub struct Results = "results" {
        /// Whether an outcome that no queue receives counts as a failed publish.
        require_subscriber: bool = value(scalar, boolean), "false";
        /// What a `reply_to` may start with, besides RabbitMQ's own reply queues. None of them is
        /// empty.
        reply_to_prefixes: Vec<String> = list(prefix), "[\"replies.\", \"answers.\"]";
    }
}

section! {
    /// `[ops]`
    pub struct Ops = "ops" {
        /// Where health and metrics are served; `None` is off.
        listen: Option<SocketAddr> = optional(string, listen, "off"), "\"127.0.0.1:9464\"";
    }
}

section! {
    /// `[history]`
    pub struct History = "history" {
        /// Whether outcomes are kept in a stream.
        enabled: bool = value(scalar, boolean), "true";
        /// How long an outcome is kept at most: 1 h to 10 years.
        max_age: Duration = value(scalar, duration(HOUR..=TEN_YEARS)), "\"90d\"";
        /// How many bytes of outcomes are kept at most.
        max_bytes: i64 = value(scalar, stream_bytes), "\"5GB\"";
    }
}

section! {
    /// `[gateway]`. `clients_dir` is set if `listen` is not a loopback address.
    pub struct Gateway = "gateway" {
        /// Where requests are taken.
        listen: SocketAddr = value(string, listen), "\"127.0.0.1:8080\"";
        /// The directory with a file for each client; without it everyone on this machine is `local`.
        clients_dir: Option<PathBuf> = optional(string, |text| Ok(text.into()), "none"), "\"/run/secrets/unlocker/clients\"";
        /// The longest wait for an outcome that a client may ask for: 0 s to 50 s, since a request ends
        /// after 60 s.
        max_wait: Duration = value(scalar, duration(Duration::ZERO..=MAX_WAIT)), "\"30s\"";
    }
    check(reader) {
        if let (Some(address), Some(None)) = (listen, &clients_dir) && !address.ip().to_canonical().is_loopback() {
            let wrong = format!("is required, because gateway.listen is {address}, which others can reach");
            reader.fault("gateway.clients_dir", &wrong);
        }
    }
}

section! {
    /// `[console]`. Both tokens are set if `listen` is not a loopback address.
    pub struct Console = "console" {
        /// Where the pages and their API are served.
        listen: SocketAddr = value(string, listen), "\"127.0.0.1:8090\"";
        /// Allows reading.
        viewer_token: Option<Secret> = optional_secret(check_token, |_| "***".into()),
            "the output of `openssl rand -hex 32`";
        /// Allows replay and discard, too.
        operator_token: Option<Secret> = optional_secret(check_token, |_| "***".into()),
            "the output of `openssl rand -hex 32`";
        /// Host names of the console, besides its own address and `localhost`; in lower case.
        allowed_hosts: Vec<String> = list(host), "[\"unlocker.example.com\", \"10.0.0.7:8090\"]";
        /// The address of a trace, with `{trace_id}` in it.
        trace_url: Option<String> = optional(string, trace_url, "none"),
            "\"https://jaeger.example.com/trace/{trace_id}\"";
        /// The address of the workers' metrics, for a link.
        metrics_url: Option<String> = optional(string, link, "none"),
            "\"https://grafana.example.com/d/trackfinity-unlocker\"";
        /// The file that records every change to the dead letters; `None` is stderr.
        audit_log: Option<PathBuf> = optional(string, |text| Ok(text.into()), "none"), "\"/var/log/unlocker/audit.jsonl\"";
    }
    check(reader) {
        if let Some(address) = listen.filter(|address| !address.ip().to_canonical().is_loopback()) {
            for (key, token) in [("console.viewer_token", &viewer_token), ("console.operator_token", &operator_token)] {
                if matches!(token, Some(None)) && reader.needs(key) {
                    let wrong = format!("is required, because console.listen is {address}, which others can reach");
                    reader.fault(key, &wrong);
                }
            }
        }
        if let Some(Some(file)) = &audit_log
            && let Some(wrong) = file_fault(file).filter(|_| reader.needs("console.audit_log"))
        {
            let (wrong, remedy) = (format!("{} {wrong}", file.display()), "create the directory, or set another file");
            reader.fault_with_remedy("console.audit_log", &wrong, remedy);
        }
        if let (Some(Some(viewer)), Some(Some(operator))) = (&viewer_token, &operator_token)
            && viewer.current().expose_secret() == operator.current().expose_secret()
        {
            reader.fault("console.operator_token", "is also the viewer's token: every viewer would be an operator");
        }
    }
}

impl Broker {
    /// These URLs, with which the topology is declared; no token and no certificates.
    pub fn with_url(url: Secret) -> Self {
        Self {
            url,
            declare: true,
            token_file: None,
            client_certificate_file: None,
            client_key_file: None,
            ca_file: None,
        }
    }

    /// The URLs to try, one after the other, as the secrets are now. A token is their password.
    ///
    /// # Errors
    /// None are expected: the value of the secret was checked when it was read.
    pub fn uris(&self) -> Result<Vec<AMQPUri>, BrokerUrlsError> {
        let urls = self.url.current();
        match &self.token_file {
            Some(token) => {
                let token = token.current();
                BrokerUrls::parse_with_password(urls.expose_secret(), token_in(&token))
            }
            None => BrokerUrls::parse(urls.expose_secret()),
        }
    }

    /// All that is read from files: the URLs, the token and the certificates.
    pub fn files(&self) -> impl Iterator<Item = &Secret> {
        let named = [&self.token_file, &self.client_certificate_file, &self.client_key_file, &self.ca_file];
        let urls = Some(&self.url).filter(|urls| urls.path().is_some());
        urls.into_iter().chain(named.into_iter().flatten())
    }
}

impl fmt::Display for Broker {
    /// The URLs with their passwords masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BrokerUrls::masked(self.url.current().expose_secret()))
    }
}
