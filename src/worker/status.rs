//! The state of the worker, for the health endpoints.

use tokio::sync::watch;

/// The state of the worker's broker session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Whether there is a session: the connection that consumes is open.
    pub connected: bool,
    /// Whether the connection that publishes is open.
    pub publishing: bool,
    /// Whether requests are consumed, for probes or for all calls.
    pub consuming: bool,
    /// What is wrong with the topology, if anything.
    pub topology: Option<String>,
    /// Why RabbitMQ blocks publishing, if it does.
    pub blocked: Option<String>,
}

/// The worker writes its state here, and others read it. Clones share the state.
#[derive(Clone, Debug)]
pub struct StatusHandle(watch::Sender<WorkerStatus>);

impl StatusHandle {
    pub fn new() -> Self {
        Self(watch::Sender::new(WorkerStatus::default()))
    }

    /// The state now.
    pub fn current(&self) -> WorkerStatus {
        self.0.borrow().clone()
    }

    /// Waits until the worker consumes requests, and can publish.
    pub async fn ready(&self) {
        let is_ready = |status: &WorkerStatus| status.consuming && status.publishing;
        // Cannot fail: `self` keeps the sender.
        drop(self.0.subscribe().wait_for(is_ready).await);
    }

    /// Whether RabbitMQ blocks publishing.
    pub(super) fn is_blocked(&self) -> bool {
        self.0.borrow().blocked.is_some()
    }

    /// Whether the last declaration or check of the topology failed.
    pub(super) fn is_topology_wrong(&self) -> bool {
        self.0.borrow().topology.is_some()
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.change(|status| {
            status.connected = connected;
            status.publishing = connected;
            status.consuming = false;
            status.blocked = None;
        });
    }

    pub(super) fn set_publishing(&self, publishing: bool) {
        self.0.send_if_modified(|status| std::mem::replace(&mut status.publishing, publishing) != publishing);
    }

    pub(super) fn set_consuming(&self) {
        self.change(|status| status.consuming = true);
    }

    pub(super) fn set_topology(&self, problem: Option<String>) {
        self.change(|status| status.topology = problem);
    }

    pub(super) fn set_blocked(&self, reason: Option<String>) {
        self.change(|status| status.blocked = reason);
    }

    fn change(&self, change: impl FnOnce(&mut WorkerStatus)) {
        self.0.send_modify(change);
    }
}

impl Default for StatusHandle {
    fn default() -> Self {
        Self::new()
    }
}
