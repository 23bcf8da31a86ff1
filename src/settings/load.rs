//! Loads the settings: of the worker, or of a command that talks to RabbitMQ alone.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    faults::Faults,
    layers::Layers,
    reader::{Described, Needs, Reader},
    sections::{Broker, Console, Gateway, History, Log, Ops, Results, Topology, Trackfinity, Worker},
    values::TopologyPrefix,
};
use crate::{breaker::BreakerLimits, policy::RetryLimits, secret::Secret};

/// What the worker needs: nothing about the gateway and the console.
#[derive(Clone, Debug)]
pub struct Settings {
    pub trackfinity: Trackfinity,
    pub rabbitmq: BrokerSettings,
    pub worker: Worker,
    pub retry: RetryLimits,
    pub pause: BreakerLimits,
    pub log: Log,
    pub ops: Ops,
    described: Described,
}

/// What commands need that talk to RabbitMQ alone, such as `publish` and `dead-letters`.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    pub broker: Broker,
    pub topology_prefix: TopologyPrefix,
    pub results: Results,
    pub history: History,
    /// See [`Console::audit_log`].
    pub audit_log: Option<PathBuf>,
}

/// What the gateway needs: nothing about Trackfinity, the worker and the console.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    pub broker: Broker,
    pub topology_prefix: TopologyPrefix,
    pub gateway: Gateway,
    pub history: History,
    pub ops: Ops,
    described: Described,
}

/// What the console needs: nothing about Trackfinity, the worker and the gateway.
#[derive(Clone, Debug)]
pub struct ConsoleSettings {
    pub rabbitmq: BrokerSettings,
    pub console: Console,
    pub ops: Ops,
    described: Described,
}

/// Where gateway and console serve health and metrics if the settings do not say it: the worker's default
/// would collide with a worker on the same machine.
const GATEWAY_OPS: SocketAddr = local(9465);
const CONSOLE_OPS: SocketAddr = local(9466);

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

const WORKER: Needs = Needs { optional: &[], unread: &["gateway", "console"], default_ops: None };
const COMMAND: Needs =
    Needs { optional: &["trackfinity", "console"], unread: &["gateway"], default_ops: None };
const GATEWAY: Needs = Needs {
    optional: &[],
    unread: &["trackfinity", "worker", "retry", "pause", "log", "results", "console"],
    default_ops: Some(GATEWAY_OPS),
};
const CONSOLE: Needs = Needs {
    optional: &[],
    unread: &["trackfinity", "worker", "retry", "pause", "log", "gateway"],
    default_ops: Some(CONSOLE_OPS),
};

impl Settings {
    /// Loads what the worker needs. `files` in the order of the command line; `environment` as [`environment`]
    /// gives it.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first fault.
    pub fn load(
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let mut reader = Reader::new(Layers::read(files, environment), WORKER);
        let settings = read(&mut reader).worker;
        reader.finish(settings)
    }

    /// Each key, its value for people (secrets as `***` or `file PATH`), and where it came from
    /// (empty if not set).
    pub fn describe(&self) -> Vec<(String, String, String)> {
        self.described.clone()
    }

    /// All files that are read again while the program runs, for [`crate::secret::watch()`].
    pub fn secrets(&self) -> Vec<Secret> {
        let required = [&self.trackfinity.api_key, &self.trackfinity.api_username];
        let optional = [&self.trackfinity.ca_file, &self.trackfinity.proxy];
        let own = required.into_iter().chain(optional.into_iter().flatten());
        in_files(own.chain(self.rabbitmq.broker.files()))
    }
}

impl BrokerSettings {
    /// Loads what is needed for RabbitMQ. The settings of Trackfinity and the console's tokens may be
    /// missing, and their files are not opened. What is there is checked all the same.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first fault.
    pub fn load(
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        Self::load_described(files, environment).map(|(settings, _)| settings)
    }

    /// As [`load`](Self::load); also describes what was read, as [`Settings::describe`] does.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first fault.
    pub fn load_described(
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Described), Faults> {
        let mut reader = Reader::new(Layers::read(files, environment), COMMAND);
        let settings = read(&mut reader).command;
        let is_read = |(key, ..): &(String, String, String)| {
            ["broker.", "topology.", "results.", "history.", "console.audit_log"]
                .iter()
                .any(|start| key.starts_with(start))
        };
        let described = reader.described.iter().filter(|entry| is_read(entry)).cloned().collect();
        reader.finish(settings.map(|settings| (settings, described)))
    }
}

impl GatewaySettings {
    /// Loads what the gateway needs. Other settings may be there, and are not read: the gateway must not
    /// hold Trackfinity's key.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first fault.
    pub fn load(
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let mut reader = Reader::new(Layers::read(files, environment), GATEWAY);
        let settings = read(&mut reader).gateway;
        reader.finish(settings)
    }

    /// See [`Settings::describe`].
    pub fn describe(&self) -> Vec<(String, String, String)> {
        self.described.clone()
    }

    /// See [`Settings::secrets`].
    pub fn secrets(&self) -> Vec<Secret> {
        in_files(self.broker.files())
    }
}

impl ConsoleSettings {
    /// Loads what the console needs. Other settings may be there, and are not read: the console must not
    /// hold Trackfinity's key.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first fault.
    pub fn load(
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let mut reader = Reader::new(Layers::read(files, environment), CONSOLE);
        let settings = read(&mut reader).console;
        reader.finish(settings)
    }

    /// See [`Settings::describe`].
    pub fn describe(&self) -> Vec<(String, String, String)> {
        self.described.clone()
    }

    /// See [`Settings::secrets`].
    pub fn secrets(&self) -> Vec<Secret> {
        let tokens = [&self.console.viewer_token, &self.console.operator_token];
        in_files(tokens.into_iter().flatten().chain(self.rabbitmq.broker.files()))
    }
}

/// Those secrets that are read from files.
fn in_files<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Vec<Secret> {
    secrets.into_iter().filter(|secret| secret.path().is_some()).cloned().collect()
}

/// The settings of each process and command, as far as they could be read.
struct All {
    worker: Option<Settings>,
    command: Option<BrokerSettings>,
    gateway: Option<GatewaySettings>,
    console: Option<ConsoleSettings>,
}

/// Reads all sections that the command needs, so that every command reports the same faults.
fn read(reader: &mut Reader) -> All {
    let trackfinity = Trackfinity::read(reader);
    let broker = Broker::read(reader);
    let topology_prefix = Topology::read(reader).map(|topology| topology.prefix);
    let worker = Worker::read(reader);
    let retry = RetryLimits::read(reader);
    let pause = BreakerLimits::read(reader);
    let history = History::read(reader);
    let log = Log::read(reader);
    let results = Results::read(reader);
    let mut ops = Ops::read(reader);
    if let (Some(ops), Some(address)) = (&mut ops, reader.default_ops())
        && reader.replace_default("ops.listen", &address.to_string())
    {
        ops.listen = Some(address);
    }
    let gateway = Gateway::read(reader);
    let console = Console::read(reader);
    let address = ops.as_ref().and_then(|ops| ops.listen).filter(|address| address.port() != 0);
    for (key, own) in [
        ("console.listen", console.as_ref().map(|console| console.listen)),
        ("gateway.listen", gateway.as_ref().map(|gateway| gateway.listen)),
    ] {
        if address.is_some() && address == own && reader.needs(key) {
            reader.fault(key, "is the address of ops.listen, too");
        }
    }
    let for_gateway = (|| {
        Some(GatewaySettings {
            broker: broker.clone()?,
            topology_prefix: topology_prefix.clone()?,
            gateway: gateway?,
            history: history.clone()?,
            ops: ops.clone()?,
            described: reader.described.clone(),
        })
    })();
    let described = reader.described.clone();
    let rabbitmq = (|| {
        Some(BrokerSettings {
            broker: broker?,
            topology_prefix: topology_prefix?,
            results: results?,
            history: history?,
            audit_log: console.as_ref().and_then(|console| console.audit_log.clone()),
        })
    })();
    let for_console = (|| {
        Some(ConsoleSettings {
            rabbitmq: rabbitmq.clone()?,
            console: console?,
            ops: ops.clone()?,
            described: described.clone(),
        })
    })();
    let worker = (|| {
        Some(Settings {
            trackfinity: trackfinity?,
            rabbitmq: rabbitmq.clone()?,
            worker: worker?,
            retry: retry?,
            pause: pause?,
            log: log?,
            ops: ops?,
            described,
        })
    })();
    All { worker, command: rabbitmq, gateway: for_gateway, console: for_console }
}

/// The variables of this process for [`Settings::load`]. In a variable that is not UTF-8, U+FFFD
/// replaces the invalid bytes; `load` reports it if the variable is one of ours.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}
