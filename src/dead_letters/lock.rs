//! One at a time: an exclusive queue, which RabbitMQ gives to one connection and frees when that is
//! gone, however it went.
//!
//! Who finds it taken asks its holder who they are, by a message to that same queue.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
    protocol::AMQPSoftError,
    types::FieldTable,
};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinHandle, time::Instant};

use crate::broker::{Topology, lock::try_once, topology::soft_error};

/// A look takes less than a second, so whoever only looks is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long a holder may take to say who they are.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Who holds the lock, as they say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub actor: String,
    /// `look`, `plan`, `replay` or `discard`.
    pub doing: String,
    pub since: String,
}

impl Holder {
    /// Whether it takes a moment only.
    fn is_brief(&self) -> bool {
        matches!(self.doing.as_str(), "look" | "plan")
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, since {})", self.actor, self.doing, self.since)
    }
}

/// Who has the lock, as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakenBy {
    Holder(Holder),
    /// A worker that looks at the oldest letter, or somebody who is busy.
    Silent,
    /// The broker lets nobody ask; its words.
    Refused(String),
}

impl TakenBy {
    /// Whether it is likely to take a moment only.
    fn is_brief(&self) -> bool {
        match self {
            Self::Holder(holder) => holder.is_brief(),
            Self::Silent | Self::Refused(_) => true,
        }
    }
}

impl std::fmt::Display for TakenBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Holder(holder) => holder.fmt(f),
            Self::Silent => f.write_str("somebody who does not say who they are"),
            Self::Refused(broker) => {
                write!(f, "somebody whom this user may not ask who they are (RabbitMQ says: {broker})")
            }
        }
    }
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum NoLock {
    /// Somebody else has it.
    Taken(TakenBy),
    Failed(lapin::Error),
}

impl From<lapin::Error> for NoLock {
    fn from(error: lapin::Error) -> Self {
        Self::Failed(error)
    }
}

/// The lock, for as long as its connection lives.
#[derive(Debug)]
pub(super) struct Lock {
    answering: JoinHandle<()>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// Takes the lock on this connection, or waits for whoever only looks.
pub(super) async fn take(
    connection: &Connection,
    topology: &Topology,
    holder: &Holder,
) -> Result<Lock, NoLock> {
    let queue = topology.dead_lock();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(channel) = try_once(connection, &queue).await? {
            return Ok(Lock { answering: answer(channel, queue, holder).await? });
        }
        let taken_by = ask(connection, &queue).await;
        if !taken_by.is_brief() || Instant::now() >= deadline {
            return Err(NoLock::Taken(taken_by));
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Answers whoever asks.
async fn answer(channel: Channel, queue: String, holder: &Holder) -> lapin::Result<JoinHandle<()>> {
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut questions =
        channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await?;
    let answer = serde_json::to_vec(holder).unwrap_or_default();
    Ok(tokio::spawn(async move {
        while let Some(Ok(question)) = questions.next().await {
            let Some(asker) = question.properties.reply_to() else {
                continue;
            };
            // Some addresses end the connection that publishes to them; these do not.
            if !asker.as_str().starts_with(&queue) {
                continue;
            }
            let options = BasicPublishOptions::default();
            let properties = BasicProperties::default();
            if let Err(error) =
                channel.basic_publish("".into(), asker.clone(), options, &answer, properties).await
            {
                tracing::debug!(%error, "somebody asked who holds the dead letters, and could not be told");
            }
        }
    }))
}

/// Asks who holds the lock.
async fn ask(connection: &Connection, lock: &str) -> TakenBy {
    let ask = async {
        let channel = connection.create_channel().await?;
        let own = format!("{lock}.{}", uuid::Uuid::now_v7());
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        channel.queue_declare(own.as_str().into(), options, FieldTable::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut answers =
            channel.basic_consume(own.as_str().into(), "".into(), options, FieldTable::default()).await?;
        let properties = BasicProperties::default().with_reply_to(own.as_str().into());
        channel
            .basic_publish("".into(), lock.into(), BasicPublishOptions::default(), b"who?", properties)
            .await?;
        let answer = answers.next().await.transpose()?;
        channel.close(200, "asked".into()).await?;
        Ok::<_, lapin::Error>(answer)
    };
    let answer = match tokio::time::timeout(ANSWER_TIMEOUT, ask).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => match soft_error(&error) {
            Some((AMQPSoftError::ACCESSREFUSED, broker)) => return TakenBy::Refused(broker),
            _ => {
                tracing::debug!(%error, "who holds the dead letters could not be asked");
                None
            }
        },
        Err(_elapsed) => None,
    };
    let holder = answer.and_then(|answer| serde_json::from_slice(&answer.data).ok());
    holder.map_or(TakenBy::Silent, TakenBy::Holder)
}
