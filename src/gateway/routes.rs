//! Which request is answered where, and what is recorded of each: a span, metrics, a log line.

use axum::{
    body::Bytes,
    extract::Request,
    http::Method,
    response::{IntoResponse, Response},
};
use opentelemetry::{KeyValue, trace::SpanKind};
use tokio::time::Instant;

use super::{
    answers,
    app::App,
    clients::Client,
    intake::{self, Exchange},
    openapi, poll, request_headers,
};
use crate::{
    http::{Handler, Peer, Problem, Slot},
    telemetry::{Parent, semconv},
};

/// The path that takes requests.
const UNLOCKS: &str = "/v1/unlocks";
const OUTCOME: &str = "/v1/unlocks/{*id}";
const DESCRIPTION: &str = "/openapi.json";

/// Answers all requests.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    app: App,
    /// The OpenAPI document.
    description: Bytes,
}

impl Routes {
    pub(super) fn new(app: App) -> Self {
        // Its types rule a failure out, and a test compares it.
        Self { app, description: Bytes::from(openapi::openapi().unwrap_or_default()) }
    }
}

// Not by axum's router: its boxes and maps would be a tenth of the time that a request takes.
impl Handler for Routes {
    async fn answer(&self, request: Request, peer: Peer, slot: &Slot) -> Response {
        let app = &self.app;
        match request.uri().path() {
            UNLOCKS => {
                observed(app, UNLOCKS, request, peer, slot, async |exchange, request| {
                    match *request.method() {
                        Method::POST => intake::post(app, exchange, request.into_body()).await,
                        _ => Err(answers::not_allowed("POST")),
                    }
                })
                .await
            }
            DESCRIPTION => {
                observed(app, DESCRIPTION, request, peer, slot, async |_, request| match *request.method() {
                    Method::GET | Method::HEAD => Ok(openapi::description(self.description.clone())),
                    _ => Err(answers::not_allowed("GET, HEAD")),
                })
                .await
            }
            path if poll::is_outcome(path) => {
                observed(app, OUTCOME, request, peer, slot, async |exchange, request| {
                    match *request.method() {
                        Method::GET | Method::HEAD => poll::get(app, exchange, request.uri()).await,
                        _ => Err(answers::not_allowed("GET, HEAD")),
                    }
                })
                .await
            }
            _ => observed(app, "", request, peer, slot, async |_, _| Err(answers::not_found())).await,
        }
    }
}

/// Answers a request, and records it.
async fn observed(
    app: &App,
    route: &'static str,
    mut request: Request,
    peer: Peer,
    slot: &Slot,
    answer: impl AsyncFnOnce(&mut Exchange<'_>, Request) -> Result<Response, Problem>,
) -> Response {
    let received = Instant::now();
    let method = request.method().clone();
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
    let mut exchange = Exchange { received, peer, slot, headers, trace, client: None, has_waited: false };
    let result = answer(&mut exchange, request).await;
    let code = result.as_ref().err().map(Problem::code);
    let trace_id = exchange.trace.as_ref().map(|trace| trace.trace_id());
    let response = result.unwrap_or_else(|problem| problem.with_trace_id(trace_id).into_response());
    let (status, took) = (response.status(), received.elapsed());
    span.set(|| KeyValue::new(semconv::HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16())));
    if status.is_server_error() {
        span.set_error(code.unwrap_or("internal"));
    }
    let client = exchange.client.as_ref().map(|client| client.name()).unwrap_or_default();
    let shared = exchange.client.as_ref().map(Client::shared_name);
    app.telemetry.metrics.answered(shared, status.as_u16(), (!exchange.has_waited).then_some(took));
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
