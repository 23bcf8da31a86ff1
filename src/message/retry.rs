//! A retry: a copy of the original message that waits in a retry queue for its next attempt.

use lapin::BasicProperties;

use super::{Envelope, headers};

/// Why a request is retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryInfo {
    /// A stable code, as in an outcome. `None` if Trackfinity was not called.
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub http_status: Option<u16>,
    /// Calls that counted as attempts so far.
    pub attempts: u32,
}

impl RetryInfo {
    /// The properties of the copy, at most `max_len` bytes. Its body is the original's. `trace` is
    /// the trace context to add if the message has none.
    pub fn properties(&self, envelope: &Envelope, trace: Option<&str>, max_len: usize) -> BasicProperties {
        let mut added = envelope.history_headers(self.attempts, envelope.first_received_at, trace);
        if let Some(reason) = &self.reason {
            added.required(headers::REASON, reason.as_str());
        }
        if let Some(http_status) = self.http_status {
            added.count(headers::HTTP_STATUS, http_status.into());
        }
        if let Some(detail) = &self.detail {
            added.optional(headers::DETAIL, detail.as_str());
        }
        headers::copy_for_next_queue(&envelope.properties, added, max_len)
    }
}
