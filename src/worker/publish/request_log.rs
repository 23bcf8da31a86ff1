//! The log lines about single requests: one for each outcome and each retry, when RabbitMQ has
//! confirmed it. docs/logs.md explains their fields, whose names are stable.

use super::MessagePublisher;
use crate::{
    message::{Outcome, RetryInfo, Status, Timestamp},
    policy::Tier,
    settings::RequestLog,
    telemetry::logs::millis,
    worker::incoming::log_with_ids,
};

impl MessagePublisher<'_> {
    pub(super) fn log_end(&self, outcome: &Outcome) {
        if outcome.status == Status::Unlocked && self.session.config.request_log == RequestLog::Failures {
            return;
        }
        log_with_ids!(
            info,
            self.incoming,
            event = "request_finished",
            status = outcome.status.as_str(),
            reason = outcome.reason.as_deref(),
            // Of other outcomes it may quote Trackfinity, and so an identifier.
            detail = outcome.detail.as_deref().filter(|_| outcome.status == Status::Invalid),
            requested_by = outcome.requested_by.as_deref(),
            http_status = outcome.http_status,
            attempts = outcome.attempts,
            call_ms = self.call_ms(),
            total_ms = self.total_ms(),
            "request finished"
        );
    }

    pub(super) fn log_retry(&self, retry: &RetryInfo, tier: Tier) {
        let message = match retry.reason {
            Some(_) => "request waits for its next attempt",
            None => "request waits, and was not tried: calls are paused",
        };
        log_with_ids!(
            info,
            self.incoming,
            event = "retry_scheduled",
            status = "retry",
            // No call was made because calls are paused.
            reason = retry.reason.as_deref().unwrap_or("paused"),
            http_status = retry.http_status,
            attempts = retry.attempts,
            %tier,
            call_ms = self.call_ms(),
            total_ms = self.total_ms(),
            "{message}"
        );
    }

    pub(super) fn log_postponed(&self, outcome: &Outcome, cause: &str, tier: Tier) {
        log_with_ids!(
            info,
            self.incoming,
            event = "outcome_postponed",
            status = outcome.status.as_str(),
            cause,
            %tier,
            total_ms = self.total_ms(),
            "request is done, but its outcome waits: a listener's queue did not accept it"
        );
    }

    /// How long the call took, in milliseconds; none if there was no call.
    fn call_ms(&self) -> Option<u64> {
        self.call_took.map(millis)
    }

    /// The time since the request was first received, in milliseconds.
    fn total_ms(&self) -> u64 {
        millis(Timestamp::now().since(self.incoming.envelope.first_received_at))
    }
}
