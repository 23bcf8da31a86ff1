//! What waits in RabbitMQ, and who consumes it.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};
use utoipa::ToSchema;

use super::{link::Link, problem::Problem};
use crate::broker::{QueueStates, Topology};

/// How long an answer is reused, also one that says what is wrong.
const CACHE_TTL: Duration = Duration::from_secs(2);
/// How long RabbitMQ may take to answer.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How many messages wait, and how many workers consume. A count is null if the queue does not exist, or
/// the user may not see it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Queues {
    /// Workers that consume requests. A worker that is paused does not consume.
    pub(super) workers_consuming: Option<u32>,
    /// Requests that are ready.
    pub(super) requests_waiting: Option<u32>,
    /// Requests that wait for a retry, the shortest wait first.
    pub(super) retries_waiting: Vec<TierCount>,
    /// What RabbitMQ gave up, and no worker has settled yet.
    pub(super) undeliverable: Option<u32>,
    /// Dead letters that no one else has taken.
    pub(super) dead_letters_waiting: Option<u32>,
    /// What could not be seen, and why.
    pub(super) unseen: Vec<String>,
}

/// How many requests wait in a retry queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct TierCount {
    /// How long they wait at most, such as `4s`.
    pub(super) tier: String,
    pub(super) count: Option<u32>,
}

impl Queues {
    /// All requests that wait for a retry; `None` if a count is unknown.
    pub(super) fn retries(&self) -> Option<u32> {
        self.retries_waiting.iter().map(|tier| tier.count).sum()
    }

    /// The retry queues in which requests wait: how many, and how long at most.
    pub(super) fn waiting_tiers(&self) -> Vec<(u32, &str)> {
        let waiting = self.retries_waiting.iter().filter_map(|tier| Some((tier.count?, tier.tier.as_str())));
        waiting.filter(|(count, _)| *count > 0).collect()
    }

    /// The state in a few words, and whether all is well.
    pub(super) fn headline(&self) -> (String, bool) {
        match (self.workers_consuming, self.requests_waiting) {
            (Some(0), _) => ("No worker consumes requests".to_owned(), false),
            (Some(1), _) => ("1 worker consumes requests".to_owned(), true),
            (Some(count), _) => (format!("{count} workers consume requests"), true),
            (None, _) => ("The queue of the requests cannot be seen".to_owned(), false),
        }
    }
}

impl From<QueueStates> for Queues {
    fn from(states: QueueStates) -> Self {
        let mut unseen = states.refused;
        if !states.missing.is_empty() {
            let missing = states.missing.join(", ");
            unseen
                .push(format!("these queues do not exist: {missing}. A worker declares them when it starts"));
        }
        let tier =
            |(tier, count): (crate::policy::Tier, Option<u32>)| TierCount { tier: tier.to_string(), count };
        Self {
            workers_consuming: states.requests.map(|state| state.consumers),
            requests_waiting: states.requests.map(|state| state.messages),
            retries_waiting: states.retries.into_iter().map(tier).collect(),
            undeliverable: states.undeliverable,
            dead_letters_waiting: states.dead,
            unseen,
        }
    }
}

/// When RabbitMQ was asked, and what it answered.
type Answer = (Instant, Result<Queues, Problem>);

/// Asks RabbitMQ, one request at a time, and reuses the answer for a moment. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct QueueReader {
    link: Link,
    topology: Topology,
    last: Arc<Mutex<Option<Answer>>>,
}

impl QueueReader {
    pub(super) fn new(link: Link, topology: Topology) -> Self {
        Self { link, topology, last: Arc::default() }
    }

    pub(super) async fn read(&self) -> Result<Queues, Problem> {
        let mut last = self.last.lock().await;
        if let Some((_, queues)) = last.as_ref().filter(|(at, _)| at.elapsed() < CACHE_TTL) {
            return queues.clone();
        }
        let queues = self.ask().await;
        *last = Some((Instant::now(), queues.clone()));
        queues
    }

    async fn ask(&self) -> Result<Queues, Problem> {
        let connection = self.link.connection().await.map_err(crate::dead_letters::AccessError::from);
        let connection = connection.map_err(crate::dead_letters::Error::from)?;
        let read = QueueStates::read(&connection, &self.topology);
        let read = tokio::time::timeout(READ_TIMEOUT, read).await.map(Queues::from);
        // RabbitMQ closes the channel of a question that it refuses, and lapin cannot use its number again: after
        // some hundred refusals every question would fail.
        if read.as_ref().map_or(true, |queues| !queues.unseen.is_empty()) {
            self.link.close().await;
        }
        read.map_err(|_elapsed| {
            let what = format!("RabbitMQ has not said within {} s what waits.", READ_TIMEOUT.as_secs());
            let advice = "Look at RabbitMQ, and try again.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "broker_silent", what, advice)
        })
    }
}
