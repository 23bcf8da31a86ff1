//! `unlocker gateway`: takes requests over HTTP and publishes them.

use std::{path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{failure::Failure, run::Signals};
use crate::{
    gateway::Gateway,
    secret,
    settings::{GatewaySettings, environment},
    telemetry::GatewayTelemetry,
};

/// How long to wait at the end until the last spans and metrics are sent.
const TELEMETRY_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the file of RabbitMQ's URL is read again.
const SECRETS_INTERVAL: Duration = Duration::from_secs(2);

pub(super) async fn gateway(files: &[PathBuf]) -> Result<(), Failure> {
    let settings = GatewaySettings::load(files, environment())?;
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let telemetry = GatewayTelemetry::from_environment().map_err(anyhow::Error::from)?;
    let gateway = Gateway::new(&settings, telemetry.clone()).map_err(anyhow::Error::from)?;
    tracing::info!(
        event = "started",
        version = env!("CARGO_PKG_VERSION"),
        address = %gateway.address,
        "the gateway is started"
    );
    let stop = CancellationToken::new();
    tokio::spawn(secret::watch(settings.secrets(), SECRETS_INTERVAL, stop.clone()));
    let gateway = tokio::spawn(gateway.run(stop.clone()));
    let ended = signals.stop_or_end(&stop, gateway).await?;
    telemetry.shutdown(TELEMETRY_FLUSH_TIMEOUT).await;
    tracing::info!(event = "stopped", "stopped");
    Ok(ended.map_err(anyhow::Error::from)?)
}
