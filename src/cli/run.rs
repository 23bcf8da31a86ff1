//! `unlocker run`

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Failure;
use crate::{
    admin,
    ops::{self, EventLoopMonitor, WorkerHandles},
    secret,
    settings::{Settings, environment},
    telemetry::Telemetry,
    worker::Worker,
};

/// How long the last spans and metrics may take to be sent.
const TELEMETRY_FLUSH: Duration = Duration::from_secs(2);
/// How often the secrets' files are looked at.
const SECRETS_INTERVAL: Duration = Duration::from_secs(2);

pub(super) async fn run(files: &[PathBuf]) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let settings = Settings::load(files, environment())?;
    let telemetry = Telemetry::from_environment().map_err(anyhow::Error::from)?;
    let stop = CancellationToken::new();
    let secrets = settings.secrets();
    let ops = settings.ops.listen;
    let page = settings.clone();
    let worker = Worker::new(settings, telemetry.clone(), stop.clone()).map_err(anyhow::Error::from)?;
    let over = CancellationToken::new();
    let background = TaskTracker::new();
    background.spawn(secret::watch(secrets, SECRETS_INTERVAL, over.clone()));
    let handles = WorkerHandles {
        status: worker.status(),
        publish_health: worker.publish_health(),
        breaker: worker.breaker(),
        queues: worker.queues(),
        metrics: telemetry.metrics.clone(),
        event_loop: EventLoopMonitor::new(),
    };
    if telemetry.metrics.are_sent() {
        background.spawn(ops::observe(handles.clone(), over.clone()));
    }
    if let Some(address) = ops {
        background.spawn(handles.event_loop.clone().run(over.clone()));
        let bound = ops::serve(address, handles.clone()).map_err(anyhow::Error::from)?;
        tracing::info!(address = %bound, "health and metrics are served");
    }
    let page = admin::serve(&page, handles, stop.clone()).map_err(anyhow::Error::from)?;
    if let Some(page) = &page {
        tracing::info!(address = %page.address, "the dead-letter page is served");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    let worker = tokio::spawn(worker.run());
    signals.stop_or_end(&stop, worker).await?;
    // Where the worker ended by itself, nobody was told yet.
    stop.cancel();
    if let Some(page) = page {
        page.ended().await;
    }
    over.cancel();
    background.close();
    background.wait().await;
    telemetry.shutdown(TELEMETRY_FLUSH).await;
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

    /// Waits for the worker's end; the first signal asks for it, the second does not wait for it.
    async fn stop_or_end(&mut self, stop: &CancellationToken, worker: JoinHandle<()>) -> Result<(), Failure> {
        tokio::pin!(worker);
        for patience in [true, false] {
            tokio::select! {
                ended = &mut worker => return Ok(ended.context("the worker panicked")?),
                () = self.next() => {
                    if !patience {
                        break;
                    }
                    stop.cancel();
                }
            }
        }
        tracing::warn!("told to stop twice: what is under way stays in the queue");
        Err(Failure::Reported)
    }

    /// Waits for the next of either.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _signal = self.terminate.recv() => {}
            _signal = self.interrupt.recv() => {}
        }
    }
}
