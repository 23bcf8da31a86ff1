//! RabbitMQ: its addresses, the topology, and the rights of the user.

use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};

use super::{
    args::CheckArgs,
    grant::{Grant, word},
    login, probe,
    report::{Check, Report},
};
use crate::{
    broker::{
        ConnectError, Connector, Topology, TopologyError,
        connect_error::ConnectCause,
        connection::{self, Connection},
        rights::Role,
        topology::Entity,
    },
    cli::failure::Failure,
    settings::{Broker, History, TopologyPrefix},
};

/// How long RabbitMQ may take for the topology, and for the rights.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the canaries may take beyond their own limit: to look for a worker, and for what went wrong.
const PROBE_MARGIN: Duration = Duration::from_secs(10);
/// How often to look whether RabbitMQ blocks the connection.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(100);

pub(super) async fn check(
    broker: &Broker,
    prefix: &TopologyPrefix,
    history: &History,
    role: Role,
    args: &CheckArgs,
    report: &mut Report,
) -> Result<(), Failure> {
    let connector = Connector::new(broker);
    let urls = connector.urls().await?;
    let topology = Topology::new(prefix).with_history(history);
    login::check(&connector, &urls, report)?;
    let (mut connected, mut is_unreachable) = (None, true);
    for url in &urls {
        let grant = Grant { topology: &topology, role, connector: &connector, url };
        match connector.connect_to(url, "check").await {
            Ok(connection) => {
                report.add(reached(url))?;
                match connected {
                    None => connected = Some((connection, grant)),
                    Some(_) => connection.close().await,
                }
            }
            Err(error) => {
                is_unreachable &= error.is_unreachable();
                report.add(unreached(url, &error, &grant))?;
            }
        }
    }
    let Some((connection, grant)) = connected else {
        if is_unreachable {
            report.set_unreachable();
        }
        return Ok(());
    };
    let checked = check_connected(&connection, &grant, broker.declare, args, report);
    let checked = checked.await;
    connection.close().await;
    match checked? {
        None => Ok(()),
        Some(stalled) => report.add(stalled.check()),
    }
}

/// All checks on an open connection, or why RabbitMQ did not answer one of them.
async fn check_connected(
    connection: &Connection,
    grant: &Grant<'_>,
    declare: bool,
    args: &CheckArgs,
    report: &mut Report,
) -> Result<Option<Stalled>, Failure> {
    let &Grant { topology, role, .. } = grant;
    let compared = check_topology(connection, topology, role, declare, report);
    if let Err(stalled) = answered(connection, "the topology", STEP_TIMEOUT, compared).await? {
        return Ok(Some(stalled));
    }
    // To see who may write, it publishes, so that RabbitMQ says here whether it blocks that.
    let asked = check_rights(connection, grant, report);
    if let Err(stalled) = answered(connection, "the rights", STEP_TIMEOUT, asked).await? {
        return Ok(Some(stalled));
    }
    if args.probe {
        let with_retry = matches!(role, Role::Worker { .. });
        let probed = probe::probe(connection, topology, with_retry, args.timeout, report);
        if let Err(stalled) =
            answered(connection, "the canaries", args.timeout + PROBE_MARGIN, probed).await?
        {
            return Ok(Some(stalled));
        }
    }
    Ok(None)
}

/// Why RabbitMQ did not answer.
#[derive(Clone, Copy, Debug)]
enum Stalled {
    /// It reads nothing more from a connection that has published, as it is short of memory or disk.
    Blocked,
    /// No answer in this time.
    Silent { step: &'static str, limit: Duration },
}

impl Stalled {
    fn check(self) -> Check {
        match self {
            Self::Blocked => Check::fail(
                "RabbitMQ's alarms",
                "RabbitMQ is short of memory or disk, and blocks publishing: requests and outcomes wait, and some checks \
                 could not be made",
                "`rabbitmq-diagnostics alarms` names the alarm; free memory or disk, or raise the limit, and check again",
            ),
            Self::Silent { step, limit } => Check::fail(
                "RabbitMQ's answers",
                format!("no answer about {step} within {}", humantime::format_duration(limit)),
                "see RabbitMQ's log, and the state of its nodes",
            ),
        }
    }
}

/// The result of a step, unless RabbitMQ blocks the connection or does not answer in time.
async fn answered<T>(
    connection: &Connection,
    step: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<Result<T, Stalled>, Failure> {
    let blocked = async {
        while !connection.status().blocked() {
            tokio::time::sleep(BLOCKED_INTERVAL).await;
        }
    };
    tokio::select! {
        biased;
        answer = answer => match connection.status().blocked() {
            true => Ok(Err(Stalled::Blocked)),
            false => answer.map(Ok),
        },
        () = blocked => Ok(Err(Stalled::Blocked)),
        () = tokio::time::sleep(limit) => Ok(Err(Stalled::Silent { step, limit })),
    }
}

fn name(url: &AMQPUri) -> String {
    format!("RabbitMQ {}", connection::address(url))
}

fn reached(url: &AMQPUri) -> Check {
    let host = url.authority.host.as_str();
    let is_local = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    match url.scheme {
        AMQPScheme::AMQPS => Check::pass(name(url), "connected, with TLS"),
        AMQPScheme::AMQP if is_local => Check::pass(name(url), "connected"),
        AMQPScheme::AMQP => Check::note(
            name(url),
            "connected, without TLS",
            "the password and all requests cross the network in clear text; amqps:// encrypts them",
        ),
    }
}

fn unreached(url: &AMQPUri, error: &ConnectError, grant: &Grant<'_>) -> Check {
    // The name has the address.
    let (detail, remedy) = match error {
        // A user without any permission in a virtual host may not connect to it.
        ConnectError::Failed { cause: ConnectCause::NoAccess { user, vhost }, .. } => {
            (format!("user {user} has no access to virtual host {vhost}"), grant.all(Some(user)))
        }
        ConnectError::Failed { cause: cause @ ConnectCause::NoAccessByToken { .. }, .. } => {
            (cause.to_string(), grant.all(None))
        }
        ConnectError::Failed { cause: ConnectCause::NoVhost(vhost), .. } => (
            format!("there is no virtual host {vhost}"),
            format!("rabbitmqctl add_vhost {}, or name another one in broker.url", word(vhost)),
        ),
        ConnectError::Failed { cause, .. } => (cause.to_string(), cause.remedy()),
        ConnectError::Timeout { limit, .. } => (
            format!("no answer within {:.1} s", limit.as_secs_f64()),
            "check host and port, and whether a firewall is in the way".to_owned(),
        ),
        error => (error.to_string(), "correct broker.url".to_owned()),
    };
    Check::fail(name(url), detail, remedy)
}

/// Whether a process in this role needs the entity to exist. It may not see the others.
fn needs(role: Role, topology: &Topology, entity: &Entity) -> bool {
    match (role, entity) {
        // AMQP has no command to check a binding.
        (_, Entity::Binding { .. }) => false,
        (Role::Worker { .. }, _) => true,
        (_, Entity::Stream { .. }) => true,
        (Role::Producer, entity) => entity.name() == topology.exchange(),
        (Role::Operator, Entity::Queue { name, .. }) => *name == topology.dead(),
        (Role::Operator, Entity::Exchange { name, .. }) => {
            [topology.exchange(), &topology.results()].contains(&name.as_str())
        }
    }
}

async fn check_topology(
    connection: &Connection,
    topology: &Topology,
    role: Role,
    declare: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    let declares = declare && matches!(role, Role::Worker { .. });
    let entities = topology.entities().into_iter().filter(|entity| needs(role, topology, entity)).collect();
    let compared = Topology::compare(connection, entities, declares).await.map_err(anyhow::Error::from)?;
    for (entity, result) in compared {
        let name = entity.to_string();
        report.add(match result {
            Ok(()) if declares => Check::pass(name, "exists as it should be"),
            Ok(()) => Check::pass(name, "exists"),
            Err(TopologyError::Missing { .. }) if declares => {
                Check::pass(name, "does not exist yet; `unlocker run` declares it")
            }
            Err(TopologyError::Missing { .. }) if matches!(role, Role::Worker { .. }) => {
                Check::fail(name, "does not exist", "declare it, or set broker.declare = true")
            }
            Err(TopologyError::Missing { .. }) if matches!(entity, Entity::Stream { .. }) => Check::fail(
                name,
                "does not exist, so no outcome is kept",
                "start a worker with history.enabled = true, which declares it; or set history.enabled = false here",
            ),
            Err(TopologyError::Missing { .. }) => Check::fail(
                name,
                "does not exist",
                "start a worker, which declares it; or check topology.prefix and the virtual host in broker.url",
            ),
            Err(TopologyError::Differs { broker, .. }) if is_retention(&entity, &broker) => Check::note(
                name,
                format!("exists, and was declared with another retention: {broker}"),
                "only a policy of RabbitMQ changes how long it keeps outcomes: see docs/history.md",
            ),
            Err(TopologyError::Differs { broker, .. }) => Check::fail(
                name,
                format!("exists with other arguments: {broker}"),
                "this program never changes or deletes it: move its messages and delete it, and `unlocker run` \
                 declares it again; or choose another topology.prefix",
            ),
            // The rights below report it.
            Err(TopologyError::Refused { .. }) => continue,
            Err(error) => Check::fail(name, error.to_string(), "see RabbitMQ's log"),
        })?;
    }
    let is_unexpected = matches!(role, Role::Worker { .. }) && !topology.keeps_history();
    // A user without any right on it may not see it.
    if is_unexpected && matches!(topology.has_history(connection).await, Ok(true)) {
        report.add(Check::note(
            topology.history_entity().to_string(),
            "exists, and keeps outcomes, although history.enabled is false",
            "set history.enabled = true to check it and to find them, or delete it if nobody needs it",
        ))?;
    }
    Ok(())
}

/// Whether a stream differs only in how long it keeps outcomes, which must not stop a worker.
fn is_retention(entity: &Entity, broker: &str) -> bool {
    matches!(entity, Entity::Stream { .. }) && !broker.contains("'x-queue-type'")
}

async fn check_rights(
    connection: &Connection,
    grant: &Grant<'_>,
    report: &mut Report,
) -> Result<(), Failure> {
    let &Grant { topology, role, .. } = grant;
    let rights = topology.rights(role);
    let missing = topology.missing_rights(connection, rights).await.map_err(anyhow::Error::from)?;
    let name = "rights in RabbitMQ";
    if missing.is_empty() {
        let needed = match role {
            Role::Worker { .. } => "the user has all that the worker needs",
            Role::Producer => "the user has all that a producer needs",
            Role::Operator => "the user has all that an operator needs",
        };
        return report.add(Check::pass(name, needed));
    }
    let lines: Vec<_> = missing.iter().map(|right| format!("- {right}")).collect();
    let detail = format!("the user lacks {}:\n{}", missing.len(), lines.join("\n"));
    report.add(Check::fail(name, detail, grant.these(&missing)))
}
