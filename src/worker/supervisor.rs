//! One session with RabbitMQ after another, for as long as the worker runs.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Way,
    calls::CallGauge,
    concurrency::{LONGEST_INTERVAL, Limit},
    intake::Intake,
    loss::{End, Loss},
    outcomes::Places,
    publish_health::PublishHealth,
    publishing::{Publishing, Targets},
    queues::QueueFigures,
    rate::RateLimiter,
    settlement::Settlement,
    shared_breaker::SharedBreaker,
    status::StatusBoard,
    undeliverable::Undeliverable,
    unreadable::Unreadable,
};
use crate::{
    broker::{Backoff, ConnectError, Connector, Replies, Session, TopologyError, session::SessionEvents},
    settings::Settings,
    telemetry::Telemetry,
    trackfinity::{BuildError, Client},
};

/// How long a stop waits, besides `worker.drain_timeout`, and the end of a session, for a message to be
/// ended that RabbitMQ gave up or that cannot be read.
pub(super) const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
/// A session that lived so long was a good one.
const PROVEN_AFTER: Duration = Duration::from_secs(10);

/// The worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Client(#[from] BuildError),
}

/// Why there is no session, or no longer one.
#[derive(Debug, thiserror::Error)]
enum NoSession {
    #[error("RabbitMQ cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error("the topology is wrong: {0}")]
    Topology(#[from] TopologyError),
    #[error("{0}")]
    Lost(#[from] Loss),
}

/// The worker: one session with RabbitMQ after another.
#[derive(Debug)]
pub struct Worker {
    settings: Settings,
    way: Arc<Way>,
    targets: Arc<Targets>,
    connector: Connector,
    status: StatusBoard,
    queues: QueueFigures,
    stop: CancellationToken,
}

impl Worker {
    /// A worker that runs until `stop` is cancelled.
    ///
    /// # Errors
    /// If the HTTP client cannot be built.
    pub fn new(settings: Settings, telemetry: Telemetry, stop: CancellationToken) -> Result<Self, RunError> {
        let way = Way {
            client: Client::new(&settings.trackfinity)?,
            breaker: Arc::new(SharedBreaker::new(settings.pause)),
            telemetry,
            rate: settings.worker.rate_limit.map(RateLimiter::new),
            limits: settings.retry,
            address_proven: AtomicBool::new(false),
            stop: stop.clone(),
        };
        Ok(Self {
            way: Arc::new(way),
            targets: Arc::new(Targets::new(&settings)),
            connector: Connector::new(&settings.broker),
            status: StatusBoard::new(),
            queues: QueueFigures::new(&settings),
            settings,
            stop,
        })
    }

    /// What can be said of the worker from outside.
    #[must_use]
    pub fn status(&self) -> StatusBoard {
        self.status.clone()
    }

    /// Whether calls are paused, and why.
    #[must_use]
    pub fn breaker(&self) -> Arc<SharedBreaker> {
        Arc::clone(&self.way.breaker)
    }

    /// What can't be published.
    #[must_use]
    pub fn publish_health(&self) -> Arc<PublishHealth> {
        Arc::clone(&self.targets.health)
    }

    /// How much waits in the queues.
    #[must_use]
    pub fn queues(&self) -> QueueFigures {
        self.queues.clone()
    }

    /// Runs until it is told to stop, and what was under way is finished or given back. Whatever the
    /// broker does is no error: it is tried again.
    pub async fn run(self) {
        let mut backoff = Backoff::new();
        // It is about Trackfinity, and outlasts the sessions.
        let mut limit = self.limit();
        let mut met_unreadable = false;
        while !self.stop.is_cancelled() {
            let reason = match self.session(&mut backoff, &mut limit, met_unreadable).await {
                Ok(()) => break,
                Err(reason) => reason,
            };
            met_unreadable = matches!(&reason, NoSession::Lost(loss) if loss.is_unreadable());
            self.status.connected(false);
            self.way.telemetry.metrics.reconnected();
            let wait = backoff.next(fastrand::f64());
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            match &reason {
                NoSession::Topology(error) => self.status.topology(Some(error.to_string())),
                // What was wrong with the topology is not known any more.
                _ => self.status.topology(None),
            }
            tracing::warn!(next_try_in_ms = wait_ms, "not consuming: {reason}");
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.status.connected(false);
        tracing::info!("stopped");
    }

    /// One session, from connecting to its end; `Ok` when the worker was told to stop.
    async fn session(
        &self,
        backoff: &mut Backoff,
        limit: &mut Limit,
        met_unreadable: bool,
    ) -> Result<(), NoSession> {
        let (session, events) = tokio::select! {
            session = self.open() => session?,
            () = self.stop.cancelled() => return Ok(()),
        };
        let opened = Instant::now();
        self.status.connected(true);
        self.status.topology(None);
        let session = Arc::new(session);
        let replies = Arc::new(Replies::new(self.connector.clone()));
        self.targets.health.reset();
        let publishing = Arc::new(Publishing {
            session: Arc::clone(&session),
            replies: Arc::clone(&replies),
            targets: Arc::clone(&self.targets),
            status: self.status.clone(),
            telemetry: self.way.telemetry.clone(),
            limits: self.way.limits,
            client: self.way.client.clone(),
            places: Places::default(),
            background: TaskTracker::new(),
            over: CancellationToken::new(),
        });
        if met_unreadable {
            let unreadable = Unreadable {
                connector: self.connector.clone(),
                way: Arc::clone(&self.way),
                publishing: Arc::clone(&publishing),
                // All that the last session held may be before it, and as much of other workers.
                window: 4 * usize::from(limit.prefetch(Instant::now())).max(50),
            };
            unreadable.isolate().await;
        }
        let intake = Intake {
            way: Arc::clone(&self.way),
            publishing: Arc::clone(&publishing),
            queue: self.targets.topology().requests(),
            limit,
            drain_timeout: self.settings.worker.drain_timeout,
            stop: self.stop.clone(),
            events,
            tasks: JoinSet::new(),
            in_call: CallGauge::default(),
            settlement: Settlement::default(),
            settled: 0,
        };
        let undeliverable = Undeliverable {
            connector: self.connector.clone(),
            way: Arc::clone(&self.way),
            publishing: Arc::clone(&publishing),
            stop: self.stop.clone(),
        };
        let mut undeliverable = tokio::spawn(undeliverable.run());
        self.queues.look_through(Some(Arc::clone(&session)));
        let (end, settled) = tokio::select! {
            ended = intake.run() => ended,
            never = self.watch_publishing(&session) => match never {},
            error = publishing.recheck_topology() => (End::Lost(error.into()), 0),
        };
        let finished = match &end {
            // What it has begun it finishes, too.
            End::Stopped => tokio::time::timeout(FINISH_TIMEOUT, &mut undeliverable).await.ok(),
            End::Lost(_) => None,
        };
        publishing.over.cancel();
        self.queues.look_through(None);
        let finished = match finished {
            Some(finished) => finished,
            None => undeliverable.await,
        };
        if let Err(error) = finished {
            tracing::error!(%error, "the task that ends what RabbitMQ gave up panicked");
        }
        // It still publishes.
        publishing.background.close();
        publishing.background.wait().await;
        tokio::join!(session.close(), replies.close());
        let unreadable = matches!(&end, End::Lost(loss) if loss.is_unreadable());
        // A session that did nothing and soon ended tells of something that will end the next, too.
        // But for a message that cannot be read the broker is as well as ever, and those behind it
        // wait until it was delivered too often.
        if settled > 0 || unreadable || opened.elapsed() >= PROVEN_AFTER {
            backoff.reset();
        }
        match end {
            End::Stopped => Ok(()),
            End::Lost(loss) => Err(loss.into()),
        }
    }

    fn limit(&self) -> Limit {
        let settings = &self.settings.worker;
        let interval = LONGEST_INTERVAL.as_nanos();
        let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let to_come = u64::try_from(interval - clock % interval).unwrap_or_default();
        let now = Instant::now();
        Limit::new(settings.concurrency, settings.rate_limit, now, now + Duration::from_nanos(to_come))
    }

    /// Keeps the status up to date while the publisher reopens its connection.
    async fn watch_publishing(&self, session: &Session) -> Infallible {
        let mut publishing = session.publishing();
        loop {
            self.status.publishing(publishing.now());
            publishing.changed().await;
        }
    }

    async fn open(&self) -> Result<(Session, SessionEvents), NoSession> {
        self.way.client.refresh_secrets().await;
        let (session, events) = Session::open(&self.connector).await?;
        let topology = self.targets.topology();
        let checked = match self.settings.broker.declare {
            true => topology.declare(session.consuming()).await,
            false => topology.check(session.consuming()).await,
        };
        match checked {
            Ok(()) => Ok((session, events)),
            Err(error) => {
                session.close().await;
                Err(error.into())
            }
        }
    }
}
