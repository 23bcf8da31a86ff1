//! Publishes a dead letter as a request again, and waits for its outcome.

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

use super::{error::AccessError, result::StepResult, session::LockedSession};
use crate::{
    broker::{
        Lane, Mandatory, PublishError, Topology,
        publisher::Outgoing,
        topology::{EVERY_OUTCOME, REQUEST_KEY},
    },
    message::{Envelope, Status, dead_letter, outcome},
};

/// Publishes the original request again.
pub(super) async fn publish(
    session: &LockedSession,
    topology: &Topology,
    envelope: &Envelope,
) -> Result<(), PublishError> {
    let request = Outgoing {
        exchange: topology.exchange(),
        routing_key: REQUEST_KEY,
        properties: dead_letter::replay_properties(envelope, session.publisher.max_properties_len()),
        body: &envelope.body,
    };
    session.publisher.publish(&request, Mandatory::Required(Lane::Requests)).await.map(|_routed| ())
}

/// Receives all outcomes. Created before the first replay, so that none is missed.
#[derive(Debug)]
pub(super) struct OutcomeListener {
    outcomes: Consumer,
}

/// The fields of an outcome that a replay reads.
#[derive(Deserialize)]
struct OutcomeFields {
    status: String,
    reason: Option<String>,
}

impl OutcomeListener {
    pub(super) async fn new(connection: &Connection, topology: &Topology) -> Result<Self, AccessError> {
        let channel = connection.create_channel().await?;
        let queue = format!("{}.replays.{}", topology.dead(), uuid::Uuid::now_v7());
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
        let results = topology.results();
        channel
            .queue_bind(
                queue.as_str().into(),
                results.as_str().into(),
                EVERY_OUTCOME.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let outcomes =
            channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await?;
        Ok(Self { outcomes })
    }

    /// Waits for the request's outcome. [`StepResult::Pending`] after `wait`, or when `stop` is
    /// cancelled.
    pub(super) async fn outcome_of(
        &mut self,
        envelope: &Envelope,
        wait: Duration,
        stop: &CancellationToken,
    ) -> Result<StepResult, AccessError> {
        let id = outcome::message_id(&envelope.request_id, envelope.replays.saturating_add(1));
        let received = async {
            loop {
                let outcome = self.next().await?;
                let its_id = outcome.properties.message_id().as_ref().map(|id| id.as_str());
                if its_id == Some(&id) {
                    return Ok::<_, AccessError>(outcome.data);
                }
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = received => outcome?,
            () = tokio::time::sleep(wait) => return Ok(StepResult::Pending),
            () = stop.cancelled() => return Ok(StepResult::Pending),
        };
        Ok(match serde_json::from_slice::<OutcomeFields>(&outcome) {
            Ok(outcome) if outcome.status == Status::Unlocked.as_str() => StepResult::Unlocked,
            Ok(outcome) => StepResult::FailedAgain { status: outcome.status, reason: outcome.reason },
            Err(_unreadable) => StepResult::Pending,
        })
    }

    /// Drops outcomes of other requests until this time.
    pub(super) async fn discard_until(&mut self, at: Instant) -> Result<(), AccessError> {
        let discard = async {
            loop {
                self.next().await?;
            }
        };
        match tokio::time::timeout_at(at, discard).await {
            Ok(ended) => ended,
            Err(_elapsed) => Ok(()),
        }
    }

    async fn next(&mut self) -> Result<lapin::message::Delivery, AccessError> {
        match self.outcomes.next().await {
            Some(outcome) => Ok(outcome?),
            None => Err(AccessError::Refused("the queue that receives the outcomes was deleted".to_owned())),
        }
    }
}
