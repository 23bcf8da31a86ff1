//! Opens one session with RabbitMQ after another, until the worker stops.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    acks::AckTracker,
    calls::CallGauge,
    concurrency::{ConcurrencyLimit, MAX_BASELINE_INTERVAL},
    consume::ConsumeLoop,
    handler::Handler,
    publish::{HandlerSlots, PublishConfig, SessionPublisher, health::PublishHealth},
    queues::QueueMonitor,
    rate::RateLimiter,
    session_end::{FINISH_TIMEOUT, SessionEnd, SessionError},
    shared_breaker::SharedBreaker,
    status::StatusHandle,
    tasks::Tasks,
    undeliverable::Undeliverable,
    unreadable::Unreadable,
};
use crate::{
    broker::{
        Backoff, ConnectError, Connector, ReplyPublisher, Session, TopologyError, session::SessionEvents,
    },
    settings::Settings,
    telemetry::{Telemetry, logs::millis},
    trackfinity::{BuildError, Client},
};

/// The backoff is reset after a session that lasted this long.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(10);

/// What a session's error means if it came from a message that lapin cannot read.
const UNREADABLE: &str =
    ". A message's AMQP properties are not UTF-8: it ends invalid, with the reason unreadable";

/// The worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Client(#[from] BuildError),
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum NoSession {
    #[error("{summary}: {0}", summary = .0.summary())]
    Connect(#[from] ConnectError),
    #[error("the topology is wrong: {0}")]
    Topology(#[from] TopologyError),
    #[error("{0}")]
    Failed(#[from] SessionError),
}

/// The worker: one session with RabbitMQ after another.
#[derive(Debug)]
pub struct Worker {
    settings: Settings,
    handler: Arc<Handler>,
    config: Arc<PublishConfig>,
    connector: Connector,
    status: StatusHandle,
    queues: QueueMonitor,
    stop: CancellationToken,
}

impl Worker {
    /// A worker that runs until `stop` is cancelled.
    ///
    /// # Errors
    /// If the HTTP client cannot be built.
    pub fn new(settings: Settings, telemetry: Telemetry, stop: CancellationToken) -> Result<Self, RunError> {
        let client = Client::new(&settings.trackfinity)?;
        let handler = Handler {
            breaker: Arc::new(SharedBreaker::new(settings.pause, client.route().clone())),
            client,
            telemetry,
            rate: settings.worker.rate_limit.map(RateLimiter::new),
            limits: settings.retry,
            address_proven: AtomicBool::new(false),
            stop: stop.clone(),
        };
        Ok(Self {
            handler: Arc::new(handler),
            config: Arc::new(PublishConfig::new(&settings)),
            connector: Connector::new(&settings.rabbitmq.broker),
            status: StatusHandle::new(),
            queues: QueueMonitor::new(&settings),
            settings,
            stop,
        })
    }

    /// The state of the worker.
    pub fn status(&self) -> StatusHandle {
        self.status.clone()
    }

    /// What connects to RabbitMQ.
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// Whether calls are paused, and why.
    pub fn breaker(&self) -> Arc<SharedBreaker> {
        Arc::clone(&self.handler.breaker)
    }

    /// What cannot be published.
    pub fn publish_health(&self) -> Arc<PublishHealth> {
        Arc::clone(&self.config.health)
    }

    /// How many messages wait in the queues.
    pub fn queues(&self) -> QueueMonitor {
        self.queues.clone()
    }

    /// Runs until it is asked to stop and the requests in flight are settled or requeued. A failure
    /// of RabbitMQ is no error here: the worker connects again.
    pub async fn run(self) {
        let mut backoff = Backoff::new();
        // The limit is about Trackfinity, so it outlives the sessions.
        let mut limit = self.limit();
        let mut met_unreadable = false;
        while !self.stop.is_cancelled() {
            let reason = match self.session(&mut backoff, &mut limit, met_unreadable).await {
                Ok(()) => break,
                Err(reason) => reason,
            };
            met_unreadable = matches!(&reason, NoSession::Failed(error) if error.is_unreadable());
            self.status.set_connected(false);
            self.handler.telemetry.metrics.reconnected();
            if matches!(&reason, NoSession::Failed(error) if error.is_large_frame())
                && self.connector.use_full_frames()
            {
                tracing::info!(
                    event = "frames_enlarged",
                    "a message has headers of more than 16 KiB: connecting again with the largest frames that RabbitMQ accepts"
                );
                continue;
            }
            let wait = backoff.next(fastrand::f64());
            match &reason {
                NoSession::Topology(error) => self.status.set_topology(Some(error.to_string())),
                // The state of the topology is unknown now.
                _ => self.status.set_topology(None),
            }
            if let Some(left_out) = self.config.throttle.due(&("not_consuming", reason.to_string())) {
                tracing::warn!(
                    event = "not_consuming",
                    next_try_in_ms = millis(wait),
                    left_out,
                    "not consuming: {reason}{}",
                    if met_unreadable { UNREADABLE } else { "" }
                );
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.connector.wait_to_retry(wait) => {}
            }
        }
        self.status.set_connected(false);
        tracing::info!(event = "stopped", "stopped");
    }

    /// One session, from connecting to its end; `Ok` when the worker was asked to stop.
    async fn session(
        &self,
        backoff: &mut Backoff,
        limit: &mut ConcurrencyLimit,
        met_unreadable: bool,
    ) -> Result<(), NoSession> {
        let (session, events) = tokio::select! {
            session = self.open() => session?,
            () = self.stop.cancelled() => return Ok(()),
        };
        let opened = Instant::now();
        self.status.set_connected(true);
        self.status.set_topology(None);
        let session = Arc::new(session);
        let replies = Arc::new(ReplyPublisher::new(self.connector.clone()));
        self.config.health.reset();
        let publisher = Arc::new(SessionPublisher {
            session: Arc::clone(&session),
            replies: Arc::clone(&replies),
            config: Arc::clone(&self.config),
            status: self.status.clone(),
            telemetry: self.handler.telemetry.clone(),
            limits: self.handler.limits,
            client: self.handler.client.clone(),
            slots: HandlerSlots::default(),
            background: TaskTracker::new(),
            session_over: CancellationToken::new(),
            requeue_failed: AtomicBool::new(false),
        });
        if met_unreadable {
            let unreadable = Unreadable {
                connector: self.connector.clone(),
                handler: Arc::clone(&self.handler),
                publisher: Arc::clone(&publisher),
                // Before it may be all deliveries of the last session, and as many of other
                // workers.
                window: 4 * usize::from(limit.prefetch(Instant::now())).max(50),
            };
            unreadable.isolate().await;
        }
        let consume_loop = ConsumeLoop {
            handler: Arc::clone(&self.handler),
            publisher: Arc::clone(&publisher),
            queue: self.config.topology().requests(),
            limit,
            drain_timeout: self.settings.worker.drain_timeout,
            stop: self.stop.clone(),
            events,
            tasks: Tasks::new(),
            in_call: CallGauge::default(),
            acks: AckTracker::default(),
            settled_count: 0,
        };
        let undeliverable = Undeliverable {
            connector: self.connector.clone(),
            handler: Arc::clone(&self.handler),
            publisher: Arc::clone(&publisher),
            stop: self.stop.clone(),
        };
        let mut undeliverable = tokio::spawn(undeliverable.run());
        self.queues.set_session(Some(Arc::clone(&session)));
        let (end, settled_count) = tokio::select! {
            ended = consume_loop.run() => ended,
            never = self.watch_publishing(&session) => match never {},
        };
        let finished = match &end {
            // It finishes the messages that it has begun.
            SessionEnd::Stopped => tokio::time::timeout(FINISH_TIMEOUT, &mut undeliverable).await.ok(),
            SessionEnd::Failed(_) => None,
        };
        publisher.session_over.cancel();
        self.queues.set_session(None);
        let finished = match finished {
            Some(finished) => finished,
            None => undeliverable.await,
        };
        if let Err(error) = finished {
            tracing::error!(
                event = "task_panicked",
                %error,
                "the task that settles what RabbitMQ gave up panicked: this is a bug, please report it"
            );
        }
        // They may still publish.
        publisher.background.close();
        publisher.background.wait().await;
        tokio::join!(session.close(), replies.close());
        let unreadable = matches!(&end, SessionEnd::Failed(error) if error.is_unreadable());
        // What ended a short session that settled nothing will probably end the next one, too: the
        // backoff grows. Not for a message that cannot be read: RabbitMQ is well, and the messages
        // behind it should not wait for the backoff.
        if settled_count > 0 || unreadable || opened.elapsed() >= BACKOFF_RESET_AFTER {
            backoff.reset();
        }
        match end {
            SessionEnd::Stopped => Ok(()),
            SessionEnd::Failed(error) => Err(error.into()),
        }
    }

    fn limit(&self) -> ConcurrencyLimit {
        let settings = &self.settings.worker;
        let interval = MAX_BASELINE_INTERVAL.as_nanos();
        let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let until_mark = u64::try_from(interval - clock % interval).unwrap_or_default();
        let now = Instant::now();
        ConcurrencyLimit::new(
            settings.concurrency,
            settings.rate_limit,
            now,
            now + Duration::from_nanos(until_mark),
        )
    }

    /// Keeps the status up to date while the publisher reopens its connection.
    async fn watch_publishing(&self, session: &Session) -> Infallible {
        let mut publishing = session.publishing();
        loop {
            self.status.set_publishing(publishing.now());
            publishing.changed().await;
        }
    }

    /// A stream from when the history was on goes on to keep outcomes.
    async fn say_if_history_remains(&self, session: &Session) {
        let topology = self.config.topology();
        if !topology.keeps_history()
            && let Ok(true) = topology.has_history(session.consuming()).await
            && let Some(left_out) = self.config.throttle.due("history_remains")
        {
            tracing::info!(
                event = "history_remains",
                stream = topology.history(),
                left_out,
                "history.enabled is false, and the stream of outcomes is left as it is: it still keeps them. Delete it if \
                 nobody needs them"
            );
        }
    }

    async fn open(&self) -> Result<(Session, SessionEvents), NoSession> {
        self.handler.client.refresh_secrets().await;
        let (session, events) = Session::open(&self.connector).await?;
        let topology = self.config.topology();
        let checked = match self.settings.rabbitmq.broker.declare {
            true => topology.declare(session.consuming()).await,
            false => topology.check(session.consuming()).await,
        };
        match checked {
            Ok(()) => {
                self.say_if_history_remains(&session).await;
                Ok((session, events))
            }
            Err(error) => {
                session.close().await;
                Err(error.into())
            }
        }
    }
}
