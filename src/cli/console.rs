//! `unlocker console`: the web page and API for dead letters and history.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::{
    failure::Failure,
    run::{SECRETS_INTERVAL, Signals, TELEMETRY_FLUSH_TIMEOUT},
};
use crate::{
    console::Console,
    fips, secret,
    settings::{ConsoleSettings, environment},
    telemetry::ConsoleTelemetry,
};

pub(super) async fn console(files: &[PathBuf]) -> Result<(), Failure> {
    let settings = ConsoleSettings::load(files, environment())?;
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let telemetry = ConsoleTelemetry::from_environment().map_err(anyhow::Error::from)?;
    let console = match Console::new(&settings, telemetry.clone()) {
        Ok(console) => console,
        Err(error) => {
            telemetry.shutdown(TELEMETRY_FLUSH_TIMEOUT).await;
            return Err(anyhow::Error::from(error).into());
        }
    };
    tracing::info!(
        event = "started",
        version = env!("CARGO_PKG_VERSION"),
        fips = fips::IS_ON.then_some(true),
        address = %console.address,
        "the console is started"
    );
    let stop = CancellationToken::new();
    tokio::spawn(secret::watch(settings.secrets(), SECRETS_INTERVAL, stop.clone()));
    let console = tokio::spawn(console.run(stop.clone()));
    let ended = signals.stop_or_end(&stop, console).await?;
    telemetry.shutdown(TELEMETRY_FLUSH_TIMEOUT).await;
    tracing::info!(event = "stopped", "stopped");
    Ok(ended.map_err(anyhow::Error::from)?)
}
