//! What a message's way publishes, until the broker has confirmed it. Whatever stands in the way,
//! the delivery is held meanwhile: to give it back would count as a failed delivery, and after
//! twenty the broker takes an innocent request for a deadly one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::{KeyValue, trace::SpanKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Unsettled, letter::Letter, status::StatusBoard};
use crate::{
    broker::{
        Backoff, Lane, Mandatory, PublishError, Publisher, Replies, Session, Topology, publisher::Outgoing,
        replies,
    },
    message::{Death, Outcome, Parked},
    policy::Tier,
    telemetry::{Parent, Span, Telemetry, names},
};

/// How often the topology is declared or checked again, at most.
const MEND_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes for the messages of one session.
#[derive(Debug)]
pub(super) struct Publishing {
    pub(super) session: Arc<Session>,
    pub(super) replies: Arc<Replies>,
    pub(super) targets: Arc<Targets>,
    pub(super) status: StatusBoard,
    pub(super) telemetry: Telemetry,
    /// Cancelled when the session is over.
    pub(super) over: CancellationToken,
}

/// Where messages go.
#[derive(Debug)]
pub(super) struct Targets {
    topology: Topology,
    requests: Arc<str>,
    results: String,
    retry: String,
    dead: String,
    declare: bool,
    require_subscriber: bool,
    reply_to_prefixes: Vec<String>,
    /// Held by the one task that mends the topology; all others wait for it.
    mended_at: tokio::sync::Mutex<Option<Instant>>,
    failing: Reminder,
    unheard: Reminder,
}

impl Targets {
    pub(super) fn new(settings: &crate::settings::Settings) -> Self {
        let topology = Topology::new(&settings.topology_prefix);
        Self {
            requests: topology.requests().into(),
            results: topology.results(),
            retry: topology.retry(),
            dead: topology.dead(),
            topology,
            declare: settings.broker.declare,
            require_subscriber: settings.results.require_subscriber,
            reply_to_prefixes: settings.results.reply_to_prefixes.clone(),
            mended_at: tokio::sync::Mutex::default(),
            failing: Reminder::every(Duration::from_secs(10)),
            unheard: Reminder::every(Duration::from_secs(60)),
        }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }
}

impl Publishing {
    /// The queue that requests are taken from.
    pub(super) fn queue(&self) -> &Arc<str> {
        &self.targets.requests
    }

    fn publisher(&self) -> &Publisher {
        self.session.publisher()
    }

    pub(super) async fn dead_letter(&self, death: &Death, letter: &Letter) -> Result<(), Unsettled> {
        let max_len = self.publisher().max_properties_len();
        let message = Outgoing {
            exchange: &self.targets.dead,
            routing_key: "",
            properties: death.stamp(&letter.envelope, letter.new_trace(), max_len),
            body: &letter.envelope.body,
        };
        let span = self.span(&message, letter);
        self.until_confirmed(&message, Mandatory::Required(Lane::DeadLetters), "dead_letter", span).await?;
        self.telemetry.metrics.dead_lettered(death.status.as_str());
        Ok(())
    }

    pub(super) async fn parked(&self, parked: &Parked, tier: Tier, letter: &Letter) -> Result<(), Unsettled> {
        let max_len = self.publisher().max_properties_len();
        let message = Outgoing {
            exchange: &self.targets.retry,
            routing_key: &tier.to_string(),
            properties: parked.stamp(&letter.envelope, letter.new_trace(), max_len),
            body: &letter.envelope.body,
        };
        let span = self.span(&message, letter);
        self.until_confirmed(&message, Mandatory::Required(Lane::Requests), "parked", span).await?;
        self.telemetry.metrics.parked(tier.to_string());
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

    pub(super) async fn outcome(&self, outcome: &Outcome, letter: &Letter) -> Result<(), Unsettled> {
        let body = outcome.encode().unwrap_or_default();
        let mut message = Outgoing {
            exchange: &self.targets.results,
            routing_key: outcome.status.routing_key(),
            properties: outcome.properties(letter.envelope.correlation_id()),
            body: &body,
        };
        let mandatory = match self.targets.require_subscriber {
            true => Mandatory::Required(Lane::Outcomes),
            false => Mandatory::Reported,
        };
        let span = self.span(&message, letter);
        if let Some(trace) = span.context() {
            message.properties = message.properties.with_headers(trace.headers());
        }
        let routed = self.until_confirmed(&message, mandatory, "outcome", span).await?;
        if letter.envelope.properties.reply_to().is_some() {
            Box::pin(self.reply(&message, letter)).await;
        }
        let way = outcome.finished_at.since(outcome.first_received_at);
        self.telemetry.metrics.request(outcome.status.as_str(), outcome.reason.as_deref(), way);
        report(outcome, letter);
        if !routed && self.targets.unheard.due() {
            tracing::warn!(
                exchange = self.targets.results,
                status = outcome.status.as_str(),
                "no queue receives outcomes like this one: bind one, if anybody is to hear of them"
            );
        }
        Ok(())
    }

    /// A copy for the one who asked, if the address is one that only the asker can read. It may be
    /// gone by now; that is no reason to hold the request.
    async fn reply(&self, outcome: &Outgoing<'_>, letter: &Letter) {
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
            span.fail("undelivered");
            self.telemetry.metrics.unroutable("reply");
            tracing::warn!(request_id, trace_id, span_id, %error, "the reply could not be delivered");
        }
    }

    fn span(&self, message: &Outgoing<'_>, letter: &Letter) -> Span {
        let destination = if message.exchange.is_empty() { message.routing_key } else { message.exchange };
        let name = || format!("publish {destination}");
        self.telemetry.traces.start(name, SpanKind::Producer, Parent::Span(letter.trace()), || {
            let message_id = message.properties.message_id().as_ref().map(|id| id.to_string());
            let mut attributes = vec![
                KeyValue::new(names::MESSAGING_SYSTEM, names::RABBITMQ),
                KeyValue::new(names::MESSAGING_DESTINATION, destination.to_owned()),
                KeyValue::new(names::MESSAGING_OPERATION_NAME, "publish"),
                KeyValue::new(names::MESSAGING_OPERATION_TYPE, "send"),
                KeyValue::new(names::MESSAGING_ROUTING_KEY, message.routing_key.to_owned()),
            ];
            attributes.extend(message_id.map(|id| KeyValue::new(names::MESSAGING_MESSAGE_ID, id)));
            attributes
        })
    }

    /// Publishes until it is confirmed, or until the session is over: again, with backoff, after a
    /// nack, a return, or the loss of the channel or the connection. `kind` is a label.
    async fn until_confirmed(
        &self,
        message: &Outgoing<'_>,
        mandatory: Mandatory,
        kind: &'static str,
        mut span: Span,
    ) -> Result<bool, Unsettled> {
        let mut backoff = Backoff::new();
        loop {
            let error = match self.publisher().publish(message, mandatory).await {
                Ok(routed) => {
                    if !routed {
                        self.telemetry.metrics.unroutable(kind);
                    }
                    span.recover();
                    return Ok(routed);
                }
                Err(error) => error,
            };
            span.fail(error.code());
            Box::pin(self.overcome(error, kind, &mut backoff)).await?;
        }
    }

    /// Waits until a publish may be repeated, and mends what stood in its way.
    async fn overcome(
        &self,
        error: PublishError,
        kind: &'static str,
        backoff: &mut Backoff,
    ) -> Result<(), Unsettled> {
        if matches!(error, PublishError::Closed) {
            return Err(Unsettled::SessionEnded);
        }
        if matches!(error, PublishError::Unroutable { .. }) {
            self.telemetry.metrics.unroutable(kind);
        }
        if self.targets.failing.due() {
            tracing::warn!(%error, "publishes fail; their requests are held and the publishes repeated");
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

    /// Puts back what somebody deleted, if this worker may; else says what is missing.
    async fn mend(&self) -> Result<(), Unsettled> {
        let mut mended_at = tokio::select! {
            () = self.over.cancelled() => return Err(Unsettled::SessionEnded),
            mended_at = self.targets.mended_at.lock() => mended_at,
        };
        if mended_at.is_some_and(|at| at.elapsed() < MEND_INTERVAL) {
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
        *mended_at = Some(Instant::now());
        if let Err(error) = &mended {
            tracing::error!(%error, "the topology is wrong");
        }
        self.status.topology(mended.err().map(|error| error.to_string()));
        Ok(())
    }
}

/// Keeps a log line from coming too often.
#[derive(Debug)]
struct Reminder {
    interval: Duration,
    last: Mutex<Option<Instant>>,
}

impl Reminder {
    fn every(interval: Duration) -> Self {
        Self { interval, last: Mutex::default() }
    }

    /// Whether it is time to say it, for the first time or again.
    fn due(&self) -> bool {
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
