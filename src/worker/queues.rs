//! How much waits in the queues: looked at when somebody asks for the metrics, at most once a second.

use std::{sync::Arc, time::Duration};

use lapin::{
    Channel,
    options::{BasicGetOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

use crate::{
    broker::{Session, Topology, connection},
    message::{Timestamp, headers},
    policy::Tier,
    settings,
    telemetry::Metrics,
};

/// How often the counts are looked at, at most.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the oldest dead letter is looked at, at most.
const OLDEST_INTERVAL: Duration = Duration::from_secs(15);
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
            metrics.queues(counts.unwrap_or_default());
            looked.counted_at = Some(Instant::now());
        }
        if due(looked.oldest_at, OLDEST_INTERVAL) {
            let oldest = tokio::time::timeout(LOOK_TIMEOUT, self.0.oldest_dead_letter()).await;
            if let Ok(Ok(oldest)) = oldest {
                metrics.oldest_dead_letter(oldest);
            }
            looked.oldest_at = Some(Instant::now());
        }
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
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.as_ref()?.queue_declare(queue.into(), options, FieldTable::default()).await;
        Some(declared.ok()?.message_count().into())
    }

    /// When the oldest dead letter died; `None` if there is none. Looks on a connection of its own,
    /// as a letter that cannot be read ends the one it is looked at on, and gives the letter back by
    /// closing it, which keeps the queue's order.
    async fn oldest_dead_letter(&self) -> Result<Option<Timestamp>, LookError> {
        if self.session.borrow().is_none() {
            return Err(LookError::NoSession);
        }
        let link = connection::connect(&self.broker.uris()?, "looks").await?;
        let channel = link.create_channel().await?;
        let oldest =
            channel.basic_get(self.topology.dead().into(), BasicGetOptions { no_ack: false }).await?;
        let died_at = oldest.map(|letter| {
            let properties = &letter.delivery.properties;
            let table = properties.headers().as_ref();
            let dead_at = table.and_then(|table| table.inner().get(headers::DEAD_AT));
            let dead_at = dead_at.and_then(headers::text).and_then(|at| at.parse().ok());
            dead_at.unwrap_or_else(Timestamp::now)
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
    #[error(transparent)]
    Urls(#[from] settings::BrokerUrlsError),
    #[error(transparent)]
    Connect(#[from] connection::ConnectError),
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
}
