//! Publishes for one message: its dead letter, its outcome, or a copy for a retry.

use std::time::Duration;

use lapin::BasicProperties;
use secrecy::ExposeSecret;

use super::{SessionPublisher, health::PublishKind};
use crate::{
    broker::{Lane, Mandatory, PublishError, publisher::Outgoing, replies},
    message::{DeadLetterInfo, Outcome, PendingOutcome, RetryInfo, headers},
    policy::Tier,
    settle::Publication,
    telemetry::Span,
    worker::{
        incoming::{Incoming, log_with_ids},
        unsettled::Unsettled,
    },
};

/// Publishes for one message of a session.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct MessagePublisher<'a> {
    pub(super) session: &'a SessionPublisher,
    pub(super) incoming: &'a Incoming,
    /// How long the call to Trackfinity took, if there was one.
    pub(super) call_took: Option<Duration>,
    /// Whether the request only goes behind the others.
    is_requeued: bool,
}

impl<'a> MessagePublisher<'a> {
    pub(in crate::worker) fn new(session: &'a SessionPublisher, incoming: &'a Incoming) -> Self {
        Self { session, incoming, call_took: None, is_requeued: false }
    }

    /// The same after a call, for the log.
    pub(in crate::worker) fn after_call(self, call_took: Option<Duration>) -> Self {
        Self { call_took, ..self }
    }

    /// The same for a request that goes back to its queue, behind the others, in place of a tier.
    pub(in crate::worker) fn requeueing(self, is_requeued: bool) -> Self {
        Self { is_requeued, ..self }
    }

    /// Publishes until RabbitMQ has confirmed.
    pub(in crate::worker) async fn publish(&self, publication: &Publication) -> Result<(), Unsettled> {
        match publication {
            Publication::DeadLetter(info) => Box::pin(self.dead_letter(info)).await,
            Publication::Outcome(outcome) => self.outcome(outcome, 0).await,
            Publication::Retry(info, tier) => Box::pin(self.retry(info, *tier)).await,
        }
    }

    async fn dead_letter(&self, info: &DeadLetterInfo) -> Result<(), Unsettled> {
        let max_len = self.session.max_properties_len();
        let properties = info.properties(&self.incoming.envelope, self.incoming.new_trace(), max_len);
        self.publish_dead_letter(properties).await?;
        self.session.telemetry.metrics.dead_lettered(info.status.as_str());
        Ok(())
    }

    /// Publishes a dead letter again, unchanged, that RabbitMQ removed from its queue.
    pub(in crate::worker) async fn republish_dead_letter(&self) -> Result<(), Unsettled> {
        self.publish_dead_letter(headers::without_brokers(&self.incoming.envelope.properties)).await?;
        self.session.warn_restored();
        Ok(())
    }

    async fn publish_dead_letter(&self, properties: BasicProperties) -> Result<(), Unsettled> {
        let message = Outgoing {
            exchange: &self.session.config.dead,
            routing_key: "",
            properties,
            body: &self.incoming.envelope.body,
        };
        let (mandatory, span) = (Mandatory::Required(Lane::DeadLetters), self.span(&message));
        self.session.publish_until_confirmed(&message, mandatory, PublishKind::DeadLetter, span).await?;
        Ok(())
    }

    /// Publishes a copy of the request to a retry queue.
    async fn retry(&self, retry: &RetryInfo, tier: Tier) -> Result<(), Unsettled> {
        let max_len = self.session.max_properties_len();
        let properties = retry.properties(&self.incoming.envelope, self.incoming.new_trace(), max_len);
        if self.is_requeued && self.session.can_requeue() {
            // No retry to count or to log: during a pause this happens again and again.
            match self.requeue(properties.clone()).await {
                Ok(_routed) => return Ok(()),
                Err(error) => self.session.stop_requeueing(&error),
            }
        }
        self.publish_to_tier(properties, tier).await?;
        self.session.telemetry.metrics.retry_scheduled(tier.to_string());
        self.log_retry(retry, tier);
        Ok(())
    }

    /// Publishes a copy of the request, with its outcome, to a retry queue. When the copy comes
    /// back, only the outcome is published.
    pub(super) async fn pending_outcome(
        &self,
        pending: &PendingOutcome,
        tier: Tier,
    ) -> Result<(), Unsettled> {
        let max_len = self.session.max_properties_len();
        let key = self.session.client.api_key();
        let key = key.expose_secret().as_bytes();
        let properties = pending.properties(&self.incoming.envelope, self.incoming.new_trace(), key, max_len);
        self.publish_to_tier(properties.ok_or(Unsettled::Unproven)?, tier).await
    }

    async fn publish_to_tier(&self, properties: BasicProperties, tier: Tier) -> Result<(), Unsettled> {
        let message = Outgoing {
            exchange: &self.session.config.retry,
            routing_key: &tier.to_string(),
            properties,
            body: &self.incoming.envelope.body,
        };
        let (mandatory, span) = (Mandatory::Required(Lane::Requests), self.span(&message));
        self.session.publish_until_confirmed(&message, mandatory, PublishKind::Retry, span).await?;
        Ok(())
    }

    /// Publishes a copy of the request to its own queue, once.
    async fn requeue(&self, properties: BasicProperties) -> Result<bool, PublishError> {
        let body = &self.incoming.envelope.body;
        let message = Outgoing { exchange: "", routing_key: self.session.queue(), properties, body };
        let (mandatory, mut span) = (Mandatory::Required(Lane::Requests), self.span(&message));
        let published = self.session.publish_once(&message, mandatory, PublishKind::Retry).await;
        if let Err(error) = &published {
            span.set_error(error.code());
        }
        published
    }

    /// Counts and logs the end of a request.
    pub(super) fn record_end(&self, outcome: &Outcome) {
        let took = outcome.finished_at.since(outcome.first_received_at);
        self.session.telemetry.metrics.request(outcome.status.as_str(), outcome.reason.as_deref(), took);
        self.log_end(outcome);
    }

    pub(super) fn warn_unrouted(&self, outcome: &Outcome) {
        let config = &self.session.config;
        if let Some(left_out) = config.throttle.due(&("outcome_unrouted", outcome.status)) {
            tracing::warn!(
                event = "outcome_unrouted",
                exchange = config.results,
                routing_key = outcome.status.routing_key(),
                left_out,
                "no queue received an outcome, and it is lost: bind a queue to the exchange with this routing key \
                 if you need such outcomes"
            );
        }
    }

    /// Sends a copy of the outcome to the request's `reply_to`, if only the requester can read that
    /// queue. The queue may no longer exist: that does not delay the request.
    pub(super) async fn reply(&self, outcome: &Outgoing<'_>) {
        let reply_to = self.incoming.envelope.properties.reply_to().as_ref();
        let Some(queue) = reply_to.map(|queue| queue.as_str()).filter(|queue| !queue.is_empty()) else {
            return;
        };
        let Some(routing) = replies::routing(queue, &self.session.config.reply_to_prefixes) else {
            if let Some(left_out) = self.session.config.throttle.due("reply_ignored") {
                log_with_ids!(
                    warn,
                    self.incoming,
                    event = "reply_ignored",
                    left_out,
                    "the outcome is not sent to the request's reply_to: only direct reply-to, exclusive \
                     queues (amq.gen-…, amq_…) and names that begin with one of results.reply_to_prefixes are allowed"
                );
            }
            return;
        };
        let copy = Outgoing { exchange: "", routing_key: queue, ..outcome.clone() };
        let mut span = self.span(&copy);
        if let Err(error) = self.session.replies.send(&copy, routing).await {
            span.set_error("undelivered");
            self.session.telemetry.metrics.unroutable("reply");
            if let Some(left_out) = self.session.config.throttle.due("reply_failed") {
                log_with_ids!(
                    warn,
                    self.incoming,
                    event = "reply_failed",
                    %error,
                    left_out,
                    "the outcome could not be sent to the request's reply_to queue. It was published to the results \
                     exchange all the same"
                );
            }
        }
    }

    pub(super) fn span(&self, message: &Outgoing<'_>) -> Span {
        let message_id = || message.properties.message_id().as_ref().map(|id| id.to_string());
        let traces = &self.session.telemetry.traces;
        traces.start_publish(message.exchange, message.routing_key, message_id, self.incoming.trace())
    }
}
