//! Distributed locks: exclusive queues. RabbitMQ gives one to one connection and frees it when that
//! is gone, also after a crash. Whoever takes letters, to look at them or to work on them, holds one
//! for that moment; whoever changes letters holds another one until they are done.
//!
//! Who finds one taken asks its holder who they are, by a message to that same queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions},
    protocol::AMQPSoftError,
    types::FieldTable,
};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinHandle, time::Instant};

use crate::broker::{errors::soft_error, lock::try_once};

/// Letters are taken within a second, or a few where there are very many.
const PATIENCE: Duration = Duration::from_secs(20);
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
    /// Letters that are held meanwhile, which others cannot see.
    #[serde(default)]
    pub holds: Option<usize>,
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
    /// Somebody who is busy.
    Silent,
    /// The broker lets nobody ask; its words.
    Refused(String),
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

/// A lock, until it is released or its connection ends.
#[derive(Debug)]
pub(super) struct Lock {
    channel: Channel,
    queue: String,
    answering: JoinHandle<()>,
}

impl Lock {
    /// Lets others have it.
    ///
    /// # Errors
    /// If the connection is lost, and the lock with it.
    pub(super) async fn release(self) -> lapin::Result<()> {
        self.channel.queue_delete(self.queue.as_str().into(), QueueDeleteOptions::default()).await?;
        self.channel.close(200, "released".into()).await
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// Takes the lock on this connection, or waits until it is free.
pub(super) async fn take(connection: &Connection, queue: &str, holder: &Holder) -> Result<Lock, NoLock> {
    let deadline = Instant::now() + PATIENCE;
    let holds = Arc::default();
    loop {
        match try_take(connection, queue, holder, &holds).await {
            Err(NoLock::Taken(_by)) if Instant::now() < deadline => {}
            taken => return taken,
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Takes the lock on this connection, if it is free. Whoever asks is told who `holder` is, and how
/// many letters they hold.
pub(super) async fn try_take(
    connection: &Connection,
    queue: &str,
    holder: &Holder,
    holds: &Arc<AtomicUsize>,
) -> Result<Lock, NoLock> {
    match try_once(connection, queue).await? {
        Some(channel) => {
            let answering = answer(channel.clone(), queue, holder, Arc::clone(holds)).await?;
            Ok(Lock { channel, queue: queue.to_owned(), answering })
        }
        None => Err(NoLock::Taken(ask(connection, queue).await)),
    }
}

/// Who has the lock; `None` if nobody.
pub(super) async fn holder(connection: &Connection, queue: &str) -> lapin::Result<Option<TakenBy>> {
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
    match declared {
        // It is of this very connection.
        Ok(_queue) => {
            channel.close(200, "asked".into()).await?;
            Ok(None)
        }
        Err(error) => match soft_error(&error) {
            Some((AMQPSoftError::NOTFOUND, _)) => Ok(None),
            Some(_) => Ok(Some(ask(connection, queue).await)),
            None => Err(error),
        },
    }
}

/// Answers whoever asks.
async fn answer(
    channel: Channel,
    queue: &str,
    holder: &Holder,
    holds: Arc<AtomicUsize>,
) -> lapin::Result<JoinHandle<()>> {
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut questions =
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    let (queue, holder) = (queue.to_owned(), holder.clone());
    Ok(tokio::spawn(async move {
        while let Some(Ok(question)) = questions.next().await {
            let Some(asker) = question.properties.reply_to() else {
                continue;
            };
            // Some addresses end the connection that publishes to them; these do not.
            if !asker.as_str().starts_with(&queue) {
                continue;
            }
            let holder = Holder { holds: Some(holds.load(Ordering::Relaxed)), ..holder.clone() };
            let answer = serde_json::to_vec(&holder).unwrap_or_default();
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
