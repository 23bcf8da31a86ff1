//! Publishes outcomes. RabbitMQ refuses an outcome if one listener's queue refuses it, and confirms
//! it only when all queues have it: so one listener could block all requests. Therefore an outcome
//! that is refused, or not confirmed in time, frees its handler slot: its request goes to a retry
//! queue with the outcome in its headers. When it comes back, only the outcome is published; the
//! delay doubles each time.

use std::time::Duration;

use super::{
    SessionPublisher,
    health::{MAX_REFUSALS_IN_A_ROW, PublishKind},
    late_confirms::{LateConfirm, OutcomeKey},
    message::MessagePublisher,
};
use crate::{
    broker::{
        Backoff, Lane, Mandatory, PublishError,
        publisher::{Outgoing, Unconfirmed},
    },
    message::{Outcome, PendingOutcome, Status, Timestamp},
    policy::Tier,
    telemetry::{Span, TraceContext},
    worker::{incoming::log_with_ids, unsettled::Unsettled},
};

/// How long to wait for an outcome's confirm, counted from when its last byte was written.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How often to check whether outcomes that wait for a confirm use half of the handler slots.
const SLOT_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The same while outcomes are known not to be confirmed.
const SLOT_CHECK_INTERVAL_WHILE_UNCONFIRMED: Duration = Duration::from_millis(100);
/// While outcomes with one status are known not to be confirmed, they are published only if fewer
/// outcomes than this wait for their confirms. With some hundred more, RabbitMQ's flow control
/// would block the whole connection.
const MAX_UNCONFIRMED: usize = 200;
/// How long a request waits before its outcome is published again; doubles each time.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(16);

/// Why an outcome is published later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PostponeCause {
    /// A listener's queue refused it, or no queue received it although `results.require_subscriber`
    /// is set.
    Refused,
    Unconfirmed,
}

impl PostponeCause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

impl MessagePublisher<'_> {
    /// Publishes an outcome, or sends its request to a retry queue to publish it later. `retries`:
    /// how often the request has already come back for that.
    pub(in crate::worker) async fn outcome(&self, outcome: &Outcome, retries: u32) -> Result<(), Unsettled> {
        let body = outcome.encode().map_err(Unsettled::Encode)?;
        let mut message = Outgoing {
            exchange: self.session.config.results(),
            routing_key: outcome.status.routing_key(),
            properties: outcome.properties(self.incoming.envelope.correlation_id()),
            body: &body,
        };
        let span = self.span(&message);
        let trace = span.context().map(TraceContext::headers).unwrap_or_default();
        message.properties =
            outcome.with_headers(message.properties, trace, self.session.config.topology().keeps_history());
        let late = (retries > 0)
            .then(|| self.session.config.late_confirms.take(&OutcomeKey::new(outcome.message_id(), &body)))
            .flatten();
        let published = match late {
            Some(LateConfirm::Confirmed { routed }) => Ok(routed),
            Some(LateConfirm::Awaited) => Err(PostponeCause::Unconfirmed),
            None if self.session.is_congested(outcome.status) => Err(PostponeCause::Unconfirmed),
            None => self.session.try_outcome(outcome, &message, span, retries).await?,
        };
        if retries == 0 && self.incoming.envelope.properties.reply_to().is_some() {
            Box::pin(self.reply(&message)).await;
        }
        match published {
            Ok(routed) => {
                self.record_end(outcome);
                if !routed {
                    self.warn_unrouted(outcome);
                }
                Ok(())
            }
            Err(cause) => Box::pin(self.postpone(cause, outcome, retries)).await,
        }
    }

    /// Sends the request to a retry queue with its outcome, unless `retry.give_up_after` is
    /// exceeded.
    async fn postpone(&self, cause: PostponeCause, outcome: &Outcome, retries: u32) -> Result<(), Unsettled> {
        let status = outcome.status.as_str();
        if Timestamp::now().since(outcome.finished_at) >= self.session.limits.give_up_after {
            self.session.telemetry.metrics.outcome_given_up(status);
            log_with_ids!(
                error,
                self.incoming,
                event = "outcome_given_up",
                status,
                cause = cause.as_str(),
                "an outcome is given up: a listener's queue has not accepted it for retry.give_up_after. \
                 Listeners whose queues accepted it have it"
            );
            self.record_end(outcome);
            return Ok(());
        }
        let delay = FIRST_RETRY_DELAY.saturating_mul(1 << retries.min(10)).min(self.session.limits.max_delay);
        let tier = Tier::at_least(delay);
        let pending = PendingOutcome { outcome: outcome.clone(), retries: retries.saturating_add(1) };
        self.pending_outcome(&pending, tier).await?;
        self.session.telemetry.metrics.outcome_postponed(status, cause.as_str());
        self.log_postponed(outcome, cause.as_str(), tier);
        let config = &self.session.config;
        if let Some(left_out) = config.throttle.due(&("outcomes_refused", status, cause.as_str())) {
            tracing::warn!(
                event = "outcomes_refused",
                exchange = config.results(),
                routing_key = outcome.status.routing_key(),
                cause = cause.as_str(),
                left_out,
                "outcomes can't be published: a queue that is bound for them is full, has lost its quorum or \
                 does not answer, or none is bound although results.require_subscriber is set. They are published \
                 again later; other requests continue"
            );
        }
        Ok(())
    }
}

impl SessionPublisher {
    /// Whether a listener's queue already delays so many confirms that no more outcomes should be
    /// published.
    fn is_congested(&self, status: Status) -> bool {
        let unconfirmed = || self.slots.awaiting_confirm() + self.config.late_confirms.awaited();
        self.config.health.is_outcome_unconfirmed(status) && unconfirmed() >= MAX_UNCONFIRMED
    }

    /// Publishes an outcome until it is confirmed, or until a listener's queue has refused it or
    /// has not confirmed it in time.
    async fn try_outcome(
        &self,
        outcome: &Outcome,
        message: &Outgoing<'_>,
        mut span: Span,
        retries: u32,
    ) -> Result<Result<bool, PostponeCause>, Unsettled> {
        let mandatory = match self.config.require_subscriber {
            true => Mandatory::Required(Lane::Outcomes),
            false => Mandatory::Reported,
        };
        let (health, status) = (&self.config.health, outcome.status);
        let mut backoff = Backoff::new();
        let mut refusals = 0;
        loop {
            let error = match self.session.publisher().send(message, mandatory).await {
                Ok(unconfirmed) => match self.await_confirm(outcome, message.body, unconfirmed).await {
                    Some(Ok(routed)) => {
                        if !routed {
                            self.telemetry.metrics.unroutable(PublishKind::Outcome.as_str());
                        }
                        span.clear_error();
                        health.published(PublishKind::Outcome);
                        health.outcome_confirmed(status);
                        return Ok(Ok(routed));
                    }
                    Some(Err(error)) => error,
                    None => {
                        span.set_error("unconfirmed");
                        // RabbitMQ has received it: the delay is a listener's queue.
                        health.published(PublishKind::Outcome);
                        health.outcome_unconfirmed(status);
                        return Ok(Err(PostponeCause::Unconfirmed));
                    }
                },
                Err(error) => error,
            };
            span.set_error(error.code());
            if matches!(error, PublishError::Refused { .. } | PublishError::Unroutable { .. }) {
                refusals += 1;
                // RabbitMQ has answered: the cause is a listener's queue.
                health.published(PublishKind::Outcome);
                let is_known = health.outcome_refused(status);
                if let PublishError::Unroutable { .. } = error {
                    self.telemetry.metrics.unroutable(PublishKind::Outcome.as_str());
                }
                if is_known || retries > 0 || refusals >= MAX_REFUSALS_IN_A_ROW {
                    return Ok(Err(PostponeCause::Refused));
                }
            }
            Box::pin(self.back_off(error, PublishKind::Outcome, &mut backoff)).await?;
        }
    }

    /// Waits for an outcome's confirm; `None` if it does not come in time. Then a background task
    /// waits for it.
    async fn await_confirm(
        &self,
        outcome: &Outcome,
        body: &[u8],
        mut unconfirmed: Unconfirmed,
    ) -> Option<Result<bool, PublishError>> {
        let _awaiting = self.slots.await_confirm();
        let mut waited = Duration::ZERO;
        loop {
            let interval = match self.config.health.is_outcome_unconfirmed(outcome.status) {
                true => SLOT_CHECK_INTERVAL_WHILE_UNCONFIRMED,
                false => SLOT_CHECK_INTERVAL,
            };
            if let Ok(confirmed) = tokio::time::timeout(interval, &mut unconfirmed).await {
                return Some(confirmed);
            }
            if self.status.is_blocked() {
                // RabbitMQ is short of memory or disk, and would not accept the postponed copy
                // either.
                continue;
            }
            waited += interval;
            let is_too_late = waited >= CONFIRM_TIMEOUT || self.slots.are_half_awaiting_confirm();
            if is_too_late && self.config.late_confirms.has_capacity() {
                self.config.late_confirms.await_confirm(
                    OutcomeKey::new(outcome.message_id(), body),
                    unconfirmed,
                    &self.background,
                    self.session_over.clone(),
                );
                return None;
            }
        }
    }
}
