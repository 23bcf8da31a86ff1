//! Health and metrics of the console.

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::app::App;
use crate::{
    http::Server,
    ops::{EventLoopMonitor, OBSERVE_INTERVAL, livez, not_ready_response, render},
    telemetry::ConsoleTelemetry,
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

impl Health {
    fn refresh(&self) {
        let metrics = &self.telemetry.metrics;
        metrics.connections(self.server.connections());
        metrics.jobs(self.app.jobs.own_running());
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

/// Ready also while RabbitMQ is away: the pages say so, and a balancer that hides them helps no one.
async fn readyz(State(health): State<Health>) -> Response {
    if health.stop.is_cancelled() {
        return not_ready_response("stopping", "the console stops");
    }
    Json(json!({"status": "ready"})).into_response()
}

async fn metrics(State(health): State<Health>) -> Response {
    health.refresh();
    render(&health.telemetry.meters)
}
