//! How many messages wait in the queues. Counted when the metrics are read, at most once a second.
//! Workers never browse the dead letters: each browse counts as a delivery of every dead letter.

use std::{sync::Arc, time::Duration};

use lapin::Channel;
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

use crate::{
    broker::{Session, Topology, consumer},
    policy::Tier,
    settings,
    telemetry::{Metrics, QueueDepths},
};

/// How often the queues are counted, at most.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// The same while a queue cannot be counted: each time costs the connection a channel.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(5);
/// How long a count may take. After that the depths are unknown, and the metrics are returned
/// without them.
const COUNT_TIMEOUT: Duration = Duration::from_millis(800);

/// Counts the messages in the queues; clones share the last count.
#[derive(Clone, Debug)]
pub struct QueueMonitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    topology: Topology,
    session: watch::Sender<Option<Arc<Session>>>,
    last: Mutex<LastCount>,
}

#[derive(Debug, Default)]
struct LastCount {
    counted_at: Option<Instant>,
    /// How long the count is good for.
    interval: Duration,
    /// Kept open between counts; belongs to the session in which it was opened.
    channel: Option<Channel>,
}

impl QueueMonitor {
    pub fn new(settings: &settings::Settings) -> Self {
        Self(Arc::new(Inner {
            topology: Topology::new(&settings.rabbitmq.topology_prefix),
            session: watch::Sender::new(None),
            last: Mutex::default(),
        }))
    }

    /// Sets the session whose connection is used from now on.
    pub(super) fn set_session(&self, session: Option<Arc<Session>>) {
        self.0.session.send_replace(session);
    }

    /// Writes the depths into the metrics; a depth that cannot be counted in time is unknown.
    pub async fn refresh(&self, metrics: &Metrics) {
        let mut last = self.0.last.lock().await;
        if last.counted_at.is_some_and(|at| at.elapsed() < last.interval) {
            return;
        }
        let counted = tokio::time::timeout(COUNT_TIMEOUT, self.0.count(&mut last.channel)).await;
        if counted.is_err() {
            last.channel = None;
        }
        let depths = counted.unwrap_or_default();
        metrics.queues(depths);
        last.interval = if depths.are_known() { COUNT_INTERVAL } else { UNKNOWN_INTERVAL };
        last.counted_at = Some(Instant::now());
    }
}

impl Inner {
    async fn count(&self, channel: &mut Option<Channel>) -> QueueDepths {
        let session = self.session.borrow().clone();
        let Some(session) = session else {
            return QueueDepths::default();
        };
        let requests = self.count_queue(&session, channel, &self.topology.requests()).await;
        let dead = self.count_queue(&session, channel, &self.topology.dead()).await;
        let mut retry = Some(0);
        for tier in Tier::ALL {
            let count = self.count_queue(&session, channel, &self.topology.retry_queue(tier)).await;
            retry = retry.zip(count).map(|(sum, count)| sum + count);
        }
        QueueDepths { requests, dead, retry }
    }

    /// Messages ready in a queue, by a passive declaration, whose count is up to date.
    async fn count_queue(
        &self,
        session: &Session,
        channel: &mut Option<Channel>,
        queue: &str,
    ) -> Option<u64> {
        if !channel.as_ref().is_some_and(|channel| channel.status().connected()) {
            *channel = session.consuming().create_channel().await.ok();
        }
        u64::try_from(consumer::message_count(channel.as_ref()?, queue).await.ok()?).ok()
    }
}
