//! `unlocker run`: starts the worker, and health and metrics.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::failure::Failure;
use crate::{
    fips,
    ops::{self, EventLoopMonitor, WorkerHandles},
    secret,
    settings::{Settings, environment},
    telemetry::Telemetry,
    worker::{StatusHandle, Worker},
};

/// How long to wait at the end until the last spans and metrics are sent.
pub(super) const TELEMETRY_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the secrets' files are read again.
pub(super) const SECRETS_INTERVAL: Duration = Duration::from_secs(2);

pub(super) async fn run(files: &[PathBuf]) -> Result<(), Failure> {
    let settings = Settings::load(files, environment())?;
    run_worker(settings, |_status| ()).await
}

/// Runs the worker until a signal asks it to stop. Hands its state to `started`.
pub(super) async fn run_worker(
    settings: Settings,
    started: impl FnOnce(StatusHandle),
) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let telemetry = Telemetry::from_environment().map_err(anyhow::Error::from)?;
    let ended = serve_until_stopped(settings, &telemetry, &mut signals, started).await;
    // The second signal waits for nothing.
    if !matches!(ended, Err(Failure::Reported)) {
        telemetry.shutdown(TELEMETRY_FLUSH_TIMEOUT).await;
    }
    ended
}

async fn serve_until_stopped(
    settings: Settings,
    telemetry: &Telemetry,
    signals: &mut Signals,
    started: impl FnOnce(StatusHandle),
) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let secrets = settings.secrets();
    let ops = settings.ops.listen;
    let worker = Worker::new(settings, telemetry.clone(), stop.clone()).map_err(anyhow::Error::from)?;
    let route = worker.breaker().route().clone();
    let end_background = CancellationToken::new();
    let background = TaskTracker::new();
    background.spawn(secret::watch(secrets, SECRETS_INTERVAL, end_background.clone()));
    let handles = WorkerHandles {
        status: worker.status(),
        connector: worker.connector(),
        publish_health: worker.publish_health(),
        breaker: worker.breaker(),
        queues: worker.queues(),
        metrics: telemetry.metrics.clone(),
        meters: telemetry.meters.clone(),
        event_loop: EventLoopMonitor::new(),
    };
    if telemetry.meters.are_sent() {
        background.spawn(ops::observe(handles.clone(), end_background.clone()));
    }
    if let Some(address) = ops {
        background.spawn(handles.event_loop.clone().run(end_background.clone()));
        let bound = ops::serve(address, ops::routes(handles)).map_err(anyhow::Error::from)?;
        tracing::info!(event = "ops_served", address = %bound, "health and metrics are served");
    }
    tracing::info!(
        event = "started",
        version = env!("CARGO_PKG_VERSION"),
        fips = fips::IS_ON.then_some(true),
        "started: calls to Trackfinity go {route}"
    );
    started(worker.status());
    let worker = tokio::spawn(worker.run());
    signals.stop_or_end(&stop, worker).await?;
    end_background.cancel();
    background.close();
    background.wait().await;
    Ok(())
}

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits until the process has ended. The first signal asks it to stop; the second
    /// stops waiting.
    pub(super) async fn stop_or_end<T>(
        &mut self,
        stop: &CancellationToken,
        process: JoinHandle<T>,
    ) -> Result<T, Failure> {
        tokio::pin!(process);
        for is_first in [true, false] {
            tokio::select! {
                ended = &mut process => return Ok(ended.context("it panicked: this is a bug, please report it")?),
                () = self.next() => {
                    if !is_first {
                        break;
                    }
                    stop.cancel();
                }
            }
        }
        tracing::warn!(
            event = "stopped_at_once",
            "a second signal came: the program ends at once, and requests in flight stay in the queue"
        );
        Err(Failure::Reported)
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _signal = self.terminate.recv() => {}
            _signal = self.interrupt.recv() => {}
        }
    }
}
