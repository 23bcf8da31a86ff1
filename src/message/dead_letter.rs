//! A dead letter: the original message, stamped with why it died.

use lapin::BasicProperties;

use super::{Envelope, Status, Timestamp, headers};

/// The most of Trackfinity's answer that is kept with a dead letter, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 1024;

/// Why and how a request died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    pub status: Status,
    /// A stable code, as in the outcome.
    pub reason: String,
    pub detail: Option<String>,
    pub http_status: Option<u16>,
    /// The beginning of Trackfinity's answer.
    pub response: Option<String>,
    /// Calls that counted as attempts, the last one included.
    pub attempts: u32,
    pub dead_at: Timestamp,
}

impl Death {
    /// The properties of the dead letter; its body is the original's. `trace` is the context to
    /// carry where the message came without one. Takes at most `room` bytes.
    #[must_use]
    pub fn stamp(&self, envelope: &Envelope, trace: Option<&str>, room: usize) -> BasicProperties {
        let mut stamp = envelope.stamp(self.attempts);
        stamp.fact(headers::STATUS, self.status.as_str());
        stamp.fact(headers::REASON, self.reason.as_str());
        stamp.fact(headers::DEAD_AT, self.dead_at.to_string());
        if let Some(http_status) = self.http_status {
            stamp.count(headers::HTTP_STATUS, http_status.into());
        }
        if let Some(trace) = trace {
            stamp.fact(headers::TRACEPARENT, trace);
        }
        if let Some(detail) = &self.detail {
            stamp.text(headers::DETAIL, detail.as_str());
        }
        if let Some(response) = &self.response {
            stamp.text(headers::RESPONSE, headers::truncate(response.clone(), MAX_RESPONSE_BYTES));
        }
        headers::succeed(&envelope.properties, stamp, room)
    }
}
