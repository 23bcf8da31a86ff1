//! `unlocker check`: one line a check, nothing written.

use std::path::PathBuf;

use super::{Failure, print};
use crate::{
    breaker::Cause,
    broker::{ConnectError, Topology, TopologyError, connection, topology::Entity},
    policy::{Reason, Reply},
    settings::{Settings, environment},
    trackfinity::Client,
};

/// What the checks found so far.
#[derive(Default)]
struct Findings {
    failed: bool,
}

impl Findings {
    fn good(&mut self, what: &str) -> Result<(), Failure> {
        print(format_args!("ok    {what}"))
    }

    fn bad(&mut self, what: &str) -> Result<(), Failure> {
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
    findings.good("settings are valid")?;
    let unreachable = check_broker(&settings, &mut findings).await?;
    check_trackfinity(&settings, &mut findings).await?;
    match unreachable {
        Some(error) => Err(error.into()),
        None if findings.failed => Err(Failure::Reported),
        None => Ok(()),
    }
}

async fn check_broker(settings: &Settings, findings: &mut Findings) -> Result<Option<ConnectError>, Failure> {
    let urls = settings.broker.uris().map_err(anyhow::Error::from)?;
    let connection = match connection::connect(&urls, "check").await {
        Ok(connection) => connection,
        Err(error) => {
            findings.bad(&format!("RabbitMQ: {error}"))?;
            return Ok(Some(error));
        }
    };
    findings.good(&format!("RabbitMQ: connected to {}", settings.broker))?;
    let topology = Topology::new(&settings.topology_prefix);
    let compared =
        topology.compare(&connection, settings.broker.declare).await.map_err(anyhow::Error::from)?;
    for (entity, result) in compared {
        // AMQP has no way to ask for a binding.
        if matches!(entity, Entity::Binding { .. }) {
            continue;
        }
        match result {
            Ok(()) => findings.good(&entity.to_string())?,
            Err(TopologyError::Missing { .. }) if settings.broker.declare => {
                findings.good(&format!("{entity}: does not exist yet; `unlocker run` declares it"))?;
            }
            // It stands among the missing rights.
            Err(TopologyError::Refused { .. }) => {}
            Err(error) => findings.bad(&error.to_string())?,
        }
    }
    let rights = topology.rights(settings.broker.declare, settings.admin.listen.is_some());
    let missing = topology.missing_rights(&connection, rights).await.map_err(anyhow::Error::from)?;
    for right in &missing {
        findings.bad(&format!("RabbitMQ grants the user no {right}"))?;
    }
    if missing.is_empty() {
        findings.good("RabbitMQ: the user has all rights the worker needs")?;
    }
    connection.close().await;
    Ok(None)
}

async fn check_trackfinity(settings: &Settings, findings: &mut Findings) -> Result<(), Failure> {
    let client = Client::new(&settings.trackfinity).map_err(anyhow::Error::from)?;
    let url = settings.trackfinity.base_url.ping_url();
    match client.ping(None).await {
        Reply::Response(answer) if (200..=299).contains(&answer.status) => {
            findings.good(&format!("Trackfinity: {url} answered {}", answer.status))?;
        }
        Reply::Response(answer) => {
            let advice = match answer.status {
                500..=599 => "try again later",
                _ => Cause::EndpointFault(Reason::Http(answer.status)).advice(),
            };
            findings.bad(&format!("Trackfinity: {url} answered {}: {advice}", answer.status))?;
        }
        Reply::Timeout => findings.bad(&format!("Trackfinity: {url}: no answer in time"))?,
        Reply::Connection(error) => findings.bad(&format!("Trackfinity: {url}: {error}"))?,
    }
    Ok(())
}
