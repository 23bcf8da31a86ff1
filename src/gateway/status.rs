//! Whether requests can be published now. Written by the task that keeps the connection; read by all.

use tokio::sync::watch;

use crate::broker::Publisher;

/// The state of the connection to RabbitMQ.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    /// Where to publish, while the connection is open.
    pub(super) publisher: Option<Publisher>,
    /// Why RabbitMQ accepts no messages, if it does not.
    pub(super) blocked: Option<String>,
    /// The gateway stops.
    pub(super) stopping: bool,
}

/// Why nothing can be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotReady {
    Stopping,
    NotConnected,
    Blocked(String),
}

impl Link {
    /// Where to publish.
    pub(super) fn ready(&self) -> Result<&Publisher, NotReady> {
        match self {
            Self { stopping: true, .. } => Err(NotReady::Stopping),
            Self { publisher: None, .. } => Err(NotReady::NotConnected),
            Self { blocked: Some(reason), .. } => Err(NotReady::Blocked(reason.clone())),
            Self { publisher: Some(publisher), .. } => Ok(publisher),
        }
    }
}

/// The state, which changes.
#[derive(Debug, Default)]
pub(super) struct GatewayStatus(watch::Sender<Link>);

impl GatewayStatus {
    pub(super) fn subscribe(&self) -> watch::Receiver<Link> {
        self.0.subscribe()
    }

    /// Where to publish.
    pub(super) fn ready(&self) -> Result<Publisher, NotReady> {
        self.0.borrow().ready().cloned()
    }

    pub(super) fn connected(&self, publisher: Option<Publisher>) {
        self.0.send_modify(|link| link.publisher = publisher);
    }

    pub(super) fn blocked(&self, reason: Option<String>) {
        self.0.send_modify(|link| link.blocked = reason);
    }

    pub(super) fn stop(&self) {
        self.0.send_modify(|link| link.stopping = true);
    }

    /// Waits until the gateway stops.
    pub(super) async fn stopped(&self) {
        // Cannot fail: `self` keeps the sender.
        drop(self.0.subscribe().wait_for(|link| link.stopping).await);
    }
}
