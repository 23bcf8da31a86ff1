//! Health and metrics of the gateway.

use serde_json::{Map, Value};

use super::{app::App, status::NotReady};
use crate::{
    http::Server,
    ops::{self, EventLoopMonitor},
    telemetry::Meters,
};

/// What the endpoints report on.
#[derive(Clone, Debug)]
pub(super) struct Health {
    pub(super) app: App,
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
        metrics.ready(self.app.status.ready().is_ok());
    }

    fn ready(&self) -> Result<Map<String, Value>, (&'static str, String)> {
        match self.app.status.ready() {
            Ok(_) => Ok(Map::new()),
            Err(NotReady::Stopping) => Err(("stopping", "the gateway stops".to_owned())),
            Err(NotReady::NotConnected) => Err(("not_connected", "not connected to RabbitMQ".to_owned())),
            Err(NotReady::Blocked(reason)) => {
                Err(("publish", format!("RabbitMQ blocks publishing: {reason}")))
            }
        }
    }
}
