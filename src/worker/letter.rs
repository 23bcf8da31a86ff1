//! A message on its way, and what is said of it at the end.

use lapin::{BasicProperties, message::Delivery};
use opentelemetry::{KeyValue, trace::SpanKind};
use secrecy::ExposeSecret;

use crate::{
    message::{Envelope, Fault, FaultCode, Outcome, PendingOutcome, Status, Timestamp, headers},
    policy::{Reason, Reply},
    telemetry::{Parent, Span, TraceContext, Traces, semconv},
    trackfinity::Client,
};

/// The most of Trackfinity's answer that goes into an outcome's detail, in bytes.
const MAX_DETAIL_ANSWER_BYTES: usize = 256;

/// A message on its way, with its place in a trace.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) envelope: Envelope,
    pub(super) delivery_tag: u64,
    /// The outcome that is to be published, and nothing else to be done.
    pub(super) pending: Option<PendingOutcome>,
    /// The span of the whole way.
    pub(super) span: Span,
    /// Whether the message came without a trace, so that copies have to carry this one.
    trace_is_new: bool,
}

impl Letter {
    /// Opens a message that was taken from `queue`.
    pub(super) fn open(delivery: Delivery, queue: &str, traces: &Traces, client: &Client) -> Self {
        let Delivery { properties, data, delivery_tag, .. } = delivery;
        let message = (properties, data, delivery_tag);
        let mut letter = Self::new(message, queue, traces, |properties, body, now, new_id| {
            Envelope::decode(properties, body, now, new_id)
        });
        let headers = letter.envelope.properties.headers().as_ref();
        if headers.is_some_and(|headers| headers.contains_key(headers::OUTCOME_MAC)) {
            let key = client.api_key();
            letter.pending = PendingOutcome::read(&letter.envelope, key.expose_secret().as_bytes());
        }
        letter
    }

    /// Opens a message with properties that cannot be read; these are those that can.
    pub(super) fn unreadable(
        readable: BasicProperties,
        body: Vec<u8>,
        queue: &str,
        traces: &Traces,
        detail: String,
    ) -> Self {
        let mut letter = Self::new((readable, body, 0), queue, traces, |properties, body, now, new_id| {
            Envelope::decode(properties, body, now, new_id)
        });
        letter.envelope.request = Err(Fault {
            code: FaultCode::Unreadable,
            detail,
            readable: match &letter.envelope.request {
                Ok(request) => Some(request.identifiers().clone()),
                Err(fault) => fault.readable.clone(),
            },
        });
        letter
    }

    /// Opens a message whose body is not decoded.
    pub(super) fn undecoded(message: (BasicProperties, Vec<u8>, u64), queue: &str, traces: &Traces) -> Self {
        Self::new(message, queue, traces, |properties, body, now, new_id| {
            Envelope::undecoded(properties, body, now, new_id)
        })
    }

    fn new(
        (properties, body, delivery_tag): (BasicProperties, Vec<u8>, u64),
        queue: &str,
        traces: &Traces,
        open: impl FnOnce(BasicProperties, Vec<u8>, Timestamp, fn() -> String) -> Envelope,
    ) -> Self {
        let given = TraceContext::from_headers(properties.headers().as_ref());
        let envelope = open(properties, body, Timestamp::now(), || uuid::Uuid::now_v7().to_string());
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

    /// The place of the whole way in its trace, if it has one.
    pub(super) fn trace(&self) -> Option<&TraceContext> {
        self.span.context()
    }

    /// The trace that copies have to carry, as the message brought none.
    pub(super) fn new_trace(&self) -> Option<&str> {
        self.trace().filter(|_| self.trace_is_new).map(TraceContext::traceparent)
    }

    /// The ids by which people search, for a log line.
    pub(super) fn trace_ids(&self) -> (Option<&str>, Option<&str>) {
        (self.trace().map(TraceContext::trace_id), self.trace().map(TraceContext::span_id))
    }

    pub(super) fn blank_outcome(&self, status: Status, attempts: u32) -> Outcome {
        Outcome {
            status,
            request_id: self.envelope.request_id.clone(),
            request: None,
            attempts,
            http_status: None,
            reason: None,
            detail: None,
            replays: self.envelope.replays,
            first_received_at: self.envelope.first_received_at,
            finished_at: Timestamp::now(),
        }
    }

    pub(super) fn outcome(&self, status: Status, attempts: u32, reply: &Reply) -> Outcome {
        let request = self.envelope.request.as_ref().ok();
        Outcome {
            request: request.map(|request| request.identifiers().clone()),
            http_status: http_status(reply),
            ..self.blank_outcome(status, attempts)
        }
    }

    pub(super) fn failure(&self, status: Status, attempts: u32, reason: Reason, reply: &Reply) -> Outcome {
        Outcome {
            reason: Some(reason.to_string()),
            detail: Some(detail(reason, reply)),
            ..self.outcome(status, attempts, reply)
        }
    }
}

pub(super) fn http_status(reply: &Reply) -> Option<u16> {
    match reply {
        Reply::Response(answer) => Some(answer.status),
        Reply::Timeout | Reply::Connection(_) => None,
    }
}

/// The beginning of Trackfinity's answer, for a dead letter.
pub(super) fn response(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Response(answer) if !answer.body.is_empty() => {
            Some(String::from_utf8_lossy(&answer.body).into_owned())
        }
        _ => None,
    }
}

/// A reason in words, with the beginning of what Trackfinity said.
pub(super) fn detail(reason: Reason, reply: &Reply) -> String {
    let said = match reply {
        Reply::Connection(error) => Some(error.clone()),
        Reply::Timeout => None,
        Reply::Response(_) => response(reply).map(|body| headers::truncate(body, MAX_DETAIL_ANSWER_BYTES)),
    };
    match said {
        Some(said) => format!("{}: {}", reason.describe(), said.trim()),
        None => reason.describe(),
    }
}

/// The error of a call, as OpenTelemetry's conventions for HTTP have it: the status, if it is one of
/// failure, else a code.
pub(super) fn call_error(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Response(answer) => (answer.status >= 400).then(|| answer.status.to_string()),
        Reply::Timeout => Some("timeout".to_owned()),
        Reply::Connection(_) => Some("connection".to_owned()),
    }
}
