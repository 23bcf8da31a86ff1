//! How many messages wait in each queue of the topology, and how many workers consume.

use std::collections::BTreeMap;

use lapin::{Connection, protocol::AMQPSoftError};

use super::{
    Topology,
    consumer::{QueueState, queue_state},
    errors::soft_error,
};
use crate::policy::Tier;

/// All queues at this moment. A state is `None` if the queue does not exist or may not be seen.
#[derive(Debug, Default)]
pub struct QueueStates {
    pub requests: Option<QueueState>,
    /// Requests that wait for a retry, by tier.
    pub retries: BTreeMap<Tier, Option<u32>>,
    /// What RabbitMQ gave up and no worker has settled yet.
    pub undeliverable: Option<u32>,
    pub dead: Option<u32>,
    /// Queues that do not exist.
    pub missing: Vec<String>,
    /// Queues that could not be seen, each with the reason.
    pub refused: Vec<String>,
}

impl QueueStates {
    /// Asks RabbitMQ for each queue.
    pub async fn read(connection: &Connection, topology: &Topology) -> Self {
        let mut states = Self::default();
        states.requests = states.state(connection, &topology.requests()).await;
        for tier in Tier::ALL {
            let state = states.state(connection, &topology.retry_queue(tier)).await;
            states.retries.insert(tier, state.map(|state| state.messages));
        }
        states.undeliverable =
            states.state(connection, &topology.undeliverable()).await.map(|state| state.messages);
        states.dead = states.state(connection, &topology.dead()).await.map(|state| state.messages);
        states
    }

    /// How many queues there should be.
    pub fn total(&self) -> usize {
        self.retries.len() + 3
    }

    async fn state(&mut self, connection: &Connection, queue: &str) -> Option<QueueState> {
        let asked = async {
            // A refusal closes the channel.
            let channel = connection.create_channel().await?;
            let state = queue_state(&channel, queue).await?;
            channel.close(200, "done".into()).await?;
            Ok::<_, lapin::Error>(state)
        };
        let error = match asked.await {
            Ok(state) => return Some(state),
            Err(error) => error,
        };
        match soft_error(&error) {
            Some((AMQPSoftError::NOTFOUND, _)) => self.missing.push(queue.to_owned()),
            Some((_, broker)) => self.refused.push(format!("queue {queue}: {broker}")),
            None => self.refused.push(format!("queue {queue}: {error}")),
        }
        None
    }
}
