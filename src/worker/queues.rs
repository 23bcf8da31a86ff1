//! How much waits in the queues: looked at when somebody asks for the metrics, at most once a second.

use std::{sync::Arc, time::Duration};

use lapin::Channel;
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    broker::{
        self, Session, Topology, connection,
        holding::{self, Bounds, Holding, Short},
    },
    message::{Record, Timestamp},
    policy::Tier,
    settings,
    telemetry::Metrics,
};

/// How often the counts are looked at, at most.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the oldest dead letter is looked at, at most; the more letters there are the less, as
/// all have to be taken to look at one.
const OLDEST_INTERVAL: Duration = Duration::from_secs(15);
const LETTERS_AN_INTERVAL: u64 = 2000;
/// How long a look may take, before whoever asks is given what is known.
const LOOK_TIMEOUT: Duration = Duration::from_millis(800);

/// Looks at the queues; clones share what was seen.
#[derive(Clone, Debug)]
pub struct QueueFigures(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    topology: Topology,
    broker: settings::Broker,
    session: watch::Sender<Option<Arc<Session>>>,
    looked: Mutex<Looked>,
}

#[derive(Debug, Default)]
struct Looked {
    counted_at: Option<Instant>,
    oldest_at: Option<Instant>,
    /// The look at the oldest dead letter that is under way.
    looking: Option<JoinHandle<()>>,
    /// Dead letters, as far as is known.
    dead: Option<u64>,
    /// Kept open between looks; of the session it was opened in.
    channel: Option<Channel>,
}

impl QueueFigures {
    #[must_use]
    pub fn new(settings: &settings::Settings) -> Self {
        Self(Arc::new(Inner {
            topology: Topology::new(&settings.topology_prefix),
            broker: settings.broker.clone(),
            session: watch::Sender::new(None),
            looked: Mutex::default(),
        }))
    }

    /// The session to look through from now on.
    pub(super) fn look_through(&self, session: Option<Arc<Session>>) {
        self.0.session.send_replace(session);
    }

    /// Writes what waits into the metrics; what cannot be had in time is unknown.
    pub async fn refresh(&self, metrics: &Metrics) {
        let mut looked = self.0.looked.lock().await;
        let due = |at: Option<Instant>, interval| at.is_none_or(|at| at.elapsed() >= interval);
        if due(looked.counted_at, COUNT_INTERVAL) {
            let counts = tokio::time::timeout(LOOK_TIMEOUT, self.0.count(&mut looked.channel)).await;
            if counts.is_err() {
                looked.channel = None;
            }
            let counts = counts.unwrap_or_default();
            looked.dead = counts[1].or(looked.dead);
            metrics.queues(counts);
            looked.counted_at = Some(Instant::now());
        }
        let intervals = 1 + looked.dead.unwrap_or_default() / LETTERS_AN_INTERVAL;
        let interval = OLDEST_INTERVAL.saturating_mul(u32::try_from(intervals).unwrap_or(u32::MAX));
        let is_looking = looked.looking.as_ref().is_some_and(|look| !look.is_finished());
        // Where there was none and none is ready, there is none that could be looked at.
        let may_be = looked.dead != Some(0) || metrics.has_dead_letters();
        if may_be && !is_looking && due(looked.oldest_at, interval) {
            let (inner, metrics) = (Arc::clone(&self.0), metrics.clone());
            looked.looking = Some(tokio::spawn(async move {
                match inner.oldest_dead_letter().await {
                    Ok(oldest) => metrics.oldest_dead_letter(oldest),
                    Err(error) => tracing::debug!(%error, "the oldest dead letter is unknown"),
                }
            }));
            looked.oldest_at = Some(Instant::now());
        }
        // It goes on though nobody waits for it any more: half a look would change the order.
        if let Some(look) = &mut looked.looking
            && let Ok(Err(error)) = tokio::time::timeout(LOOK_TIMEOUT, look).await
        {
            tracing::error!(%error, "a look at the oldest dead letter panicked");
        }
        looked.looking.take_if(|look| look.is_finished());
    }
}

impl Inner {
    /// Requests, dead letters, and what waits in all the retry queues.
    async fn count(&self, channel: &mut Option<Channel>) -> [Option<u64>; 3] {
        let session = self.session.borrow().clone();
        let Some(session) = session else {
            return [None; 3];
        };
        let requests = self.ready(&session, channel, &self.topology.requests()).await;
        let dead = self.ready(&session, channel, &self.topology.dead()).await;
        let mut retry = Some(0);
        for tier in Tier::ALL {
            let ready = self.ready(&session, channel, &self.topology.retry_queue(tier)).await;
            retry = retry.zip(ready).map(|(sum, ready)| sum + ready);
        }
        [requests, dead, retry]
    }

    /// Messages ready in a queue, by passive declaration, which is true at once.
    async fn ready(&self, session: &Session, channel: &mut Option<Channel>, queue: &str) -> Option<u64> {
        if !channel.as_ref().is_some_and(|channel| channel.status().connected()) {
            *channel = session.consuming().create_channel().await.ok();
        }
        u64::try_from(holding::ready(channel.as_ref()?, queue).await.ok()?).ok()
    }

    /// When the oldest dead letter died; `None` if there is none. Looks on a connection of its own,
    /// as a letter that cannot be read ends the one it is looked at on.
    async fn oldest_dead_letter(&self) -> Result<Option<Timestamp>, LookError> {
        if self.session.borrow().is_none() {
            return Err(LookError::NoSession);
        }
        let link = connection::connect(&self.broker.uris()?, "looks").await?;
        let lock = self.topology.dead_lock();
        let Some(_channel) = broker::lock::try_once(&link, &lock).await? else {
            // Somebody works on the letters.
            link.close().await;
            return Err(LookError::Locked);
        };
        let mut letters = Holding::begin(&link, &self.topology.dead(), Bounds::default()).await?;
        let oldest = letters.next().await?;
        if letters.short() == Some(Short::Unreadable) {
            return Err(LookError::Unreadable);
        }
        letters.release().await?;
        let died_at = oldest.map(|letter| {
            // One that nobody knows the time of has been seen now.
            Record::read(&letter.delivery.properties).dead_at.unwrap_or_else(Timestamp::now)
        });
        link.close().await;
        Ok(died_at)
    }
}

/// The oldest dead letter could not be looked at.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("there is no session")]
    NoSession,
    #[error("somebody works on the dead letters")]
    Locked,
    #[error("it cannot be read")]
    Unreadable,
    #[error(transparent)]
    Urls(#[from] settings::BrokerUrlsError),
    #[error(transparent)]
    Connect(#[from] connection::ConnectError),
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
}
