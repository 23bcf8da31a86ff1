//! A letter becomes a request again, and its outcome is waited for.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::{
    Connection, Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    carry_out::StepResult,
    desk::{Desk, DeskError},
};
use crate::{
    broker::{Lane, Mandatory, PublishError, Topology, publisher::Outgoing, topology::REQUEST_KEY},
    message::{Envelope, Status, dead_letter, outcome},
};

/// Publishes the request that the letter was.
pub(super) async fn publish(
    desk: &Desk,
    topology: &Topology,
    envelope: &Envelope,
) -> Result<(), PublishError> {
    let request = Outgoing {
        exchange: topology.exchange(),
        routing_key: REQUEST_KEY,
        properties: dead_letter::replay_properties(envelope, desk.publisher().max_properties_len()),
        body: &envelope.body,
    };
    desk.publisher().publish(&request, Mandatory::Required(Lane::Requests)).await.map(|_routed| ())
}

/// Hears the outcomes, from before the first replay.
#[derive(Debug)]
pub(super) struct Replays {
    outcomes: Consumer,
}

/// What is read of an outcome.
#[derive(Deserialize)]
struct Heard {
    status: String,
    reason: Option<String>,
}

impl Replays {
    pub(super) async fn listen(connection: &Connection, topology: &Topology) -> Result<Self, DeskError> {
        let channel = connection.create_channel().await?;
        let queue = format!("{}.replays.{}", topology.dead(), uuid::Uuid::now_v7());
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
        let results = topology.results();
        channel
            .queue_bind(
                queue.as_str().into(),
                results.as_str().into(),
                "unlock.#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let outcomes =
            channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await?;
        Ok(Self { outcomes })
    }

    /// What came of the request, unless it takes too long or there is no more time.
    pub(super) async fn outcome_of(
        &mut self,
        envelope: &Envelope,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<StepResult, DeskError> {
        let id = outcome::message_id(&envelope.request_id, envelope.replays.saturating_add(1));
        let heard = async {
            loop {
                let outcome = self.next().await?;
                let its_id = outcome.properties.message_id().as_ref().map(|id| id.as_str());
                if its_id == Some(&id) {
                    return Ok::<_, DeskError>(outcome.data);
                }
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = heard => outcome?,
            () = tokio::time::sleep(wait) => return Ok(StepResult::Pending),
            () = stop.cancelled() => return Ok(StepResult::Pending),
        };
        Ok(match serde_json::from_slice::<Heard>(&outcome) {
            Ok(heard) if heard.status == Status::Unlocked.as_str() => StepResult::Unlocked,
            Ok(heard) => StepResult::FailedAgain { status: heard.status, reason: heard.reason },
            Err(_unreadable) => StepResult::Pending,
        })
    }

    /// Lets the outcomes of others go by.
    pub(super) async fn ignore_until(&mut self, at: Instant) -> Result<(), DeskError> {
        let ignore = async {
            loop {
                self.next().await?;
            }
        };
        match tokio::time::timeout_at(at, ignore).await {
            Ok(ended) => ended,
            Err(_elapsed) => Ok(()),
        }
    }

    async fn next(&mut self) -> Result<lapin::message::Delivery, DeskError> {
        match self.outcomes.next().await {
            Some(outcome) => Ok(outcome?),
            None => Err(DeskError::Refused("the queue that hears the outcomes is gone".to_owned())),
        }
    }
}
