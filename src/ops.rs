//! Health and metrics over HTTP, on a thread and a runtime of their own: they answer however busy or
//! stuck the worker is.

use std::{
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
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    breaker::{Cause, Pause},
    message::{Status, Timestamp},
    telemetry::Metrics,
    worker::{PublishHealth, QueueMonitor, SharedBreaker, StatusHandle},
};

/// How often the event loop shows that it turns.
const BEAT: Duration = Duration::from_secs(1);
/// How often figures are looked at that nobody asks for.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(2);
/// An event loop that has not turned for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// The endpoints could not be served.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    #[error("ops.listen: {address} cannot be listened on: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("the thread of the ops endpoints cannot be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// What the endpoints tell of.
#[derive(Clone, Debug)]
pub struct Sources {
    pub status: StatusHandle,
    pub publish_health: Arc<PublishHealth>,
    pub breaker: Arc<SharedBreaker>,
    pub metrics: Metrics,
    pub queues: QueueMonitor,
    pub pulse: Pulse,
}

/// Shows that the worker's event loop turns.
#[derive(Clone, Debug)]
pub struct Pulse {
    started: Instant,
    last_beat_ms: Arc<AtomicU64>,
}

impl Pulse {
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now(), last_beat_ms: Arc::default() }
    }

    /// Beats for as long as the event loop turns, until `stop` is cancelled.
    pub async fn beat(self, stop: CancellationToken) {
        let mut beats = tokio::time::interval(BEAT);
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

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves until the process ends. Returns once the address is bound, with the address.
///
/// # Errors
/// If the address is taken, or no thread can be started.
pub fn serve(address: SocketAddr, sources: Sources) -> Result<SocketAddr, OpsError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    let (listener, bound) = bind().map_err(|source| OpsError::Bind { address, source })?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(OpsError::Thread)?;
    let serve = move || {
        runtime.block_on(async move {
            let served = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, router(sources)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(%error, "the ops endpoints are no longer served");
            }
        });
    };
    std::thread::Builder::new().name("ops".to_owned()).spawn(serve).map_err(OpsError::Thread)?;
    Ok(bound)
}

fn router(sources: Sources) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(sources)
}

async fn livez(State(sources): State<Sources>) -> Response {
    let still = sources.pulse.since_last_beat();
    if still < STUCK_AFTER {
        return Json(json!({"status": "live"})).into_response();
    }
    let reason = format!("the event loop has not turned for {} s", still.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "stuck", "reason": reason}))).into_response()
}

async fn readyz(State(sources): State<Sources>) -> Response {
    match not_ready(&sources) {
        None => Json(json!({
            "status": "ready",
            "paused": sources.breaker.pause().map(describe),
            "refused_outcomes": refused_outcomes(&sources),
        }))
        .into_response(),
        Some((code, reason)) => {
            let body = json!({"status": "not_ready", "code": code, "reason": reason});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// Why the worker does no work, if it does none: a code for programs, a reason for people.
fn not_ready(sources: &Sources) -> Option<(&'static str, String)> {
    let status = sources.status.current();
    // A worker that the topology keeps from a session stays `topology`: it did reach RabbitMQ.
    if let Some(problem) = status.topology {
        return Some(("topology", problem));
    }
    if !status.connected || !status.publishing {
        return Some(("not_connected", "not connected to RabbitMQ".to_owned()));
    }
    if let Some(pause @ Pause { cause: Cause::EndpointFault(_), .. }) = sources.breaker.pause() {
        return Some(("endpoint_fault", explain(pause)));
    }
    if !status.consuming {
        return Some(("not_consuming", "connected to RabbitMQ, but not consuming yet".to_owned()));
    }
    if let Some(reason) = status.blocked {
        return Some(("publish", format!("RabbitMQ takes no messages for now: {reason}")));
    }
    sources.publish_health.problem().map(|problem| ("publish", problem))
}

/// What a listener's queue refuses; the worker goes on all the same. RabbitMQ does not say which queue.
fn refused_outcomes(sources: &Sources) -> Vec<&'static str> {
    sources.publish_health.refused_outcomes().into_iter().map(Status::routing_key).collect()
}

/// Why calls are paused, since when, and when the next probe comes.
fn describe(pause: Pause) -> serde_json::Value {
    json!({
        "cause": pause.cause.as_str(),
        "reason": pause.cause.to_string(),
        "advice": pause.cause.advice(),
        "since": since(pause).to_string(),
        "next_probe_in_s": next_probe(pause).map(|wait| wait.as_secs()),
    })
}

fn explain(pause: Pause) -> String {
    let Pause { cause, .. } = pause;
    let next = match next_probe(pause) {
        Some(wait) => format!("the next probe comes in {} s", wait.as_secs()),
        None => "a probe is being made".to_owned(),
    };
    format!("calls are paused since {}: {cause}; {}; {next}", since(pause), cause.advice())
}

/// By the wall clock.
fn since(pause: Pause) -> Timestamp {
    let paused_for = i64::try_from(pause.since.elapsed().as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(paused_for))
}

fn next_probe(pause: Pause) -> Option<Duration> {
    pause.probe_at.map(|at| at.saturating_duration_since(tokio::time::Instant::now()))
}

impl Sources {
    /// Looks at what is observed, rather than counted.
    pub async fn observe(&self) {
        let status = self.status.current();
        self.metrics.connected(status.connected && status.publishing);
        self.metrics.paused(self.breaker.cause().map(Cause::as_str));
        self.queues.refresh(&self.metrics).await;
    }
}

/// Observes now and again, for metrics that are sent and not asked for, until `stop` is cancelled.
pub async fn observe(sources: Sources, stop: CancellationToken) {
    let mut looks = tokio::time::interval(OBSERVE_INTERVAL);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        sources.observe().await;
    }
}

async fn metrics(State(sources): State<Sources>) -> Response {
    sources.observe().await;
    match sources.metrics.render() {
        Ok((content_type, text)) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
