//! What a message's way publishes, until the broker has confirmed it. Whatever stands in the way,
//! the delivery is held meanwhile: to give it back would count as a failed delivery, and after
//! twenty the broker takes an innocent request for a deadly one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::{KeyValue, trace::SpanKind};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Unsettled,
    late_confirms::LateConfirms,
    letter::Letter,
    outcomes::Places,
    publish_health::{PublishHealth, PublishKind},
    status::StatusBoard,
};
use crate::{
    broker::{
        Backoff, Lane, Mandatory, PublishError, Publisher, ReplyPublisher, Session, Topology, TopologyError,
        publisher::Outgoing, replies,
    },
    message::{DeadLetterInfo, Outcome, PendingOutcome, RetryInfo, headers},
    policy::{RetryLimits, Tier},
    telemetry::{Parent, Span, Telemetry, semconv},
    trackfinity::Client,
};

/// A publish that is not confirmed for this long is logged and shown in `/readyz`; the wait goes on.
const UNCONFIRMED_AFTER: Duration = Duration::from_secs(30);
/// How often the topology is declared or checked again, at most.
const MEND_INTERVAL: Duration = Duration::from_secs(1);
/// The same while it fails again and again: each time costs the connection a channel.
const MAX_MEND_INTERVAL: Duration = Duration::from_secs(15);

/// Publishes for the messages of one session.
#[derive(Debug)]
pub(super) struct Publishing {
    pub(super) session: Arc<Session>,
    pub(super) replies: Arc<ReplyPublisher>,
    pub(super) targets: Arc<Targets>,
    pub(super) status: StatusBoard,
    pub(super) telemetry: Telemetry,
    pub(super) limits: RetryLimits,
    /// Has the key by which workers prove that they wrote an outcome.
    pub(super) client: Client,
    pub(super) places: Places,
    /// Waits for late confirms, until the session is over.
    pub(super) background: TaskTracker,
    /// Cancelled when the session is over.
    pub(super) over: CancellationToken,
}

/// Where messages go.
#[derive(Debug)]
pub(super) struct Targets {
    topology: Topology,
    requests: Arc<str>,
    undeliverable: String,
    results: String,
    retry: String,
    dead: String,
    declare: bool,
    pub(super) require_subscriber: bool,
    reply_to_prefixes: Vec<String>,
    /// Held by the one task that mends the topology; all others wait for it.
    mended_at: tokio::sync::Mutex<Option<(Instant, Duration)>>,
    pub(super) health: Arc<PublishHealth>,
    pub(super) late_confirms: LateConfirms,
    failing: Reminder,
    unheard: Reminder,
    pub(super) postponed_log: Reminder,
}

impl Targets {
    pub(super) fn new(settings: &crate::settings::Settings) -> Self {
        let topology = Topology::new(&settings.topology_prefix);
        Self {
            requests: topology.requests().into(),
            undeliverable: topology.undeliverable(),
            results: topology.results(),
            retry: topology.retry(),
            dead: topology.dead(),
            topology,
            declare: settings.broker.declare,
            require_subscriber: settings.results.require_subscriber,
            reply_to_prefixes: settings.results.reply_to_prefixes.clone(),
            mended_at: tokio::sync::Mutex::default(),
            health: Arc::default(),
            late_confirms: LateConfirms::default(),
            failing: Reminder::every(Duration::from_secs(60)),
            unheard: Reminder::every(Duration::from_secs(60)),
            postponed_log: Reminder::every(Duration::from_secs(60)),
        }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The exchange outcomes are published to.
    pub(super) fn results(&self) -> &str {
        &self.results
    }
}

impl Publishing {
    /// The queue that requests are taken from.
    pub(super) fn queue(&self) -> &Arc<str> {
        &self.targets.requests
    }

    /// The queue of what RabbitMQ gave up.
    pub(super) fn undeliverable(&self) -> &str {
        &self.targets.undeliverable
    }

    /// The exchange of dead letters.
    pub(super) fn dead(&self) -> &str {
        &self.targets.dead
    }

    pub(super) fn publisher(&self) -> &Publisher {
        self.session.publisher()
    }

    pub(super) async fn dead_letter(&self, death: &DeadLetterInfo, letter: &Letter) -> Result<(), Unsettled> {
        let max_len = self.publisher().max_properties_len();
        let message = Outgoing {
            exchange: &self.targets.dead,
            routing_key: "",
            properties: death.properties(&letter.envelope, letter.new_trace(), max_len),
            body: &letter.envelope.body,
        };
        let span = self.span(&message, letter);
        self.until_confirmed(&message, Mandatory::Required(Lane::DeadLetters), PublishKind::DeadLetter, span)
            .await?;
        self.telemetry.metrics.dead_lettered(death.status.as_str());
        Ok(())
    }

    pub(super) async fn parked(
        &self,
        parked: &RetryInfo,
        tier: Tier,
        letter: &Letter,
    ) -> Result<(), Unsettled> {
        let max_len = self.publisher().max_properties_len();
        let message = Outgoing {
            exchange: &self.targets.retry,
            routing_key: &tier.to_string(),
            properties: parked.properties(&letter.envelope, letter.new_trace(), max_len),
            body: &letter.envelope.body,
        };
        let span = self.span(&message, letter);
        self.until_confirmed(&message, Mandatory::Required(Lane::Requests), PublishKind::Retry, span).await?;
        self.telemetry.metrics.retry_scheduled(tier.to_string());
        let (trace_id, span_id) = letter.trace_ids();
        tracing::debug!(
            request_id = letter.envelope.request_id,
            trace_id,
            span_id,
            attempts = parked.attempts,
            reason = parked.reason,
            %tier,
            "parked"
        );
        Ok(())
    }

    /// Lets a request wait in a tier until its outcome is published again.
    pub(super) async fn pending_outcome(
        &self,
        pending: &PendingOutcome,
        tier: Tier,
        letter: &Letter,
    ) -> Result<(), Unsettled> {
        let max_len = self.publisher().max_properties_len();
        let key = self.client.api_key();
        let key = key.expose_secret().as_bytes();
        let properties = pending.properties(&letter.envelope, letter.new_trace(), key, max_len);
        let message = Outgoing {
            exchange: &self.targets.retry,
            routing_key: &tier.to_string(),
            properties: properties.ok_or(Unsettled::Unproven)?,
            body: &letter.envelope.body,
        };
        let span = self.span(&message, letter);
        self.until_confirmed(&message, Mandatory::Required(Lane::Requests), PublishKind::Retry, span).await?;
        Ok(())
    }

    /// Puts a dead letter back that RabbitMQ threw out of its queue, as it was.
    pub(super) async fn put_back(&self, letter: &Letter) -> Result<(), Unsettled> {
        let message = Outgoing {
            exchange: &self.targets.dead,
            routing_key: "",
            properties: headers::without_brokers(&letter.envelope.properties),
            body: &letter.envelope.body,
        };
        let span = self.span(&message, letter);
        let mandatory = Mandatory::Required(Lane::DeadLetters);
        self.until_confirmed(&message, mandatory, PublishKind::DeadLetter, span).await?;
        Ok(())
    }

    /// Counts and logs the end of a request.
    pub(super) fn finished(&self, outcome: &Outcome, letter: &Letter) {
        let took = outcome.finished_at.since(outcome.first_received_at);
        self.telemetry.metrics.request(outcome.status.as_str(), outcome.reason.as_deref(), took);
        report(outcome, letter);
    }

    pub(super) fn warn_unrouted(&self, outcome: &Outcome) {
        if self.targets.unheard.due() {
            tracing::warn!(
                exchange = self.targets.results,
                status = outcome.status.as_str(),
                "no queue receives outcomes like this one: bind one, if anybody is to hear of them"
            );
        }
    }

    /// A copy for the one who asked, if the address is one that only the asker can read. It may be
    /// gone by now; that is no reason to hold the request.
    pub(super) async fn reply(&self, outcome: &Outgoing<'_>, letter: &Letter) {
        let reply_to = letter.envelope.properties.reply_to().as_ref();
        let Some(queue) = reply_to.map(|queue| queue.as_str()).filter(|queue| !queue.is_empty()) else {
            return;
        };
        let request_id = letter.envelope.request_id.as_str();
        let (trace_id, span_id) = letter.trace_ids();
        let Some(routing) = replies::routing(queue, &self.targets.reply_to_prefixes) else {
            tracing::warn!(
                request_id,
                trace_id,
                span_id,
                "reply_to is ignored: it is neither a reply queue of RabbitMQ's nor begins with \
                 one of results.reply_to_prefixes"
            );
            return;
        };
        let copy = Outgoing { exchange: "", routing_key: queue, ..outcome.clone() };
        let mut span = self.span(&copy, letter);
        if let Err(error) = self.replies.send(&copy, routing).await {
            span.set_error("undelivered");
            self.telemetry.metrics.unroutable("reply");
            tracing::warn!(request_id, trace_id, span_id, %error, "the reply could not be delivered");
        }
    }

    pub(super) fn span(&self, message: &Outgoing<'_>, letter: &Letter) -> Span {
        let destination = if message.exchange.is_empty() { message.routing_key } else { message.exchange };
        let name = || format!("publish {destination}");
        self.telemetry.traces.start(name, SpanKind::Producer, Parent::Span(letter.trace()), || {
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
        })
    }

    /// Publishes until it is confirmed, or until the session is over: again, with backoff, after a
    /// nack, a return, or the loss of the channel or the connection. A confirm is waited for as long as
    /// its channel lives; behind that stands RabbitMQ's `consumer_timeout`, which ends the session.
    async fn until_confirmed(
        &self,
        message: &Outgoing<'_>,
        mandatory: Mandatory,
        kind: PublishKind,
        mut span: Span,
    ) -> Result<bool, Unsettled> {
        let mut backoff = Backoff::new();
        loop {
            let error = match self.confirmed(message, mandatory, kind).await {
                Ok(routed) => {
                    self.targets.health.published(kind);
                    span.clear_error();
                    return Ok(routed);
                }
                Err(error) => error,
            };
            span.set_error(error.code());
            Box::pin(self.overcome(error, kind, &mut backoff)).await?;
        }
    }

    async fn confirmed(
        &self,
        message: &Outgoing<'_>,
        mandatory: Mandatory,
        kind: PublishKind,
    ) -> Result<bool, PublishError> {
        let mut unconfirmed = self.publisher().send(message, mandatory).await?;
        loop {
            match tokio::time::timeout(UNCONFIRMED_AFTER, &mut unconfirmed).await {
                Ok(confirmed) => return confirmed,
                Err(_elapsed) => {
                    let error = "RabbitMQ does not confirm them: their queue may have lost its quorum";
                    self.targets.health.failed(kind, error);
                    if self.targets.failing.due() {
                        tracing::warn!(
                            kind = kind.as_str(),
                            "publishes are not confirmed; their requests are held"
                        );
                    }
                }
            }
        }
    }

    /// Waits until a publish may be repeated, and mends what stood in its way.
    pub(super) async fn overcome(
        &self,
        error: PublishError,
        kind: PublishKind,
        backoff: &mut Backoff,
    ) -> Result<(), Unsettled> {
        if matches!(error, PublishError::Closed) {
            return Err(Unsettled::SessionEnded);
        }
        // Outcomes are counted where they are published: not all of them come here.
        if kind != PublishKind::Outcome && matches!(error, PublishError::Unroutable { .. }) {
            self.telemetry.metrics.unroutable(kind.as_str());
        }
        let is_listeners = matches!(error, PublishError::Refused { .. } | PublishError::Unroutable { .. });
        if !(kind == PublishKind::Outcome && is_listeners) {
            self.targets.health.failed(kind, &error.to_string());
        }
        if self.targets.failing.due() {
            tracing::warn!(kind = kind.as_str(), %error, "publishes fail; their requests are held and the publishes repeated");
        }
        let wait = backoff.next(fastrand::f64());
        tokio::select! {
            () = self.over.cancelled() => return Err(Unsettled::SessionEnded),
            () = tokio::time::sleep(wait) => {}
        }
        match error {
            PublishError::Unroutable { .. } | PublishError::ChannelClosed(_) => self.mend().await,
            _ => Ok(()),
        }
    }

    /// Looks again and again at a topology that was found wrong: what is published may succeed before,
    /// and nobody would say that all is well. Ends with the session.
    pub(super) async fn recheck_topology(&self) -> Unsettled {
        loop {
            tokio::time::sleep(MEND_INTERVAL).await;
            if self.status.is_topology_wrong()
                && let Err(error) = self.mend().await
            {
                return error;
            }
        }
    }

    /// Puts back what somebody deleted, if this worker may; else says what is missing.
    pub(super) async fn mend(&self) -> Result<(), Unsettled> {
        let mut mended_at = tokio::select! {
            () = self.over.cancelled() => return Err(Unsettled::SessionEnded),
            mended_at = self.targets.mended_at.lock() => mended_at,
        };
        if mended_at.is_some_and(|(at, interval)| at.elapsed() < interval) {
            return Ok(());
        }
        let (topology, connection) = (self.targets.topology(), self.session.consuming());
        let mend = async {
            match self.targets.declare {
                true => topology.declare(connection).await,
                false => topology.check(connection).await,
            }
        };
        let mended = tokio::select! {
            () = self.over.cancelled() => return Err(Unsettled::SessionEnded),
            mended = mend => mended,
        };
        if let Err(TopologyError::NoChannel(_)) = &mended {
            // RabbitMQ has closed so many that their ids have come round (lapin uses none of them again).
            return Err(Unsettled::NoChannel);
        }
        let interval = match (&mended, *mended_at) {
            (Err(_), Some((_, last))) => (last * 2).min(MAX_MEND_INTERVAL),
            _ => MEND_INTERVAL,
        };
        *mended_at = Some((Instant::now(), interval));
        if let Err(error) = &mended {
            tracing::error!(%error, "the topology is wrong");
        }
        self.status.topology(mended.err().map(|error| error.to_string()));
        Ok(())
    }
}

/// Keeps a log line from coming too often.
#[derive(Debug)]
pub(super) struct Reminder {
    interval: Duration,
    last: Mutex<Option<Instant>>,
}

impl Reminder {
    fn every(interval: Duration) -> Self {
        Self { interval, last: Mutex::default() }
    }

    /// Whether it is time to say it, for the first time or again.
    pub(super) fn due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|at| at.elapsed() >= self.interval);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

fn report(outcome: &Outcome, letter: &Letter) {
    let request_id = outcome.request_id.as_str();
    let (trace_id, span_id) = letter.trace_ids();
    let (status, attempts) = (outcome.status.as_str(), outcome.attempts);
    match &outcome.reason {
        None => tracing::debug!(request_id, trace_id, span_id, status, attempts, "finished"),
        Some(reason) => {
            tracing::info!(request_id, trace_id, span_id, status, reason, attempts, "finished");
        }
    }
}
