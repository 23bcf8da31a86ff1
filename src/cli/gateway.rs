//! `unlocker gateway`: takes requests over HTTP and publishes them.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::{
    failure::Failure,
    run::{SECRETS_INTERVAL, Signals, TELEMETRY_FLUSH_TIMEOUT},
};
use crate::{
    fips,
    gateway::Gateway,
    secret,
    settings::{GatewaySettings, environment},
    telemetry::GatewayTelemetry,
};

pub(super) async fn gateway(files: &[PathBuf]) -> Result<(), Failure> {
    let settings = GatewaySettings::load(files, environment())?;
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let telemetry = GatewayTelemetry::from_environment().map_err(anyhow::Error::from)?;
    let gateway = Gateway::new(&settings, telemetry.clone())?;
    tracing::info!(
        event = "started",
        version = env!("CARGO_PKG_VERSION"),
        fips = fips::IS_ON.then_some(true),
        address = %gateway.address,
        "the gateway is started"
    );
    let stop = CancellationToken::new();
    tokio::spawn(secret::watch(settings.secrets(), SECRETS_INTERVAL, stop.clone()));
    let gateway = tokio::spawn(gateway.run(stop.clone()));
    let ended = signals.stop_or_end(&stop, gateway).await?;
    telemetry.shutdown(TELEMETRY_FLUSH_TIMEOUT).await;
    tracing::info!(event = "stopped", "stopped");
    Ok(ended?)
}
