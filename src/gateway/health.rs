//! Health and metrics of the gateway.

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{app::App, status::NotReady};
use crate::{
    http::Server,
    ops::{EventLoopMonitor, OBSERVE_INTERVAL, livez, not_ready_response, render},
};

/// What the endpoints report on.
#[derive(Clone, Debug)]
pub(super) struct Health {
    pub(super) app: App,
    pub(super) server: Server,
    pub(super) event_loop: EventLoopMonitor,
}

impl Health {
    fn refresh(&self) {
        let metrics = &self.app.telemetry.metrics;
        metrics.waiters(self.app.waiters.count());
        metrics.connections(self.server.connections());
        metrics.ready(self.app.status.ready().is_ok());
    }

    /// Refreshes the observed metrics regularly, because OTLP sends them without a request to `/metrics`.
    /// Ends when `end` is cancelled.
    pub(super) async fn observe(self, end: CancellationToken) {
        let mut ticks = tokio::time::interval(OBSERVE_INTERVAL);
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            self.refresh();
        }
    }
}

/// The endpoints.
pub(super) fn routes(health: Health) -> Router {
    Router::new()
        .route("/livez", get(async |State(health): State<Health>| livez(&health.event_loop)))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn readyz(State(health): State<Health>) -> Response {
    let (code, reason) = match health.app.status.ready() {
        Ok(_) => return Json(json!({"status": "ready"})).into_response(),
        Err(NotReady::Stopping) => ("stopping", "the gateway stops".to_owned()),
        Err(NotReady::NotConnected) => ("not_connected", "not connected to RabbitMQ".to_owned()),
        Err(NotReady::Blocked(reason)) => ("publish", format!("RabbitMQ blocks publishing: {reason}")),
    };
    not_ready_response(code, &reason)
}

async fn metrics(State(health): State<Health>) -> Response {
    health.refresh();
    render(&health.app.telemetry.meters)
}
