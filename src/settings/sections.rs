//! Reads the sections, one function each.

use std::num::NonZeroU32;
use std::time::Duration;

use config::ValueKind;
use secrecy::ExposeSecret;

use super::reader::{Reader, hidden};
use super::values::{self, BaseUrl, Concurrency, RateLimit, TopologyPrefix};
use super::{
    Admin, Broker, BrokerSettings, BrokerUrls, Ops, Pause, Results, Retry, Settings, Trackfinity, Worker,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Half of RabbitMQ's `consumer_timeout` of 30 minutes, after which it closes the channel of an unsettled delivery.
const LONGEST_CALL: Duration = Duration::from_secs(15 * 60);
/// The longest waiting queue, `.retry.1024s`.
const LONGEST_TIER: Duration = Duration::from_secs(1024);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The sections as far as they could be read: all are read before the first missing one counts.
pub(super) struct Sections {
    trackfinity: Option<Trackfinity>,
    broker: Option<Broker>,
    topology_prefix: Option<TopologyPrefix>,
    worker: Option<Worker>,
    retry: Option<Retry>,
    pause: Option<Pause>,
    results: Option<Results>,
    ops: Option<Ops>,
    admin: Option<Admin>,
}

impl Sections {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let sections = Self {
            trackfinity: trackfinity(reader),
            broker: broker(reader),
            topology_prefix: reader
                .required("topology.prefix", |kind| TopologyPrefix::parse(values::text(kind)?)),
            worker: worker(reader),
            retry: retry(reader),
            pause: pause(reader),
            results: results(reader),
            ops: ops(reader),
            admin: admin(reader),
        };
        let ops = sections.ops.as_ref().and_then(|ops| ops.listen);
        let admin = sections.admin.as_ref().and_then(|admin| admin.listen);
        if ops.is_some_and(|address| address.port() != 0) && ops == admin {
            reader.unfit("admin.listen", "is the address of ops.listen, too".into());
        }
        sections
    }

    pub(super) fn worker(self, described: Vec<(String, String, String)>) -> Option<Settings> {
        Some(Settings {
            trackfinity: self.trackfinity?,
            broker: self.broker?,
            topology_prefix: self.topology_prefix?,
            worker: self.worker?,
            retry: self.retry?,
            pause: self.pause?,
            results: self.results?,
            ops: self.ops?,
            admin: self.admin?,
            described,
        })
    }

    pub(super) fn broker_only(self) -> Option<BrokerSettings> {
        Some(BrokerSettings {
            broker: self.broker?,
            topology_prefix: self.topology_prefix?,
            results: self.results?,
            audit_log: self.admin?.audit_log,
        })
    }
}

fn trackfinity(reader: &mut Reader) -> Option<Trackfinity> {
    let allow_http = reader.required("trackfinity.allow_http", values::boolean);
    // Where allow_http itself is at fault, base_url is not blamed for it.
    let base_url = reader.required("trackfinity.base_url", |kind| {
        BaseUrl::parse(values::text(kind)?, allow_http.unwrap_or(true))
    });
    let api_key = reader.required_secret("trackfinity.api_key", values::check_header_value, hidden);
    let api_username = reader.required_secret("trackfinity.api_username", values::check_header_value, hidden);
    let limits = MILLISECOND..=LONGEST_CALL;
    let timeout = reader.required("trackfinity.timeout", |kind| values::duration(kind, limits.clone()));
    let connect_timeout =
        reader.required("trackfinity.connect_timeout", |kind| values::duration(kind, limits));
    Some(Trackfinity {
        base_url: base_url?,
        api_key: api_key?,
        api_username: api_username?,
        timeout: timeout?,
        connect_timeout: connect_timeout?,
    })
}

fn broker(reader: &mut Reader) -> Option<Broker> {
    let urls = reader.required_secret("broker.url", BrokerUrls::check, BrokerUrls::masked);
    let declare = reader.required("broker.declare", values::boolean);
    Some(Broker { urls: urls?, declare: declare? })
}

fn worker(reader: &mut Reader) -> Option<Worker> {
    let concurrency = reader.required("worker.concurrency", Concurrency::parse);
    let rate_limit = reader.optional("worker.rate_limit", RateLimit::parse);
    let drain_timeout =
        reader.required("worker.drain_timeout", |kind| values::duration(kind, Duration::ZERO..=HOUR));
    Some(Worker { concurrency: concurrency?, rate_limit: rate_limit?, drain_timeout: drain_timeout? })
}

fn retry(reader: &mut Reader) -> Option<Retry> {
    let max_attempts = reader.required("retry.max_attempts", positive);
    let max_delay = reader.required("retry.max_delay", |kind| values::duration(kind, SECOND..=LONGEST_TIER));
    let give_up_after = reader.required("retry.give_up_after", |kind| values::duration(kind, SECOND..=YEAR));
    Some(Retry { max_attempts: max_attempts?, max_delay: max_delay?, give_up_after: give_up_after? })
}

fn pause(reader: &mut Reader) -> Option<Pause> {
    let after_failures = reader.required("pause.after_failures", positive);
    let limits = MILLISECOND..=HOUR;
    let probe_delay = reader.required("pause.probe_delay", |kind| values::duration(kind, limits.clone()));
    let probe_max_delay = reader.required("pause.probe_max_delay", |kind| values::duration(kind, limits));
    let (after_failures, probe_delay, probe_max_delay) = (after_failures?, probe_delay?, probe_max_delay?);
    if probe_delay > probe_max_delay {
        let [shorter, longer] = [probe_max_delay, probe_delay].map(humantime::format_duration);
        let wrong = format!("{shorter} is shorter than pause.probe_delay, {longer}");
        reader.unfit("pause.probe_max_delay", wrong);
        return None;
    }
    Some(Pause { after_failures, probe_delay, probe_max_delay })
}

fn results(reader: &mut Reader) -> Option<Results> {
    let require_subscriber = reader.required("results.require_subscriber", values::boolean);
    let reply_to_prefixes = reader.required("results.reply_to_prefixes", values::prefixes);
    Some(Results { require_subscriber: require_subscriber?, reply_to_prefixes: reply_to_prefixes? })
}

fn ops(reader: &mut Reader) -> Option<Ops> {
    let listen = reader.required("ops.listen", values::listen)?;
    Some(Ops { listen })
}

fn admin(reader: &mut Reader) -> Option<Admin> {
    let listen = reader.required("admin.listen", values::listen);
    let viewer_token = reader.secret("admin.viewer_token", values::check_token, hidden);
    let operator_token = reader.secret("admin.operator_token", values::check_token, hidden);
    let allowed_hosts = reader.required("admin.allowed_hosts", values::hosts);
    let trace_url = reader.required("admin.trace_url", values::trace_url);
    let audit_log = reader.required("admin.audit_log", values::path);
    let listen = listen?;
    let open_to_others = listen.filter(|address| !address.ip().to_canonical().is_loopback());
    if let Some(address) = open_to_others.filter(|_| reader.uses("admin.listen")) {
        let wrong = format!("is required, because admin.listen is {address}, which others can reach");
        for (key, token) in [("admin.viewer_token", &viewer_token), ("admin.operator_token", &operator_token)]
        {
            if matches!(token, Some(None)) {
                reader.unfit(key, wrong.clone());
            }
        }
    }
    if let (Some(Some(viewer)), Some(Some(operator))) = (&viewer_token, &operator_token)
        && viewer.current().expose_secret() == operator.current().expose_secret()
    {
        reader.unfit(
            "admin.operator_token",
            "is the viewer's token, too: every viewer would be an operator".into(),
        );
    }
    Some(Admin {
        listen,
        viewer_token: viewer_token?,
        operator_token: operator_token?,
        allowed_hosts: allowed_hosts?,
        trace_url: trace_url?,
        audit_log: audit_log?,
    })
}

fn positive(kind: &ValueKind) -> values::Parsed<NonZeroU32> {
    let number = values::whole_number(kind, 1..=i64::from(u32::MAX))?;
    NonZeroU32::new(number).ok_or_else(|| "is zero".into())
}
