//! The sections: each key is one row, with its type, how it is read, its name and an example.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use lapin::uri::AMQPUri;
use secrecy::ExposeSecret;

use super::{
    broker_urls::{BrokerUrls, BrokerUrlsError},
    keys::key,
    reader::Reader,
    values::{
        BaseUrl, Concurrency, RateLimit, TopologyPrefix, boolean, check_header_value, check_token, duration,
        hidden, hosts, list, listen, optional, path, positive, prefixes, scalar, string, trace_url,
    },
};
use crate::{breaker::BreakerLimits, policy::RetryLimits, secret::Secret};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// RabbitMQ closes the channel of a delivery that is unsettled for 30 minutes (`consumer_timeout`).
/// This is half of it.
const MAX_CALL: Duration = Duration::from_secs(15 * 60);
/// The longest retry queue, `.retry.1024s`.
const MAX_TIER: Duration = Duration::from_secs(1024);

/// A section from its rows, `field: type = how the reader reads it, key;`. `check` sees each field
/// as an `Option`, and compares those that could be read. `struct` also declares the type.
macro_rules! section {
    ($(#[$doc:meta])* $vis:vis struct $Section:ident {
        $($(#[$field_doc:meta])* $field:ident: $Type:ty = $read:ident($($how:expr),*), $key:expr;)*
    } $($check:tt)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        $vis struct $Section { $($(#[$field_doc])* $vis $field: $Type,)* }
        section! { $Section { $($field: $Type = $read($($how),*), $key;)* } $($check)* }
    };
    ($Section:ident {
        $($field:ident: $Type:ty = $read:ident($($how:expr),*), $key:expr;)*
    } $(check($checker:ident) $check:block)?) => {
        impl $Section {
            pub(super) fn read(reader: &mut Reader) -> Option<Self> {
                // All fields are read before the first missing one counts, so that no fault hides
                // another.
                $(let $field: Option<$Type> = reader.$read($key, $($how),*);)*
                $({ let $checker = &mut *reader; $check })?
                Some(Self { $($field: $field?),* })
            }
        }
    };
}

section! {
    /// `[trackfinity]`
    pub struct Trackfinity {
        /// The address of the Trackfinity installation.
        base_url: BaseUrl = value(string, BaseUrl::parse),
            key("trackfinity.base_url", "\"https://yourcompany.trackfinity.com\"");
        /// Whether `base_url` may be `http` to another machine.
        allow_http: bool = value(scalar, boolean), key("trackfinity.allow_http", "false");
        /// The header `api-key`: visible ASCII.
        api_key: Secret = secret(check_header_value, hidden),
            key("trackfinity.api_key", "the key from Trackfinity's admin pages")
                .or_file("\"/run/secrets/trackfinity/api-key\"");
        /// The header `api-username`: visible ASCII.
        api_username: Secret = secret(check_header_value, hidden),
            key("trackfinity.api_username", "the key's user name")
                .or_file("\"/run/secrets/trackfinity/api-username\"");
        /// The longest time for one call, from connecting to the last body byte: 1 ms to 15 min.
        timeout: Duration = value(scalar, duration(MS..=MAX_CALL)), key("trackfinity.timeout", "\"10s\"");
        /// The longest time to connect: 1 ms to 15 min.
        connect_timeout: Duration = value(scalar, duration(MS..=MAX_CALL)),
            key("trackfinity.connect_timeout", "\"3s\"");
    }
    check(reader) {
        if let (Some(url), Some(false)) = (&base_url, allow_http) && url.exposes_key() {
            let url = url.as_url();
            reader.fault("trackfinity.base_url", format!("{url} would send the key in clear text to another \
                machine: use https://, or set trackfinity.allow_http = true"));
        }
    }
}

section! {
    /// `[broker]`
    pub struct Broker {
        /// The URLs with their passwords, separated by commas, for [`BrokerUrls::parse`]; see
        /// [`Broker::uris`].
        urls: Secret = secret(BrokerUrls::check, BrokerUrls::masked),
            key("broker.url", "\"amqps://USER:PASSWORD@rabbitmq.example.com/VHOST\"")
                .or_file("\"/run/secrets/rabbitmq/url\"").for_broker();
        /// Whether to declare the topology, or only to check that it exists.
        declare: bool = value(scalar, boolean), key("broker.declare", "true").for_broker();
    }
}

section! {
    /// `[topology]`
    pub(super) struct Topology {
        /// What every exchange and queue name starts with.
        prefix: TopologyPrefix = value(string, TopologyPrefix::parse),
            key("topology.prefix", "\"trackfinity.unlock\"").for_broker();
    }
}

section! {
    /// `[worker]`
    pub struct Worker {
        /// The most requests in flight at once.
        concurrency: Concurrency = value(scalar, Concurrency::parse), key("worker.concurrency", "64");
        /// The most calls to Trackfinity per second.
        rate_limit: Option<RateLimit> = value(scalar, optional(RateLimit::parse)),
            key("worker.rate_limit", "20").or_empty("not set");
        /// How long calls in flight may continue after SIGTERM: 0 s to 1 h.
        drain_timeout: Duration = value(scalar, duration(Duration::ZERO..=HOUR)),
            key("worker.drain_timeout", "\"25s\"");
    }
}

section! {
    RetryLimits {
        max_attempts: u32 = value(scalar, positive), key("retry.max_attempts", "12");
        max_delay: Duration = value(scalar, duration(SECOND..=MAX_TIER)), key("retry.max_delay", "\"1024s\"");
        give_up_after: Duration = value(scalar, duration(SECOND..=YEAR)),
            key("retry.give_up_after", "\"24h\"");
    }
}

section! {
    BreakerLimits {
        after_failures: u32 = value(scalar, positive), key("pause.after_failures", "10");
        probe_delay: Duration = value(scalar, duration(MS..=HOUR)), key("pause.probe_delay", "\"1s\"");
        probe_max_delay: Duration = value(scalar, duration(MS..=HOUR)),
            key("pause.probe_max_delay", "\"30s\"");
    }
    check(reader) {
        if let (Some(first), Some(longest)) = (probe_delay, probe_max_delay) && first > longest {
            let [first, longest] = [first, longest].map(humantime::format_duration);
            reader.fault("pause.probe_max_delay", format!("{longest} is shorter than pause.probe_delay, {first}"));
        }
    }
}

section! {
    /// `[results]`
    pub struct Results {
        /// Whether an outcome that no queue receives counts as a failed publish.
        require_subscriber: bool = value(scalar, boolean),
            key("results.require_subscriber", "false").for_broker();
        /// What a `reply_to` may start with, besides RabbitMQ's own reply queues. None of them is
        /// empty.
        reply_to_prefixes: Vec<String> = value(list, prefixes),
            key("results.reply_to_prefixes", "[\"replies.\", \"answers.\"]").for_broker().or_empty("none");
    }
}

section! {
    /// `[ops]`
    pub struct Ops {
        /// Where health and metrics are served; `None` is off.
        listen: Option<SocketAddr> = value(string, optional(listen)),
            key("ops.listen", "\"127.0.0.1:9464\"").or_empty("off");
    }
}

section! {
    /// `[admin]`. Both tokens are set if `listen` is not a loopback address.
    pub struct Admin {
        /// Where the page and its API are served; `None` is off.
        listen: Option<SocketAddr> = value(string, optional(listen)),
            key("admin.listen", "\"127.0.0.1:8090\"").or_empty("off");
        /// Allows reading.
        viewer_token: Option<Secret> = optional_secret(check_token, hidden),
            key("admin.viewer_token", "the output of `openssl rand -hex 32`")
                .or_file("\"/run/secrets/unlocker/viewer-token\"").or_empty("not set");
        /// Allows replay and discard, too.
        operator_token: Option<Secret> = optional_secret(check_token, hidden),
            key("admin.operator_token", "the output of `openssl rand -hex 32`")
                .or_file("\"/run/secrets/unlocker/operator-token\"").or_empty("not set");
        /// Host names of the page, besides its own address and `localhost`; in lower case.
        allowed_hosts: Vec<String> = value(list, hosts),
            key("admin.allowed_hosts", "[\"unlocker.example.com\", \"10.0.0.7:8090\"]").or_empty("none");
        /// The address of a trace, with `{trace_id}` in it.
        trace_url: Option<String> = value(string, optional(trace_url)),
            key("admin.trace_url", "\"https://jaeger.example.com/trace/{trace_id}\"").or_empty("none");
        /// The file that records every change to the dead letters; `None` is stderr.
        audit_log: Option<PathBuf> = value(string, optional(path)),
            key("admin.audit_log", "\"/var/log/unlocker/audit.jsonl\"").for_broker().or_empty("none");
    }
    check(reader) {
        if let Some(address) = listen.flatten().filter(|address| !address.ip().to_canonical().is_loopback()) {
            for (key, token) in [("admin.viewer_token", &viewer_token), ("admin.operator_token", &operator_token)] {
                if matches!(token, Some(None)) && reader.needs(key) {
                    let wrong = format!("is required, because admin.listen is {address}, which others can reach");
                    reader.fault(key, wrong);
                }
            }
        }
        if let (Some(Some(viewer)), Some(Some(operator))) = (&viewer_token, &operator_token)
            && viewer.current().expose_secret() == operator.current().expose_secret()
        {
            let wrong = "is also the viewer's token: every viewer would be an operator";
            reader.fault("admin.operator_token", wrong.into());
        }
    }
}

impl Broker {
    /// The URLs to try, one after the other, as the secret is now.
    ///
    /// # Errors
    /// None are expected: the value of the secret was checked when it was read.
    pub fn uris(&self) -> Result<Vec<AMQPUri>, BrokerUrlsError> {
        BrokerUrls::parse(self.urls.current().expose_secret())
    }
}

impl fmt::Display for Broker {
    /// The URLs with their passwords masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BrokerUrls::masked(self.urls.current().expose_secret()))
    }
}
