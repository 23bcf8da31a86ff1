//! The state of the worker that serves the page.

use serde::Serialize;
use tokio::time::Instant;

use crate::{breaker::Pause, ops::WorkerHandles};

/// The worker's state, and how many requests are waiting.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct WorkerState {
    /// Whether both connections to RabbitMQ are up.
    pub(super) connected: bool,
    /// Whether the worker consumes requests, even if only for probes.
    pub(super) consuming: bool,
    /// What is wrong with the queues and exchanges, if anything.
    pub(super) topology_problem: Option<String>,
    /// Why RabbitMQ blocks publishing, if it does.
    pub(super) blocked: Option<String>,
    /// Why calls to Trackfinity are paused, if they are.
    pub(super) paused: Option<Paused>,
    /// Requests ready in the queue that all workers share; null while unknown.
    pub(super) backlog: Option<u64>,
    /// Requests that wait for a retry; null while unknown.
    pub(super) waiting_for_retry: Option<u64>,
    /// Requests that this worker has received and not yet acknowledged.
    pub(super) in_flight: u64,
}

/// A pause.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Paused {
    /// `endpoint_fault`, `failures` or `rate_limited`.
    pub(super) cause: &'static str,
    pub(super) reason: String,
    /// What to do about it.
    pub(super) advice: &'static str,
    /// Seconds until the next probe; null while one is running.
    pub(super) next_probe_in_s: Option<u64>,
}

impl WorkerState {
    pub(super) async fn read(handles: &WorkerHandles) -> Self {
        handles.observe().await;
        let status = handles.status.current();
        let [backlog, _dead, waiting_for_retry] = handles.metrics.waiting();
        let paused = |pause: Pause| Paused {
            cause: pause.cause.as_str(),
            reason: pause.cause.to_string(),
            advice: pause.cause.advice(),
            next_probe_in_s: pause.probe_at.map(|at| at.saturating_duration_since(Instant::now()).as_secs()),
        };
        Self {
            connected: status.connected,
            consuming: status.consuming,
            topology_problem: status.topology,
            blocked: status.blocked,
            paused: handles.breaker.pause().map(paused),
            backlog,
            waiting_for_retry,
            in_flight: handles.metrics.in_flight(),
        }
    }

    /// The state in a few words, and whether it is healthy.
    pub(super) fn headline(&self) -> (&'static str, bool) {
        match self {
            Self { connected: false, .. } => ("Not connected to RabbitMQ", false),
            Self { topology_problem: Some(_), .. } => ("Topology is wrong", false),
            Self { paused: Some(_), .. } => ("Calls are paused", false),
            Self { blocked: Some(_), .. } => ("RabbitMQ blocks publishing", false),
            Self { consuming: false, .. } => ("Connected, not consuming yet", false),
            _ => ("Working", true),
        }
    }
}
