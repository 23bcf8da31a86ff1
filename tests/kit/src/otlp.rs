//! A collector of traces and metrics: OTLP over HTTP, decoded from its protobuf.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use axum::serve::ListenerExt;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, span, status::StatusCode as SpanStatus};
use prost::Message;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::trackfinity::{from_std, on_own_thread};

/// The only content type of OTLP over HTTP that is accepted.
const PROTOBUF: &str = "application/x-protobuf";

/// The kind of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpanKind {
    Unspecified,
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

/// An attribute's value, with the type it had in the protobuf.
#[derive(Clone, Debug, PartialEq)]
pub enum OtlpValue {
    Text(String),
    Bool(bool),
    Int(i64),
    Double(f64),
    /// Arrays, tables, bytes, and no value at all.
    Other(String),
}

impl From<&str> for OtlpValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for OtlpValue {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// A span as it was sent. Ids are in lower-case hex.
#[derive(Clone, Debug)]
pub struct OtlpSpan {
    pub name: String,
    pub kind: SpanKind,
    pub trace_id: String,
    pub span_id: String,
    /// `None` at the root of a trace.
    pub parent: Option<String>,
    pub trace_state: String,
    /// Trace id, span id and trace state of each link.
    pub links: Vec<(String, String, String)>,
    pub attributes: BTreeMap<String, OtlpValue>,
    /// Attributes that occur more than once, which OTLP forbids.
    pub repeated: Vec<String>,
    /// The status' description if the span failed.
    pub error: Option<String>,
    pub start_ns: u64,
    pub end_ns: u64,
    /// The attributes of the process that sent it.
    pub resource: BTreeMap<String, OtlpValue>,
}

impl OtlpSpan {
    /// An attribute if it is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name)? {
            OtlpValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An attribute if it is an integer.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attributes.get(name)? {
            OtlpValue::Int(number) => Some(*number),
            _ => None,
        }
    }
}

/// One series of a metric: its labels and its last value; of a histogram, how many were recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpPoint {
    pub labels: BTreeMap<String, OtlpValue>,
    pub value: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Answering,
    Hung,
    Failing,
}

struct Shared {
    mode: Mode,
    recording: AtomicBool,
    exports: AtomicU64,
    spans: Mutex<Vec<OtlpSpan>>,
    /// Spans that arrived, those that were not kept too.
    count: watch::Sender<usize>,
    /// Of each metric what was sent last.
    metrics: Mutex<BTreeMap<String, Vec<OtlpPoint>>>,
}

/// A collector of traces and metrics on a thread of its own: one core at most. Dropping it closes everything.
pub struct Otlp {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Otlp {
    /// Accepts everything.
    pub fn start() -> Self {
        Self::serve(Mode::Answering)
    }

    /// Accepts, reads, and never answers.
    pub fn hung() -> Self {
        Self::serve(Mode::Hung)
    }

    /// Answers 503.
    pub fn failing() -> Self {
        Self::serve(Mode::Failing)
    }

    fn serve(mode: Mode) -> Self {
        let shared = Arc::new(Shared {
            mode,
            recording: AtomicBool::new(true),
            exports: AtomicU64::new(0),
            spans: Mutex::default(),
            count: watch::Sender::new(0),
            metrics: Mutex::default(),
        });
        let app = Router::new().fallback(take).with_state(shared.clone());
        let listener = testbed::listen();
        let address = listener.local_addr().expect("a listener has an address");
        let (stop, stopped) = oneshot::channel();
        let thread = on_own_thread("otlp", async move {
            let listener = from_std(listener).tap_io(|stream| drop(stream.set_nodelay(true)));
            tokio::select! {
                _ = stopped => {}
                _ = axum::serve(listener, app).into_future() => {}
            }
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`, for example `http://127.0.0.1:12345`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether spans are kept for [`Otlp::spans`], which is the default. Otherwise they are only decoded and counted.
    pub fn record(&self, on: bool) {
        self.shared.recording.store(on, Ordering::SeqCst);
    }

    /// The spans recorded, by their start.
    pub fn spans(&self) -> Vec<OtlpSpan> {
        let mut spans = self.shared.spans.lock().expect("no panic holds the spans").clone();
        spans.sort_by_key(|span| span.start_ns);
        spans
    }

    /// How many spans have arrived.
    pub fn count(&self) -> usize {
        *self.shared.count.borrow()
    }

    /// How many requests of any kind have arrived, answered or not.
    pub fn exports(&self) -> u64 {
        self.shared.exports.load(Ordering::SeqCst)
    }

    /// Waits until at least `count` spans have arrived, and returns all there are.
    ///
    /// # Panics
    /// When fewer came within `deadline`.
    pub async fn wait_spans(&self, count: usize, deadline: Duration) -> Vec<OtlpSpan> {
        let mut arrived = self.shared.count.subscribe();
        let reached = timeout(deadline, arrived.wait_for(|arrived| *arrived >= count)).await.is_ok();
        let spans = self.spans();
        let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
        assert!(reached, "{} of {count} spans within {deadline:?}: {names:?}", self.count());
        spans
    }

    /// The names of the metrics that have arrived.
    pub fn metric_names(&self) -> Vec<String> {
        self.shared.metrics.lock().expect("no panic holds the metrics").keys().cloned().collect()
    }

    /// The series of a metric, as they were sent last.
    pub fn metric(&self, name: &str) -> Option<Vec<OtlpPoint>> {
        self.shared.metrics.lock().expect("no panic holds the metrics").get(name).cloned()
    }
}

impl Drop for Otlp {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn take(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return reply(StatusCode::BAD_REQUEST, Bytes::new());
    };
    shared.exports.fetch_add(1, Ordering::SeqCst);
    match shared.mode {
        Mode::Answering => {}
        Mode::Hung => std::future::pending().await,
        Mode::Failing => return reply(StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
    }
    if let Err(status) = is_protobuf(&head.method, &head.headers) {
        return reply(status, Bytes::new());
    }
    let taken = match head.uri.path() {
        "/v1/traces" => shared.take_traces(body),
        "/v1/metrics" => shared.take_metrics(body),
        _ => return reply(StatusCode::NOT_FOUND, Bytes::new()),
    };
    match taken {
        Ok(answer) => reply(StatusCode::OK, answer),
        Err(error) => reply(StatusCode::BAD_REQUEST, error.to_string().into()),
    }
}

fn is_protobuf(method: &Method, headers: &HeaderMap) -> Result<(), StatusCode> {
    if method != Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let plain = !headers.contains_key(CONTENT_ENCODING);
    let typed = headers.get(CONTENT_TYPE).is_some_and(|value| value == PROTOBUF);
    if plain && typed { Ok(()) } else { Err(StatusCode::UNSUPPORTED_MEDIA_TYPE) }
}

fn reply(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PROTOBUF.parse().expect("a header value"));
    response
}

impl Shared {
    fn take_traces(&self, body: Bytes) -> Result<Bytes, prost::DecodeError> {
        let request = ExportTraceServiceRequest::decode(body)?;
        let mut spans = Vec::new();
        let mut count = 0;
        for of_resource in request.resource_spans {
            let resource = resource(of_resource.resource);
            for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
                count += 1;
                if self.recording.load(Ordering::SeqCst) {
                    spans.push(read_span(span, &resource));
                }
            }
        }
        self.spans.lock().expect("no panic holds the spans").extend(spans);
        self.count.send_modify(|arrived| *arrived += count);
        Ok(ExportTraceServiceResponse::default().encode_to_vec().into())
    }

    fn take_metrics(&self, body: Bytes) -> Result<Bytes, prost::DecodeError> {
        let request = ExportMetricsServiceRequest::decode(body)?;
        let of_scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        let mut metrics = self.metrics.lock().expect("no panic holds the metrics");
        for metric in of_scopes.flat_map(|of_scope| of_scope.metrics) {
            metrics.insert(metric.name.clone(), points(metric));
        }
        Ok(ExportMetricsServiceResponse::default().encode_to_vec().into())
    }
}

fn read_span(span: Span, resource: &BTreeMap<String, OtlpValue>) -> OtlpSpan {
    let status = span.status.clone().unwrap_or_default();
    let (attributes, repeated) = unique(span.attributes.clone());
    OtlpSpan {
        kind: match span.kind() {
            span::SpanKind::Unspecified => SpanKind::Unspecified,
            span::SpanKind::Internal => SpanKind::Internal,
            span::SpanKind::Server => SpanKind::Server,
            span::SpanKind::Client => SpanKind::Client,
            span::SpanKind::Producer => SpanKind::Producer,
            span::SpanKind::Consumer => SpanKind::Consumer,
        },
        name: span.name,
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent: (!span.parent_span_id.is_empty()).then(|| hex(&span.parent_span_id)),
        trace_state: span.trace_state,
        links: span
            .links
            .into_iter()
            .map(|link| (hex(&link.trace_id), hex(&link.span_id), link.trace_state))
            .collect(),
        attributes,
        repeated,
        error: (status.code() == SpanStatus::Error).then_some(status.message),
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        resource: resource.clone(),
    }
}

fn resource(resource: Option<Resource>) -> BTreeMap<String, OtlpValue> {
    attributes(resource.map(|resource| resource.attributes).unwrap_or_default())
}

fn points(metric: Metric) -> Vec<OtlpPoint> {
    let number = |point: opentelemetry_proto::tonic::metrics::v1::NumberDataPoint| OtlpPoint {
        labels: attributes(point.attributes),
        value: match point.value {
            Some(number_data_point::Value::AsDouble(value)) => value,
            Some(number_data_point::Value::AsInt(value)) => value as f64,
            None => f64::NAN,
        },
    };
    match metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.into_iter().map(number).collect(),
        Some(Data::Sum(sum)) => sum.data_points.into_iter().map(number).collect(),
        Some(Data::Histogram(histogram)) => histogram
            .data_points
            .into_iter()
            .map(|point| OtlpPoint { labels: attributes(point.attributes), value: point.count as f64 })
            .collect(),
        Some(Data::ExponentialHistogram(_) | Data::Summary(_)) | None => Vec::new(),
    }
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, OtlpValue> {
    unique(pairs).0
}

/// Attributes by name, and the names that occur more than once.
fn unique(pairs: Vec<KeyValue>) -> (BTreeMap<String, OtlpValue>, Vec<String>) {
    let (mut attributes, mut repeated) = (BTreeMap::new(), Vec::new());
    for pair in pairs {
        if attributes.insert(pair.key.clone(), value(pair.value)).is_some() {
            repeated.push(pair.key);
        }
    }
    (attributes, repeated)
}

fn value(value: Option<AnyValue>) -> OtlpValue {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => OtlpValue::Text(text),
        Some(any_value::Value::BoolValue(truth)) => OtlpValue::Bool(truth),
        Some(any_value::Value::IntValue(number)) => OtlpValue::Int(number),
        Some(any_value::Value::DoubleValue(number)) => OtlpValue::Double(number),
        other => OtlpValue::Other(format!("{other:?}")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
