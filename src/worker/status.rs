//! What can be said of the worker from outside.

use tokio::sync::watch;

/// The state of the worker's broker session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether there is a session: the connection that consumes is open.
    pub connected: bool,
    /// Whether the connection that publishes is open.
    pub publishing: bool,
    /// Whether requests are taken, be it for probes alone.
    pub consuming: bool,
    /// What is wrong with the topology, if anything.
    pub topology: Option<String>,
    /// Why the broker takes no messages for now, if it does not.
    pub blocked: Option<String>,
}

/// Where the worker writes its state, and others read it.
#[derive(Clone, Debug)]
pub struct StatusBoard(watch::Sender<Status>);

impl StatusBoard {
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(Status::default()))
    }

    /// The state now.
    #[must_use]
    pub fn current(&self) -> Status {
        self.0.borrow().clone()
    }

    /// Whether RabbitMQ takes no messages for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.0.borrow().blocked.is_some()
    }

    /// Whether something is known to be wrong with the topology.
    pub(super) fn is_topology_wrong(&self) -> bool {
        self.0.borrow().topology.is_some()
    }

    pub(super) fn connected(&self, connected: bool) {
        self.change(|status| {
            status.connected = connected;
            status.publishing = connected;
            status.consuming = false;
            status.blocked = None;
        });
    }

    pub(super) fn publishing(&self, publishing: bool) {
        self.0.send_if_modified(|status| std::mem::replace(&mut status.publishing, publishing) != publishing);
    }

    pub(super) fn consuming(&self) {
        self.change(|status| status.consuming = true);
    }

    pub(super) fn topology(&self, problem: Option<String>) {
        self.change(|status| status.topology = problem);
    }

    pub(super) fn blocked(&self, reason: Option<String>) {
        self.change(|status| status.blocked = reason);
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_modify(change);
    }
}

impl Default for StatusBoard {
    fn default() -> Self {
        Self::new()
    }
}
