//! Publishes for the message handlers of one session, until RabbitMQ has confirmed. If a publish
//! fails, the delivery stays unacknowledged and the publish is repeated. Requeueing would count
//! towards the delivery limit: after 20, RabbitMQ would dead-letter a healthy request.

pub(super) mod health;
mod late_confirms;
mod message;
mod outcomes;
mod request_log;
mod slots;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    health::{PublishHealth, PublishKind},
    late_confirms::LateConfirms,
};
pub(super) use self::{message::MessagePublisher, slots::HandlerSlots};
use super::{status::StatusHandle, unsettled::Unsettled};
use crate::{
    broker::{
        Backoff, Mandatory, PublishError, ReplyPublisher, Session, Topology, TopologyError,
        publisher::Outgoing,
    },
    policy::RetryLimits,
    settings::{RequestLog, Settings},
    telemetry::{LogThrottle, Span, Telemetry},
    trackfinity::Client,
};

/// A publish that is not confirmed for this long is logged and shown in `/readyz`. The wait goes
/// on.
const WARN_UNCONFIRMED_AFTER: Duration = Duration::from_secs(30);
/// How often the topology is declared or checked again, at most.
const REPAIR_INTERVAL: Duration = Duration::from_secs(1);
/// The interval doubles up to this one while the repair fails: each failure costs the connection a
/// channel.
const MAX_REPAIR_INTERVAL: Duration = Duration::from_secs(15);

/// Publishes for the message handlers of one session.
#[derive(Debug)]
pub(super) struct SessionPublisher {
    pub(super) session: Arc<Session>,
    pub(super) replies: Arc<ReplyPublisher>,
    pub(super) config: Arc<PublishConfig>,
    pub(super) status: StatusHandle,
    pub(super) telemetry: Telemetry,
    pub(super) limits: RetryLimits,
    /// Has the key with which workers prove that they wrote an outcome.
    pub(super) client: Client,
    pub(super) slots: HandlerSlots,
    /// Tasks that wait for late confirms, until the session has ended.
    pub(super) background: TaskTracker,
    /// Cancelled when the session has ended.
    pub(super) session_over: CancellationToken,
    /// Whether RabbitMQ did not accept a request for its own queue in this session.
    pub(super) requeue_failed: AtomicBool,
}

/// Where to publish, and what the publishers of all sessions share.
#[derive(Debug)]
pub(super) struct PublishConfig {
    topology: Topology,
    requests: Arc<str>,
    undeliverable: String,
    results: String,
    retry: String,
    dead: String,
    declare: bool,
    require_subscriber: bool,
    reply_to_prefixes: Vec<String>,
    /// When the topology was last repaired, and how long to wait before the next repair. Locked by
    /// the one task that repairs it; all others wait for that task.
    last_repair: tokio::sync::Mutex<Option<(Instant, Duration)>>,
    pub(super) health: Arc<PublishHealth>,
    late_confirms: LateConfirms,
    request_log: RequestLog,
    /// For the lines of all sessions that could be repeated often.
    pub(super) throttle: LogThrottle,
}

impl PublishConfig {
    pub(super) fn new(settings: &Settings) -> Self {
        let topology =
            Topology::new(&settings.rabbitmq.topology_prefix).with_history(&settings.rabbitmq.history);
        Self {
            requests: topology.requests().into(),
            undeliverable: topology.undeliverable(),
            results: topology.results(),
            retry: topology.retry(),
            dead: topology.dead(),
            topology,
            declare: settings.rabbitmq.broker.declare,
            require_subscriber: settings.rabbitmq.results.require_subscriber,
            reply_to_prefixes: settings.rabbitmq.results.reply_to_prefixes.clone(),
            last_repair: tokio::sync::Mutex::default(),
            health: Arc::default(),
            late_confirms: LateConfirms::default(),
            request_log: settings.log.requests,
            throttle: LogThrottle::default(),
        }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The exchange that outcomes are published to.
    pub(super) fn results(&self) -> &str {
        &self.results
    }
}

impl SessionPublisher {
    /// The queue that requests are consumed from.
    pub(super) fn queue(&self) -> &Arc<str> {
        &self.config.requests
    }

    /// Whether requests may be published to their own queue. Needs write on the default exchange, which
    /// the user need not have.
    pub(super) fn can_requeue(&self) -> bool {
        !self.requeue_failed.load(Ordering::Relaxed)
    }

    /// Not again in this session: each refusal costs a channel.
    fn stop_requeueing(&self, error: &PublishError) {
        tracing::debug!(%error, "a request could not be put back into its queue: it goes to a retry queue");
        self.requeue_failed.store(true, Ordering::Relaxed);
    }

    /// The queue of what RabbitMQ gave up.
    pub(super) fn undeliverable(&self) -> &str {
        &self.config.undeliverable
    }

    /// The exchange of dead letters.
    pub(super) fn dead(&self) -> &str {
        &self.config.dead
    }

    /// How large the properties of a message may be, in bytes.
    pub(super) fn max_properties_len(&self) -> usize {
        self.session.publisher().max_properties_len()
    }

    /// Publishes until RabbitMQ confirms, or until the session has ended. Repeats, with backoff,
    /// after a nack, a return, or the loss of the channel or the connection. Waits for a confirm
    /// while its channel is open; if that takes too long, RabbitMQ's `consumer_timeout` ends the
    /// session.
    async fn publish_until_confirmed(
        &self,
        message: &Outgoing<'_>,
        mandatory: Mandatory,
        kind: PublishKind,
        mut span: Span,
    ) -> Result<bool, Unsettled> {
        let mut backoff = Backoff::new();
        loop {
            let error = match self.publish_once(message, mandatory, kind).await {
                Ok(routed) => {
                    self.config.health.published(kind);
                    span.clear_error();
                    return Ok(routed);
                }
                Err(error) => error,
            };
            span.set_error(error.code());
            Box::pin(self.back_off(error, kind, &mut backoff)).await?;
        }
    }

    /// Publishes once, and waits for the confirm. Returns whether a queue received the message.
    async fn publish_once(
        &self,
        message: &Outgoing<'_>,
        mandatory: Mandatory,
        kind: PublishKind,
    ) -> Result<bool, PublishError> {
        let mut unconfirmed = self.session.publisher().send(message, mandatory).await?;
        loop {
            match tokio::time::timeout(WARN_UNCONFIRMED_AFTER, &mut unconfirmed).await {
                Ok(confirmed) => return confirmed,
                Err(_elapsed) => {
                    let (error, cause) = match self.status.is_blocked() {
                        true => ("RabbitMQ blocks publishing", "it is short of memory or disk"),
                        false => (
                            "RabbitMQ does not confirm them: their queue may have lost its quorum",
                            "the queue may have lost its quorum",
                        ),
                    };
                    self.config.health.failed(kind, error);
                    let line = ("publish_unconfirmed", kind.as_str(), cause);
                    if let Some(left_out) = self.config.throttle.due(&line) {
                        tracing::warn!(
                            event = "publish_unconfirmed",
                            kind = kind.as_str(),
                            left_out,
                            "RabbitMQ has not confirmed a publish for 30 s: {cause}. The request waits, and no \
                             request is lost"
                        );
                    }
                }
            }
        }
    }

    /// Waits until a publish may be repeated, and repairs the topology if it may be the cause.
    pub(super) async fn back_off(
        &self,
        error: PublishError,
        kind: PublishKind,
        backoff: &mut Backoff,
    ) -> Result<(), Unsettled> {
        if matches!(error, PublishError::Closed) {
            return Err(Unsettled::SessionEnded);
        }
        // Unroutable outcomes are counted where they are published: not all of them come here.
        if kind != PublishKind::Outcome && matches!(error, PublishError::Unroutable { .. }) {
            self.telemetry.metrics.unroutable(kind.as_str());
        }
        let is_refusal = matches!(error, PublishError::Refused { .. } | PublishError::Unroutable { .. });
        if !(kind == PublishKind::Outcome && is_refusal) {
            self.config.health.failed(kind, &error.to_string());
        }
        let line = ("publish_failed", kind.as_str(), error.to_string());
        if let Some(left_out) = self.config.throttle.due(&line) {
            tracing::warn!(
                event = "publish_failed",
                kind = kind.as_str(),
                %error,
                left_out,
                "a publish failed and is repeated until RabbitMQ accepts it. The request waits, and no request is \
                 lost"
            );
        }
        let wait = backoff.next(fastrand::f64());
        tokio::select! {
            () = self.session_over.cancelled() => return Err(Unsettled::SessionEnded),
            () = tokio::time::sleep(wait) => {}
        }
        match error {
            PublishError::Unroutable { .. }
            | PublishError::ExchangeRefused(_)
            | PublishError::ChannelClosed(_) => self.repair_topology().await,
            _ => Ok(()),
        }
    }

    /// Checks a topology that was found wrong until it is right again. Publishes may succeed
    /// earlier, and then nothing else would clear the status. Ends with the session.
    pub(super) async fn recheck_topology(&self) -> Unsettled {
        loop {
            tokio::time::sleep(REPAIR_INTERVAL).await;
            if self.status.is_topology_wrong()
                && let Err(error) = self.repair_topology().await
            {
                return error;
            }
        }
    }

    /// Declares again what was deleted. If this worker does not declare the topology, checks it,
    /// and reports what is missing.
    pub(super) async fn repair_topology(&self) -> Result<(), Unsettled> {
        let mut last_repair = tokio::select! {
            () = self.session_over.cancelled() => return Err(Unsettled::SessionEnded),
            last_repair = self.config.last_repair.lock() => last_repair,
        };
        if last_repair.is_some_and(|(at, interval)| at.elapsed() < interval) {
            return Ok(());
        }
        let (topology, connection) = (self.config.topology(), self.session.consuming());
        let repair = async {
            match self.config.declare {
                true => topology.declare(connection).await,
                false => topology.check(connection).await,
            }
        };
        let repaired = tokio::select! {
            () = self.session_over.cancelled() => return Err(Unsettled::SessionEnded),
            repaired = repair => repaired,
        };
        if let Err(TopologyError::NoChannel(_)) = &repaired {
            // RabbitMQ has closed so many channels that no id is left: lapin never uses an id
            // again.
            return Err(Unsettled::NoChannel);
        }
        let interval = match (&repaired, *last_repair) {
            (Err(_), Some((_, last))) => (last * 2).min(MAX_REPAIR_INTERVAL),
            _ => REPAIR_INTERVAL,
        };
        *last_repair = Some((Instant::now(), interval));
        if let Err(error) = &repaired
            && let Some(left_out) = self.config.throttle.due(&("topology_wrong", error.to_string()))
        {
            tracing::error!(
                event = "topology_wrong",
                %error,
                left_out,
                "an exchange or a queue is missing or differs: see `unlocker check`"
            );
        }
        self.status.set_topology(repaired.err().map(|error| error.to_string()));
        Ok(())
    }
}
