//! How much waits in the queues: looked at when somebody asks for the metrics, at most once a second.
//! Workers never browse the dead letters: each browse counts as a delivery of every one of them.

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
    telemetry::Metrics,
};

/// How often the counts are looked at, at most.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// The same while a queue cannot be counted: each time costs the connection a channel.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(5);
/// How long a look may take, before whoever asks is given what is known.
const LOOK_TIMEOUT: Duration = Duration::from_millis(800);

/// Looks at the queues; clones share what was seen.
#[derive(Clone, Debug)]
pub struct QueueFigures(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    topology: Topology,
    session: watch::Sender<Option<Arc<Session>>>,
    looked: Mutex<Looked>,
}

#[derive(Debug, Default)]
struct Looked {
    counted_at: Option<Instant>,
    /// How long the counts are good for.
    count_interval: Duration,
    /// Kept open between looks; of the session it was opened in.
    channel: Option<Channel>,
}

impl QueueFigures {
    #[must_use]
    pub fn new(settings: &settings::Settings) -> Self {
        Self(Arc::new(Inner {
            topology: Topology::new(&settings.topology_prefix),
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
        if due(looked.counted_at, looked.count_interval) {
            let counts = tokio::time::timeout(LOOK_TIMEOUT, self.0.count(&mut looked.channel)).await;
            if counts.is_err() {
                looked.channel = None;
            }
            let counts = counts.unwrap_or_default();
            metrics.queues(counts);
            let is_known = counts.iter().all(Option::is_some);
            looked.count_interval = if is_known { COUNT_INTERVAL } else { UNKNOWN_INTERVAL };
            looked.counted_at = Some(Instant::now());
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
        u64::try_from(consumer::message_count(channel.as_ref()?, queue).await.ok()?).ok()
    }
}
