//! Health and metrics of the console.

use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::app::App;
use crate::{
    http::Server,
    ops::{self, EventLoopMonitor},
    telemetry::{ConsoleTelemetry, Meters},
};

/// What the endpoints report on.
#[derive(Clone, Debug)]
pub(super) struct Health {
    pub(super) app: App,
    pub(super) server: Server,
    pub(super) telemetry: ConsoleTelemetry,
    pub(super) event_loop: EventLoopMonitor,
    pub(super) stop: CancellationToken,
}

impl ops::Health for Health {
    fn event_loop(&self) -> &EventLoopMonitor {
        &self.event_loop
    }

    fn meters(&self) -> &Meters {
        &self.telemetry.meters
    }

    async fn refresh(&self) {
        let metrics = &self.telemetry.metrics;
        metrics.connections(self.server.connections());
        metrics.jobs(self.app.jobs.own_running());
    }

    /// Ready also while RabbitMQ is away: the pages say so, and a balancer that hides them helps no one.
    fn ready(&self) -> Result<Map<String, Value>, (&'static str, String)> {
        match self.stop.is_cancelled() {
            true => Err(("stopping", "the console stops".to_owned())),
            false => {
                let refusal = self.app.connector.refusal(false);
                Ok(refusal.map(|reason| ("login_refused".to_owned(), reason.into())).into_iter().collect())
            }
        }
    }
}
