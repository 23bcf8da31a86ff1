//! A parked copy: the original message, waiting in a retry queue for its next attempt.

use lapin::BasicProperties;

use super::{Envelope, headers};

/// Why a request waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// A stable code, as an outcome would give it; none for a request that was not tried.
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub http_status: Option<u16>,
    /// Calls that counted as attempts so far.
    pub attempts: u32,
}

impl Parked {
    /// The properties of the parked copy; its body is the original's. `trace` is the context to
    /// carry where the message came without one. Takes at most `room` bytes.
    #[must_use]
    pub fn stamp(&self, envelope: &Envelope, trace: Option<&str>, room: usize) -> BasicProperties {
        let mut stamp = envelope.stamp(self.attempts);
        if let Some(reason) = &self.reason {
            stamp.fact(headers::REASON, reason.as_str());
        }
        if let Some(http_status) = self.http_status {
            stamp.count(headers::HTTP_STATUS, http_status.into());
        }
        if let Some(trace) = trace {
            stamp.fact(headers::TRACEPARENT, trace);
        }
        if let Some(detail) = &self.detail {
            stamp.text(headers::DETAIL, detail.as_str());
        }
        headers::succeed(&envelope.properties, stamp, room)
    }
}
