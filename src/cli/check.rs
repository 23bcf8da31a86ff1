//! `unlocker check`: one line per check. Writes nothing.

use std::path::PathBuf;

use super::{failure::Failure, print::print};
use crate::{
    breaker::Cause,
    broker::{ConnectError, Topology, TopologyError, connection, topology::Entity},
    policy::{Reason, Reply},
    settings::{Settings, environment},
    trackfinity::{Client, Endpoint},
};

/// The results of the checks so far.
#[derive(Default)]
struct Findings {
    failed: bool,
}

impl Findings {
    fn pass(&mut self, what: &str) -> Result<(), Failure> {
        print(format_args!("ok    {what}"))
    }

    fn fail(&mut self, what: &str) -> Result<(), Failure> {
        self.failed = true;
        print(format_args!("FAIL  {what}"))
    }
}

pub(super) async fn check(files: &[PathBuf]) -> Result<(), Failure> {
    let settings = Settings::load(files, environment())?;
    for (key, value, source) in settings.describe() {
        print(format_args!(
            "      {key} = {value}{}",
            if source.is_empty() { source } else { format!("  ({source})") }
        ))?;
    }
    let mut findings = Findings::default();
    findings.pass("settings are valid")?;
    let unreachable = check_broker(&settings, &mut findings).await?;
    check_trackfinity(&settings, &mut findings).await?;
    match unreachable {
        Some(error) => Err(error.into()),
        None if findings.failed => Err(Failure::Reported),
        None => Ok(()),
    }
}

async fn check_broker(settings: &Settings, findings: &mut Findings) -> Result<Option<ConnectError>, Failure> {
    let urls = settings.rabbitmq.broker.uris().map_err(anyhow::Error::from)?;
    let connection = match connection::connect(&urls, "check").await {
        Ok(connection) => connection,
        Err(error) => {
            findings.fail(&format!("RabbitMQ: {error}"))?;
            return Ok(Some(error));
        }
    };
    findings.pass(&format!("RabbitMQ: connected to {}", settings.rabbitmq.broker))?;
    let topology = Topology::new(&settings.rabbitmq.topology_prefix);
    let compared =
        topology.compare(&connection, settings.rabbitmq.broker.declare).await.map_err(anyhow::Error::from)?;
    for (entity, result) in compared {
        // AMQP has no command to check a binding.
        if matches!(entity, Entity::Binding { .. }) {
            continue;
        }
        match result {
            Ok(()) => findings.pass(&entity.to_string())?,
            Err(TopologyError::Missing { .. }) if settings.rabbitmq.broker.declare => {
                findings.pass(&format!("{entity}: does not exist yet; `unlocker run` declares it"))?;
            }
            // The missing rights below report it.
            Err(TopologyError::Refused { .. }) => {}
            Err(error) => findings.fail(&error.to_string())?,
        }
    }
    let rights = topology.rights(settings.rabbitmq.broker.declare, settings.admin.listen.is_some());
    let missing = topology.missing_rights(&connection, rights).await.map_err(anyhow::Error::from)?;
    for right in &missing {
        findings.fail(&format!("RabbitMQ: the user has no {right}"))?;
    }
    if missing.is_empty() {
        findings.pass("RabbitMQ: the user has all rights the worker needs")?;
    }
    connection.close().await;
    Ok(None)
}

async fn check_trackfinity(settings: &Settings, findings: &mut Findings) -> Result<(), Failure> {
    let client = Client::new(&settings.trackfinity).map_err(anyhow::Error::from)?;
    let url = settings.trackfinity.base_url.endpoint(Endpoint::Ping.path());
    match client.ping(None).await {
        Reply::Response(answer) if (200..=299).contains(&answer.status) => {
            findings.pass(&format!("Trackfinity: {url} answered {}", answer.status))?;
        }
        Reply::Response(answer) => {
            let advice = match answer.status {
                500..=599 => "try again later",
                _ => Cause::EndpointFault(Reason::Http(answer.status)).advice(),
            };
            findings.fail(&format!("Trackfinity: {url} answered {}: {advice}", answer.status))?;
        }
        Reply::Timeout => findings.fail(&format!("Trackfinity: {url}: no answer in time"))?,
        Reply::Connection(error) => findings.fail(&format!("Trackfinity: {url}: {error}"))?,
    }
    Ok(())
}
