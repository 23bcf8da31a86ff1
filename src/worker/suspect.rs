//! Requests that were redelivered often: each may be a poison message, which crashes its worker.

use lapin::message::Delivery;

use crate::{
    message::headers::{self, text},
    telemetry::TraceContext,
};

/// A request that was redelivered this often may be a poison message. It is decoded and called for
/// alone, so that a crash does not count as a failed delivery of other requests (poison-message
/// isolation, decision 41). RabbitMQ dead-letters a request after 20 redeliveries.
const SUSPECT_AFTER_DELIVERIES: u32 = 3;

/// How often a request was redelivered, if that makes it suspect.
pub(super) fn suspect_redeliveries(delivery: &Delivery) -> Option<u32> {
    let count = headers::redeliveries(delivery.redelivered, delivery.properties.headers().as_ref());
    (count >= SUSPECT_AFTER_DELIVERIES).then_some(count)
}

/// Logs a suspect request before it is decoded, because decoding may be what crashes the worker.
pub(super) fn log(delivery: &Delivery, redeliveries: u32) {
    let properties = &delivery.properties;
    let header = |name| properties.headers().as_ref().and_then(|headers| headers.inner().get(name));
    let message_id = properties.message_id().as_ref().map(|id| id.as_str()).filter(|id| !id.is_empty());
    let trace = TraceContext::from_headers(properties.headers().as_ref());
    tracing::warn!(
        event = "request_redelivered",
        request_id = message_id.or_else(|| header(headers::REQUEST_ID).and_then(text)),
        trace_id = trace.as_ref().map(TraceContext::trace_id),
        redeliveries,
        "request was delivered several times and never settled, because workers crashed or lost their connection. \
         After 20 redeliveries RabbitMQ gives it up"
    );
}
