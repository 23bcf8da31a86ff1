//! Health and metrics of the gateway.

use serde_json::{Map, Value};

use super::{app::App, status::NotReady};
use crate::{
    broker::Connector,
    http::Server,
    ops::{self, EventLoopMonitor},
    telemetry::Meters,
};

/// What the endpoints report on.
#[derive(Clone, Debug)]
pub(super) struct Health {
    pub(super) app: App,
    pub(super) connector: Connector,
    pub(super) server: Server,
    pub(super) event_loop: EventLoopMonitor,
}

impl ops::Health for Health {
    fn event_loop(&self) -> &EventLoopMonitor {
        &self.event_loop
    }

    fn meters(&self) -> &Meters {
        &self.app.telemetry.meters
    }

    async fn refresh(&self) {
        let metrics = &self.app.telemetry.metrics;
        metrics.waiters(self.app.waiters.count());
        metrics.connections(self.server.connections());
        metrics.ready(self.app.status.ready().is_ok() && self.connector.refusal(true).is_none());
    }

    fn ready(&self) -> Result<Map<String, Value>, (&'static str, String)> {
        let ready = self.app.status.ready();
        let refusal = self.connector.refusal(!matches!(ready, Err(NotReady::NotConnected)));
        match ready {
            Err(NotReady::Stopping) => Err(("stopping", "the gateway stops".to_owned())),
            _ if let Some(reason) = refusal => Err(("login_refused", reason)),
            Ok(_) => Ok(Map::new()),
            Err(NotReady::NotConnected) => Err(("not_connected", self.connector.not_connected())),
            Err(NotReady::Blocked(reason)) => {
                Err(("publish", format!("RabbitMQ blocks publishing: {reason}")))
            }
        }
    }
}
