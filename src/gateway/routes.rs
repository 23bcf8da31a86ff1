//! Which request is answered where, and what is recorded of each: a span, metrics, a log line.

use std::time::Instant;

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::Method,
    response::{IntoResponse, Response},
    routing::any,
};
use opentelemetry::{KeyValue, trace::SpanKind};

use super::{
    answers,
    app::App,
    intake::{self, Exchange},
    openapi, poll, request_headers,
};
use crate::{
    http::{Peer, Problem, Slot},
    telemetry::{Parent, semconv},
};

/// The path that takes requests.
const UNLOCKS: &str = "/v1/unlocks";
const OUTCOME: &str = "/v1/unlocks/{*id}";
const DESCRIPTION: &str = "/openapi.json";

pub(super) fn router(app: App) -> Router {
    // Its types rule a failure out, and a test compares it.
    let document = Bytes::from(openapi::openapi().unwrap_or_default());
    let describe = move |State(app): State<App>, request: Request| describe(app, request, document.clone());
    Router::new()
        .route(UNLOCKS, any(unlocks))
        .route(OUTCOME, any(find_outcome))
        .route(DESCRIPTION, any(describe))
        .fallback(not_found)
        .with_state(app)
}

async fn unlocks(State(app): State<App>, request: Request) -> Response {
    observed(&app, UNLOCKS, request, async |exchange, request| match *request.method() {
        Method::POST => intake::post(&app, exchange, request.into_body()).await,
        _ => Err(answers::not_allowed("POST")),
    })
    .await
}

async fn find_outcome(State(app): State<App>, request: Request) -> Response {
    observed(&app, OUTCOME, request, async |exchange, request| match *request.method() {
        Method::GET | Method::HEAD => poll::get(&app, exchange, request.uri()).await,
        _ => Err(answers::not_allowed("GET, HEAD")),
    })
    .await
}

async fn describe(app: App, request: Request, document: Bytes) -> Response {
    observed(&app, DESCRIPTION, request, async |_, request| match *request.method() {
        Method::GET | Method::HEAD => Ok(openapi::description(document)),
        _ => Err(answers::not_allowed("GET, HEAD")),
    })
    .await
}

async fn not_found(State(app): State<App>, request: Request) -> Response {
    observed(&app, "", request, async |_, _| Err(answers::not_found())).await
}

/// Answers a request, and records it.
async fn observed(
    app: &App,
    route: &'static str,
    mut request: Request,
    answer: impl AsyncFnOnce(&mut Exchange, Request) -> Result<Response, Problem>,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let (Some(peer), Some(slot)) =
        (request.extensions_mut().remove::<Peer>(), request.extensions_mut().remove::<Slot>())
    else {
        return answers::not_found().into_response();
    };
    let headers = std::mem::take(request.headers_mut());
    let caller = request_headers::trace(&headers);
    let mut span = app.telemetry.traces.start(
        || format!("{method} {route}"),
        SpanKind::Server,
        Parent::Span(caller.as_ref()),
        || {
            vec![
                KeyValue::new(semconv::HTTP_REQUEST_METHOD, method.to_string()),
                KeyValue::new(semconv::HTTP_ROUTE, route),
            ]
        },
    );
    let trace = span.context().cloned();
    let mut exchange = Exchange { peer, slot, headers, trace, client: None, has_waited: false };
    let result = answer(&mut exchange, request).await;
    let code = result.as_ref().err().map(Problem::code);
    let trace_id = exchange.trace.as_ref().map(|trace| trace.trace_id());
    let response = result.unwrap_or_else(|problem| problem.with_trace_id(trace_id).into_response());
    let (status, took) = (response.status(), started.elapsed());
    span.set(|| KeyValue::new(semconv::HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16())));
    if status.is_server_error() {
        span.set_error(code.unwrap_or("internal"));
    }
    let client = exchange.client.as_ref().map(|client| client.name()).unwrap_or_default();
    app.telemetry.metrics.answered(client, status.as_u16(), (!exchange.has_waited).then_some(took));
    tracing::debug!(
        event = "http_request",
        %method,
        route,
        status = status.as_u16(),
        code,
        client,
        trace_id,
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "answered an HTTP request"
    );
    response
}
