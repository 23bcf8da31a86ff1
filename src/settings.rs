//! The settings: `config/default.toml` (compiled in), then each file, then the environment; later wins.
//!
//! Everything here is valid by its type. Loading reports every fault at once, each with its key, its source and what to
//! do, and no fault, `Debug` or description ever shows a secret.

mod broker_urls;
mod faults;
mod keys;
mod layers;
mod reader;
mod sections;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use lapin::uri::AMQPUri;
use secrecy::ExposeSecret;

pub use self::broker_urls::{BrokerUrlWrong, BrokerUrls, BrokerUrlsError};
pub use self::faults::{Fault, Faults};
pub use self::values::{BaseUrl, Concurrency, RateLimit, TopologyPrefix};

use self::layers::Layers;
use self::reader::{Needs, Reader};
use self::sections::Sections;
use crate::secret::Secret;

/// What the worker needs: everything.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Trackfinity's address and key.
    pub trackfinity: Trackfinity,
    /// RabbitMQ's address.
    pub broker: Broker,
    /// What every exchange and queue name starts with.
    pub topology_prefix: TopologyPrefix,
    /// How much at once, how fast, and how long a shutdown may take.
    pub worker: Worker,
    /// How often and how long a request is tried.
    pub retry: Retry,
    /// When calls stop, and how they are tried again.
    pub pause: Pause,
    /// How outcomes are published.
    pub results: Results,
    /// Health and metrics.
    pub ops: Ops,
    /// The page and API of the dead letters.
    pub admin: Admin,
    described: Vec<(String, String, String)>,
}

/// What commands need that talk to RabbitMQ alone, such as `publish` and `dead-letters`.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// RabbitMQ's address.
    pub broker: Broker,
    /// What every exchange and queue name starts with.
    pub topology_prefix: TopologyPrefix,
    /// How outcomes are published.
    pub results: Results,
    /// Where every change to the dead letters is written down; none is stderr.
    pub audit_log: Option<PathBuf>,
}

/// `[trackfinity]`
#[derive(Clone, Debug)]
pub struct Trackfinity {
    /// The install's address.
    pub base_url: BaseUrl,
    /// The header `api-key`: visible ASCII.
    pub api_key: Secret,
    /// The header `api-username`: visible ASCII.
    pub api_username: Secret,
    /// The longest one call may take, from connecting to the last body byte: 1 ms to 15 min.
    pub timeout: Duration,
    /// The longest connecting may take: 1 ms to 15 min.
    pub connect_timeout: Duration,
}

/// `[broker]`
#[derive(Clone, Debug)]
pub struct Broker {
    /// The URLs with their passwords, separated by commas, for [`BrokerUrls::parse`]; see [`Broker::uris`].
    pub urls: Secret,
    /// Whether to declare the topology, or only to check that it exists.
    pub declare: bool,
}

/// `[worker]`
#[derive(Clone, Debug)]
pub struct Worker {
    /// Requests in flight at once, at most.
    pub concurrency: Concurrency,
    /// Calls to Trackfinity, at most.
    pub rate_limit: Option<RateLimit>,
    /// How long calls in flight may run on after SIGTERM: 0 s to 1 h.
    pub drain_timeout: Duration,
}

/// `[retry]`
#[derive(Clone, Debug)]
pub struct Retry {
    /// Attempts, the first included.
    pub max_attempts: NonZeroU32,
    /// The longest wait between two attempts: 1 s to 1024 s.
    pub max_delay: Duration,
    /// A request first received longer ago is not tried again: 1 s to 365 days.
    pub give_up_after: Duration,
}

/// `[pause]`
#[derive(Clone, Debug)]
pub struct Pause {
    /// Transient failures in a row that open the pause.
    pub after_failures: NonZeroU32,
    /// The wait before the first probe: 1 ms to 1 h.
    pub probe_delay: Duration,
    /// The longest wait between probes: `probe_delay` to 1 h.
    pub probe_max_delay: Duration,
}

/// `[results]`
#[derive(Clone, Debug)]
pub struct Results {
    /// Whether an outcome that no queue receives counts as a failed publish.
    pub require_subscriber: bool,
    /// What a `reply_to` may start with, besides RabbitMQ's own reply queues. None of them is empty.
    pub reply_to_prefixes: Vec<String>,
}

/// `[ops]`
#[derive(Clone, Debug)]
pub struct Ops {
    /// Where health and metrics are served, if at all.
    pub listen: Option<SocketAddr>,
}

/// `[admin]`. If `listen` is not a loopback address, both tokens are there.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where the page and its API are served, if at all.
    pub listen: Option<SocketAddr>,
    /// Lets somebody look.
    pub viewer_token: Option<Secret>,
    /// Lets somebody replay and discard, too.
    pub operator_token: Option<Secret>,
    /// Names the page is asked for by, besides its own address and `localhost`; in lower case.
    pub allowed_hosts: Vec<String>,
    /// The address of a trace, with `{trace_id}` in it.
    pub trace_url: Option<String>,
    /// Where every change to the dead letters is written down; none is stderr.
    pub audit_log: Option<PathBuf>,
}

impl Settings {
    /// Loads everything. `files` in the order of the command line; `environment` as [`environment`] gives it.
    ///
    /// # Errors
    /// All that is wrong, not the first alone.
    pub fn load(
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let mut reader = Reader::new(Layers::read(files, environment), Needs::Worker);
        let sections = Sections::read(&mut reader);
        reader.finish(|described| sections.worker(described))
    }

    /// Each key, its value for people (secrets as `***` or `file PATH`), and where it came from (empty if not set).
    pub fn describe(&self) -> Vec<(String, String, String)> {
        self.described.clone()
    }

    /// All files that secrets are read from, for [`crate::secret::watch()`].
    pub fn secrets(&self) -> Vec<Secret> {
        let required = [&self.trackfinity.api_key, &self.trackfinity.api_username, &self.broker.urls];
        let optional = [&self.admin.viewer_token, &self.admin.operator_token];
        let all = required.into_iter().chain(optional.into_iter().flatten());
        all.filter(|secret| secret.path().is_some()).cloned().collect()
    }
}

impl BrokerSettings {
    /// Loads what is needed for RabbitMQ. Nothing about Trackfinity and no admin token has to be there, and their files
    /// are not opened; what is there is checked all the same.
    ///
    /// # Errors
    /// All that is wrong, not the first alone.
    pub fn load(
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let mut reader = Reader::new(Layers::read(files, environment), Needs::BrokerOnly);
        let sections = Sections::read(&mut reader);
        reader.finish(|_| sections.broker_only())
    }
}

impl From<&Settings> for BrokerSettings {
    fn from(settings: &Settings) -> Self {
        Self {
            broker: settings.broker.clone(),
            topology_prefix: settings.topology_prefix.clone(),
            results: settings.results.clone(),
            audit_log: settings.admin.audit_log.clone(),
        }
    }
}

impl Broker {
    /// The URLs to try, in turn, as the secret is now.
    ///
    /// # Errors
    /// None to be expected: the secret's value was checked when it was read.
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

/// The variables of this process for [`Settings::load`]. Where one is not UTF-8 it gets U+FFFD, which `load` reports if
/// the variable is one of ours.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}
