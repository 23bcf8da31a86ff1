//! Health and metrics over HTTP, on their own thread and runtime, so that they answer even if the
//! worker is busy or stuck.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    breaker::{Cause, Pause},
    broker::Connector,
    http::{ListenError, bind},
    message::{Status, Timestamp},
    telemetry::{Meters, Metrics},
    worker::{PublishHealth, QueueMonitor, SharedBreaker, StatusHandle},
};

/// How often the event loop reports that it is alive.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// How often observed values are refreshed for metrics that are sent by OTLP.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(2);
/// After this long without a heartbeat the event loop counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// The endpoints could not be served.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the thread of the ops endpoints cannot be started: {0}")]
    Thread(#[source] io::Error),
}

/// The parts of the worker that the endpoints report on.
#[derive(Clone, Debug)]
pub struct WorkerHandles {
    pub status: StatusHandle,
    pub connector: Connector,
    pub publish_health: Arc<PublishHealth>,
    pub breaker: Arc<SharedBreaker>,
    pub metrics: Metrics,
    pub meters: Meters,
    pub queues: QueueMonitor,
    pub event_loop: EventLoopMonitor,
}

/// Shows whether the worker's event loop is running.
#[derive(Clone, Debug)]
pub struct EventLoopMonitor {
    started: Instant,
    last_beat_ms: Arc<AtomicU64>,
}

impl EventLoopMonitor {
    pub fn new() -> Self {
        Self { started: Instant::now(), last_beat_ms: Arc::default() }
    }

    /// Records heartbeats while the event loop runs, until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut beats = tokio::time::interval(HEARTBEAT_INTERVAL);
        while stop.run_until_cancelled(beats.tick()).await.is_some() {
            self.last_beat_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    fn since_last_beat(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.last_beat_ms.load(Ordering::Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for EventLoopMonitor {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves the routes until the process ends. Returns the bound address.
///
/// # Errors
/// If the address is taken, or no thread can be started.
pub fn serve(address: SocketAddr, routes: Router) -> Result<SocketAddr, OpsError> {
    let (listener, bound) = bind("ops.listen", address)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(OpsError::Thread)?;
    let serve = move || {
        runtime.block_on(async move {
            let served = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, routes).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(
                    event = "ops_ended",
                    %error,
                    "health and metrics are no longer served: restart the program"
                );
            }
        });
    };
    std::thread::Builder::new().name("ops".to_owned()).spawn(serve).map_err(OpsError::Thread)?;
    Ok(bound)
}

/// What the endpoints of a process report on.
pub trait Health: Clone + Send + Sync + 'static {
    fn event_loop(&self) -> &EventLoopMonitor;

    fn meters(&self) -> &Meters;

    /// Refreshes the metrics that are observed, not counted.
    fn refresh(&self) -> impl Future<Output = ()> + Send;

    /// What `/readyz` says beside `ready`; or why the process is not ready: a code for programs and a reason for
    /// people.
    fn ready(&self) -> Result<Map<String, Value>, (&'static str, String)>;
}

/// The endpoints.
pub fn routes<H: Health>(health: H) -> Router {
    Router::new()
        .route("/livez", get(async |State(health): State<H>| livez(health.event_loop())))
        .route("/readyz", get(async |State(health): State<H>| readyz(&health)))
        .route("/metrics", get(metrics::<H>))
        .with_state(health)
}

/// Refreshes the observed metrics regularly, because OTLP sends them without a request to
/// `/metrics`. Ends when `end` is cancelled.
pub async fn observe(health: impl Health, end: CancellationToken) {
    let mut ticks = tokio::time::interval(OBSERVE_INTERVAL);
    while end.run_until_cancelled(ticks.tick()).await.is_some() {
        health.refresh().await;
    }
}

fn livez(event_loop: &EventLoopMonitor) -> Response {
    let silence = event_loop.since_last_beat();
    if silence < STUCK_AFTER {
        return Json(json!({"status": "live"})).into_response();
    }
    let reason = format!("the event loop has not run for {} s", silence.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "stuck", "reason": reason}))).into_response()
}

fn readyz(health: &impl Health) -> Response {
    match health.ready() {
        Ok(mut body) => {
            body.insert("status".to_owned(), "ready".into());
            Json(body).into_response()
        }
        Err((code, reason)) => {
            let body = json!({"status": "not_ready", "code": code, "reason": reason});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn metrics<H: Health>(State(health): State<H>) -> Response {
    health.refresh().await;
    match health.meters().render() {
        Ok((content_type, text)) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl Health for WorkerHandles {
    fn event_loop(&self) -> &EventLoopMonitor {
        &self.event_loop
    }

    fn meters(&self) -> &Meters {
        &self.meters
    }

    async fn refresh(&self) {
        let status = self.status.current();
        let is_refused = self.connector.refusal(true).is_some();
        self.metrics.connected(status.connected && status.publishing && !is_refused);
        self.metrics.paused(self.breaker.cause().map(Cause::kind));
        self.queues.refresh(&self.metrics).await;
    }

    fn ready(&self) -> Result<Map<String, Value>, (&'static str, String)> {
        match not_ready(self) {
            Some(why) => Err(why),
            None => Ok(Map::from_iter([
                (
                    "paused".to_owned(),
                    self.breaker.pause().map(|pause| describe(pause, &self.breaker)).into(),
                ),
                ("refused_outcomes".to_owned(), refused_outcomes(self).into()),
            ])),
        }
    }
}

/// Why the worker is not ready, if it is not: a code for programs and a reason for people.
fn not_ready(handles: &WorkerHandles) -> Option<(&'static str, String)> {
    let status = handles.status.current();
    let is_connected = status.connected && status.publishing;
    // First: with a token that has expired, RabbitMQ shows no queue, either.
    if let Some(refusal) = handles.connector.refusal(is_connected) {
        return Some(("login_refused", refusal));
    }
    // A worker that has no session because of the topology did reach RabbitMQ.
    if let Some(problem) = status.topology {
        return Some(("topology", problem));
    }
    if !is_connected {
        return Some(("not_connected", handles.connector.not_connected()));
    }
    if let Some(pause @ Pause { cause: Cause::EndpointFault(_), .. }) = handles.breaker.pause() {
        return Some(("endpoint_fault", explain(pause, &handles.breaker)));
    }
    if !status.consuming {
        return Some(("not_consuming", "connected to RabbitMQ, but not consuming yet".to_owned()));
    }
    if let Some(reason) = status.blocked {
        return Some(("publish", format!("RabbitMQ blocks publishing: {reason}")));
    }
    handles.publish_health.problem().map(|problem| ("publish", problem))
}

/// Outcomes that a listener's queue refuses. The worker continues. RabbitMQ does not say which queue.
fn refused_outcomes(handles: &WorkerHandles) -> Vec<&'static str> {
    handles.publish_health.refused_outcomes().into_iter().map(Status::routing_key).collect()
}

/// Why calls are paused, since when, and when the next probe comes.
fn describe(pause: Pause, breaker: &SharedBreaker) -> Value {
    json!({
        "cause": pause.cause.as_str(),
        "reason": pause.cause.to_string(),
        "advice": breaker.advice(pause.cause),
        "since": since(pause).to_string(),
        "next_probe_in_s": next_probe(pause).map(|wait| wait.as_secs()),
    })
}

fn explain(pause: Pause, breaker: &SharedBreaker) -> String {
    let Pause { cause, .. } = pause;
    let next = match next_probe(pause) {
        Some(wait) => format!("The next probe is in {} s", wait.as_secs()),
        None => "A probe is running".to_owned(),
    };
    format!("calls are paused since {}: {cause}. {}. {next}", since(pause), breaker.advice(cause))
}

/// When the pause began, by the wall clock.
fn since(pause: Pause) -> Timestamp {
    let paused_for = i64::try_from(pause.since.elapsed().as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(paused_for))
}

fn next_probe(pause: Pause) -> Option<Duration> {
    pause.probe_at.map(|at| at.saturating_duration_since(tokio::time::Instant::now()))
}
