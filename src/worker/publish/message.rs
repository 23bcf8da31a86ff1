//! Publishes for one message: its dead letter, its outcome, or a copy for a retry.

use lapin::BasicProperties;
use opentelemetry::{KeyValue, trace::SpanKind};
use secrecy::ExposeSecret;

use super::{SessionPublisher, health::PublishKind};
use crate::{
    broker::{Lane, Mandatory, publisher::Outgoing, replies},
    message::{DeadLetterInfo, Outcome, PendingOutcome, RetryInfo, headers},
    policy::Tier,
    settle::Publication,
    telemetry::{Parent, Span, semconv},
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
}

impl<'a> MessagePublisher<'a> {
    pub(in crate::worker) fn new(session: &'a SessionPublisher, incoming: &'a Incoming) -> Self {
        Self { session, incoming }
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
        self.publish_dead_letter(headers::without_brokers(&self.incoming.envelope.properties)).await
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
        self.publish_to_tier(properties, tier).await?;
        self.session.telemetry.metrics.retry_scheduled(tier.to_string());
        log_with_ids!(
            debug,
            self.incoming,
            attempts = retry.attempts,
            reason = retry.reason,
            %tier,
            "scheduled for a retry"
        );
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

    /// Counts and logs the end of a request.
    pub(super) fn record_end(&self, outcome: &Outcome) {
        let took = outcome.finished_at.since(outcome.first_received_at);
        self.session.telemetry.metrics.request(outcome.status.as_str(), outcome.reason.as_deref(), took);
        let (status, attempts) = (outcome.status.as_str(), outcome.attempts);
        match &outcome.reason {
            None => log_with_ids!(debug, self.incoming, status, attempts, "finished"),
            Some(reason) => log_with_ids!(info, self.incoming, status, reason, attempts, "finished"),
        }
    }

    pub(super) fn warn_unrouted(&self, outcome: &Outcome) {
        if self.session.config.unrouted_log.is_due() {
            tracing::warn!(
                exchange = self.session.config.results,
                status = outcome.status.as_str(),
                "no queue receives outcomes like this one: bind a queue if you need them"
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
            log_with_ids!(
                warn,
                self.incoming,
                "reply_to is ignored: it is neither direct reply-to nor an exclusive queue (amq.gen-…, \
                 amq_…), and it begins with none of results.reply_to_prefixes"
            );
            return;
        };
        let copy = Outgoing { exchange: "", routing_key: queue, ..outcome.clone() };
        let mut span = self.span(&copy);
        if let Err(error) = self.session.replies.send(&copy, routing).await {
            span.set_error("undelivered");
            self.session.telemetry.metrics.unroutable("reply");
            log_with_ids!(warn, self.incoming, %error, "the reply could not be delivered");
        }
    }

    pub(super) fn span(&self, message: &Outgoing<'_>) -> Span {
        let destination = if message.exchange.is_empty() { message.routing_key } else { message.exchange };
        let name = || format!("publish {destination}");
        self.session.telemetry.traces.start(
            name,
            SpanKind::Producer,
            Parent::Span(self.incoming.trace()),
            || {
                let message_id = message.properties.message_id().as_ref().map(|id| id.to_string());
                let mut attributes = vec![
                    KeyValue::new(semconv::MESSAGING_SYSTEM, semconv::RABBITMQ),
                    KeyValue::new(semconv::MESSAGING_DESTINATION, destination.to_owned()),
                    KeyValue::new(semconv::MESSAGING_OPERATION_NAME, "publish"),
                    KeyValue::new(semconv::MESSAGING_OPERATION_TYPE, "send"),
                    KeyValue::new(semconv::MESSAGING_ROUTING_KEY, message.routing_key.to_owned()),
                ];
                attributes.extend(message_id.map(|id| KeyValue::new(semconv::MESSAGING_MESSAGE_ID, id)));
                attributes
            },
        )
    }
}
