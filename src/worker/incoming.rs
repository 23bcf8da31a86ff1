//! A message that was delivered and is being processed. The counterpart of `Outgoing`.

use std::borrow::Cow;

use lapin::{BasicProperties, message::Delivery};
use opentelemetry::{KeyValue, trace::SpanKind};
use secrecy::ExposeSecret;

use crate::{
    message::{Envelope, Fault, FaultCode, PendingOutcome, Timestamp, headers, outcome},
    telemetry::{Parent, Span, TraceContext, Traces, semconv},
    trackfinity::Client,
};

/// A message that is being processed, with its place in a trace.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) envelope: Envelope,
    pub(super) delivery_tag: u64,
    /// The outcome that the message carries, if only the outcome remains to be published.
    pub(super) pending: Option<PendingOutcome>,
    /// The span of the whole processing.
    pub(super) span: Span,
    /// Whether the message came without a trace. Its copies then carry this one.
    trace_is_new: bool,
}

impl Incoming {
    /// Decodes a message that was delivered from `queue`.
    pub(super) fn decode(delivery: Delivery, queue: &str, traces: &Traces, client: &Client) -> Self {
        let Delivery { properties, data, delivery_tag, .. } = delivery;
        let message = (properties, data, delivery_tag);
        let mut incoming = Self::new(message, queue, traces, |properties, body, now, new_id| {
            Envelope::decode(properties, body, now, new_id)
        });
        let headers = incoming.envelope.properties.headers().as_ref();
        if headers.is_some_and(|headers| headers.contains_key(headers::OUTCOME_MAC)) {
            let key = client.api_key();
            incoming.pending = PendingOutcome::read(&incoming.envelope, key.expose_secret().as_bytes());
        }
        incoming
    }

    /// Decodes a message some of whose properties cannot be read; `readable` are the others.
    pub(super) fn unreadable(
        readable: BasicProperties,
        body: Vec<u8>,
        queue: &str,
        traces: &Traces,
        detail: String,
    ) -> Self {
        let mut incoming = Self::new((readable, body, 0), queue, traces, |properties, body, now, new_id| {
            Envelope::decode(properties, body, now, new_id)
        });
        incoming.envelope.request = Err(Fault {
            code: FaultCode::Unreadable,
            detail,
            readable: match &incoming.envelope.request {
                Ok(request) => Some(request.identifiers().clone()),
                Err(fault) => fault.readable.clone(),
            },
            fields: Box::default(),
        });
        incoming
    }

    /// Takes a message without decoding its body.
    pub(super) fn undecoded(message: (BasicProperties, Vec<u8>, u64), queue: &str, traces: &Traces) -> Self {
        Self::new(message, queue, traces, |properties, body, now, new_id| {
            Envelope::undecoded(properties, body, now, new_id)
        })
    }

    fn new(
        (properties, body, delivery_tag): (BasicProperties, Vec<u8>, u64),
        queue: &str,
        traces: &Traces,
        decode: impl FnOnce(BasicProperties, Vec<u8>, Timestamp, fn() -> String) -> Envelope,
    ) -> Self {
        let given = TraceContext::from_headers(properties.headers().as_ref());
        let envelope = decode(properties, body, Timestamp::now(), || uuid::Uuid::now_v7().to_string());
        let name = || format!("process {queue}");
        let span = traces.start(name, SpanKind::Consumer, Parent::Producer(given.as_ref()), || {
            let mut attributes = vec![
                KeyValue::new(semconv::MESSAGING_SYSTEM, semconv::RABBITMQ),
                KeyValue::new(semconv::MESSAGING_DESTINATION, queue.to_owned()),
                KeyValue::new(semconv::MESSAGING_OPERATION_NAME, "process"),
                KeyValue::new(semconv::MESSAGING_OPERATION_TYPE, "process"),
                KeyValue::new(semconv::MESSAGING_MESSAGE_ID, envelope.request_id.clone()),
                // Wraps after 2^63 deliveries on one channel.
                KeyValue::new(semconv::MESSAGING_DELIVERY_TAG, delivery_tag.cast_signed()),
                KeyValue::new(
                    semconv::MESSAGING_BODY_SIZE,
                    i64::try_from(envelope.body.len()).unwrap_or(i64::MAX),
                ),
            ];
            let conversation = envelope.correlation_id().map(str::to_owned);
            attributes.extend(conversation.map(|id| KeyValue::new(semconv::MESSAGING_CONVERSATION_ID, id)));
            attributes
        });
        Self { trace_is_new: given.is_none(), envelope, delivery_tag, pending: None, span }
    }

    /// The request's id as the log shows it: an id of over 255 bytes as its hex SHA-256.
    pub(super) fn logged_id(&self) -> Cow<'_, str> {
        outcome::short_id(&self.envelope.request_id)
    }

    /// Whether it can be settled without a call to Trackfinity.
    pub(super) fn needs_no_call(&self, now: Timestamp) -> bool {
        self.pending.is_some() || self.envelope.request.is_err() || self.envelope.is_expired(now)
    }

    /// The trace context of the processing, if it is traced.
    pub(super) fn trace(&self) -> Option<&TraceContext> {
        self.span.context()
    }

    /// The trace that copies have to carry, if the message brought none.
    pub(super) fn new_trace(&self) -> Option<&str> {
        self.trace().filter(|_| self.trace_is_new).map(TraceContext::traceparent)
    }
}

/// Logs with the ids of an [`Incoming`], by which people search. No tracing span has them: decision
/// 136.
macro_rules! log_with_ids {
    ($level:ident, $incoming:expr, $($fields:tt)+) => {{
        let trace = $incoming.trace();
        tracing::$level!(
            request_id = &*$incoming.logged_id(),
            trace_id = trace.map($crate::telemetry::TraceContext::trace_id),
            span_id = trace.map($crate::telemetry::TraceContext::span_id),
            $($fields)+
        )
    }};
}
pub(super) use log_with_ids;
