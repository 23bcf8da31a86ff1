//! Spans, sent by OTLP if OpenTelemetry's own variables name an endpoint. Without one, no span is
//! made, and a message's trace context is passed on unchanged.

use std::{env, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceFlags, TraceState,
        Tracer, TracerProvider,
    },
};
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};

use super::{TraceContext, otlp, semconv};

/// Makes spans. Clones share the exporter.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    on: Option<(SdkTracerProvider, SdkTracer)>,
}

impl Traces {
    /// No spans.
    pub fn off() -> Self {
        Self::default()
    }

    /// Sends spans to the endpoint that the environment names, if it names one.
    ///
    /// # Errors
    /// If the endpoint, or anything else OpenTelemetry reads from the environment, can't be used.
    pub fn from_environment(resource: Resource) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        if !is_exported("TRACES") {
            return Ok(Self::off());
        }
        let http = otlp::http_client("TRACES")?;
        let exporter =
            opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(http).build()?;
        let provider =
            SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
        let tracer = provider.tracer(semconv::SCOPE);
        Ok(Self { on: Some((provider, tracer)) })
    }

    /// Starts a span below `parent`, or as the root of a new trace. `name` and `attributes` are called
    /// only if a span is made.
    pub fn start(
        &self,
        name: impl FnOnce() -> String,
        kind: SpanKind,
        parent: Parent<'_>,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Span {
        let Some((_, tracer)) = &self.on else {
            let (Parent::Producer(context) | Parent::Span(context)) = parent;
            return Span::Off(context.cloned());
        };
        let (context, link) = match parent {
            Parent::Producer(given) => (given, given.is_some()),
            Parent::Span(context) => (context, false),
        };
        let mut builder = SpanBuilder::from_name(name()).with_kind(kind).with_attributes(attributes());
        let mut cx = Context::new();
        if let Some(remote) = context.map(TraceContext::to_span_context) {
            if link {
                builder = builder.with_links(vec![Link::with_context(remote.clone())]);
            }
            cx = cx.with_remote_span_context(remote);
        }
        let span = Box::new(tracer.build_with_context(builder, &cx));
        let context = TraceContext::from_span_context(span.span_context());
        Span::On { span, context, error: None }
    }

    /// Starts the span of a publish, below another span of this process. `message_id` is called only if
    /// a span is made.
    pub fn start_publish(
        &self,
        exchange: &str,
        routing_key: &str,
        message_id: impl FnOnce() -> Option<String>,
        parent: Option<&TraceContext>,
    ) -> Span {
        let destination = if exchange.is_empty() { routing_key } else { exchange };
        // Each requester has a queue of its own for replies; the names of spans must be few.
        let is_temporary =
            exchange.is_empty() && ["amq.", "amq_"].iter().any(|prefix| destination.starts_with(prefix));
        let name = || match is_temporary {
            true => "publish (temporary)".to_owned(),
            false => format!("publish {destination}"),
        };
        self.start(name, SpanKind::Producer, Parent::Span(parent), || {
            let mut attributes = vec![
                KeyValue::new(semconv::MESSAGING_SYSTEM, semconv::RABBITMQ),
                KeyValue::new(semconv::MESSAGING_DESTINATION, destination.to_owned()),
                KeyValue::new(semconv::MESSAGING_OPERATION_NAME, "publish"),
                KeyValue::new(semconv::MESSAGING_OPERATION_TYPE, "send"),
                KeyValue::new(semconv::MESSAGING_ROUTING_KEY, routing_key.to_owned()),
            ];
            if is_temporary {
                attributes.push(KeyValue::new(semconv::MESSAGING_DESTINATION_TEMPORARY, true));
            }
            attributes.extend(message_id().map(|id| KeyValue::new(semconv::MESSAGING_MESSAGE_ID, id)));
            attributes
        })
    }

    /// Sends what is not sent yet, for at most `timeout`. Blocks.
    pub fn shutdown(&self, timeout: Duration) {
        if let Some((provider, _)) = &self.on
            && let Err(error) = provider.shutdown_with_timeout(timeout)
        {
            tracing::warn!(event = "telemetry_unsent", %error, "the last spans may not have been sent");
        }
    }
}

/// The parent of a span.
#[derive(Clone, Copy, Debug)]
pub enum Parent<'a> {
    /// The span that published the message, which is also linked. Without its context, the new span is
    /// a root.
    Producer(Option<&'a TraceContext>),
    /// Another span of this process, if it belongs to a trace.
    Span(Option<&'a TraceContext>),
}

/// A span, which ends when it is dropped. If no spans are made, only the context of the message: an
/// invented context would tell listeners not to record their spans.
#[derive(Debug)]
pub enum Span {
    Off(Option<TraceContext>),
    On { span: Box<opentelemetry_sdk::trace::Span>, context: TraceContext, error: Option<String> },
}

impl Span {
    /// The context to pass on, if there is one.
    pub fn context(&self) -> Option<&TraceContext> {
        match self {
            Self::Off(context) => context.as_ref(),
            Self::On { context, .. } => Some(context),
        }
    }

    /// Adds an attribute.
    pub fn set(&mut self, attribute: impl FnOnce() -> KeyValue) {
        if let Self::On { span, .. } = self {
            span.set_attribute(attribute());
        }
    }

    /// Marks the span as failed, with a low-cardinality code. Replaces an earlier error.
    pub fn set_error(&mut self, error_type: &str) {
        if let Self::On { error, .. } = self {
            *error = Some(error_type.to_owned());
        }
    }

    /// Removes the error, because another try succeeded.
    pub fn clear_error(&mut self) {
        if let Self::On { error, .. } = self {
            *error = None;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // Set once, at the end: an attribute that is set twice is exported twice.
        if let Self::On { span, error: Some(error_type), .. } = self {
            span.set_attribute(KeyValue::new(semconv::ERROR_TYPE, error_type.clone()));
            span.set_status(Status::error(error_type.clone()));
        }
    }
}

impl TraceContext {
    fn to_span_context(&self) -> SpanContext {
        let part = |range| self.traceparent().get(range).unwrap_or_default();
        let flags = u8::from_str_radix(part(53..55), 16).unwrap_or(0);
        let state = self.tracestate().and_then(|state| state.parse::<TraceState>().ok());
        SpanContext::new(
            opentelemetry::trace::TraceId::from_hex(part(3..35))
                .unwrap_or(opentelemetry::trace::TraceId::INVALID),
            opentelemetry::trace::SpanId::from_hex(part(36..52))
                .unwrap_or(opentelemetry::trace::SpanId::INVALID),
            TraceFlags::new(flags) & TraceFlags::SAMPLED,
            true,
            state.unwrap_or_default(),
        )
    }

    fn from_span_context(context: &SpanContext) -> Self {
        let state = context.trace_state().header();
        Self::from_well_formed(
            format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8()),
            (!state.is_empty()).then_some(state),
        )
    }
}

/// Whether OpenTelemetry's variables ask to send a signal. The SDK itself reads neither
/// `OTEL_SDK_DISABLED` nor `OTEL_*_EXPORTER`, and without an endpoint it would use a default one.
pub(super) fn is_exported(signal: &str) -> bool {
    let get = |name: &str| env::var(name).unwrap_or_default();
    let disabled = get("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true")
        || get(&format!("OTEL_{signal}_EXPORTER")).eq_ignore_ascii_case("none");
    let endpoint = |name: &str| !get(name).trim().is_empty();
    !disabled
        && (endpoint("OTEL_EXPORTER_OTLP_ENDPOINT")
            || endpoint(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")))
}
