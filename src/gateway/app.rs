//! State that all HTTP requests share.

use std::{ops::Deref, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{Clients, history::History, keys::Keys, status::GatewayStatus, waiters::Waiters};
use crate::{
    broker::{Connector, Topology},
    settings::GatewaySettings,
    telemetry::{GatewayTelemetry, LogThrottle},
};

/// How many publishes may wait for their confirms.
const MAX_UNCONFIRMED: usize = 1024;
/// How many batches may be read and taken at once: each holds a body of up to 1 MiB.
const MAX_BATCHES: usize = 8;

/// State that all HTTP requests share. Clones are cheap.
#[derive(Clone, Debug)]
pub(super) struct App(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clients: Clients,
    pub(super) status: GatewayStatus,
    pub(super) keys: Keys,
    pub(super) waiters: Waiters,
    /// `None` if outcomes are not kept.
    pub(super) history: Option<History>,
    pub(super) topology: Topology,
    pub(super) max_wait: Duration,
    pub(super) unconfirmed: Semaphore,
    pub(super) batches: Semaphore,
    /// For batches whose signature is not checked yet, because it covers the body.
    pub(super) unverified_batches: Semaphore,
    pub(super) telemetry: GatewayTelemetry,
    pub(super) throttle: LogThrottle,
}

impl App {
    pub(super) fn new(
        settings: &GatewaySettings,
        clients: Clients,
        telemetry: GatewayTelemetry,
        connector: &Connector,
    ) -> Self {
        let topology = Topology::new(&settings.topology_prefix);
        let history = settings.history.enabled.then(|| History::new(connector.clone(), topology.history()));
        Self(Arc::new(Shared {
            clients,
            status: GatewayStatus::default(),
            keys: Keys::new(),
            waiters: Waiters::default(),
            history,
            topology,
            max_wait: settings.gateway.max_wait,
            unconfirmed: Semaphore::new(MAX_UNCONFIRMED),
            batches: Semaphore::new(MAX_BATCHES),
            unverified_batches: Semaphore::new(MAX_BATCHES),
            telemetry,
            throttle: LogThrottle::default(),
        }))
    }
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
