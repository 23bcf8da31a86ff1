//! Distributed locks: exclusive queues. RabbitMQ releases one when the owning connection closes,
//! even after a crash. One lock is for consuming dead letters, to browse or to change them, and is
//! held for a moment. Another lock is for changes and is held until the change ends.
//!
//! A session that finds a lock taken sends a message to the lock's queue to ask who the holder is.

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

/// How long to wait for a lock. Consuming all dead letters takes about a second, more for very
/// many.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long to wait for the holder's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Who holds the lock, as the holder answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub actor: String,
    /// `browse`, `export`, `plan`, `reads plans`, `replay` or `discard`.
    pub doing: String,
    pub since: String,
    /// The number of dead letters that the holder has taken and others cannot see.
    #[serde(default, rename = "holds")]
    pub taken: Option<usize>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, since {})", self.actor, self.doing, self.since)
    }
}

/// Who has the lock, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockedBy {
    Known(Holder),
    /// The holder did not answer in time.
    Unknown,
    /// RabbitMQ does not let this user ask. Contains RabbitMQ's message.
    Refused(String),
}

impl std::fmt::Display for LockedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(holder) => holder.fmt(f),
            Self::Unknown => f.write_str("someone who does not answer"),
            Self::Refused(broker) => {
                write!(f, "someone; this user may not ask who it is (RabbitMQ says: {broker})")
            }
        }
    }
}

/// Why the lock was not acquired.
#[derive(Debug)]
pub(super) enum LockError {
    /// Someone else has it.
    Taken(LockedBy),
    Failed(lapin::Error),
}

impl From<lapin::Error> for LockError {
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
    /// Releases the lock.
    ///
    /// # Errors
    /// If the connection is lost; the lock is then released too.
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

/// Acquires the lock on this connection. Waits until it is free, for at most `ACQUIRE_TIMEOUT`.
pub(super) async fn acquire(
    connection: &Connection,
    queue: &str,
    holder: &Holder,
) -> Result<Lock, LockError> {
    let deadline = Instant::now() + ACQUIRE_TIMEOUT;
    let taken = Arc::default();
    loop {
        match try_acquire(connection, queue, holder, &taken).await {
            Err(LockError::Taken(_by)) if Instant::now() < deadline => {}
            acquired => return acquired,
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Acquires the lock on this connection if it is free. Answers others who ask with `holder` and the
/// current value of `taken`.
pub(super) async fn try_acquire(
    connection: &Connection,
    queue: &str,
    holder: &Holder,
    taken: &Arc<AtomicUsize>,
) -> Result<Lock, LockError> {
    match try_once(connection, queue).await? {
        Some(channel) => {
            let answering = answer(channel.clone(), queue, holder, Arc::clone(taken)).await?;
            Ok(Lock { channel, queue: queue.to_owned(), answering })
        }
        None => Err(LockError::Taken(ask(connection, queue).await)),
    }
}

/// Who has the lock. `None` if no one else has it.
pub(super) async fn holder(connection: &Connection, queue: &str) -> lapin::Result<Option<LockedBy>> {
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
    match declared {
        // This connection has it.
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

/// Answers the questions that others send to the lock's queue.
async fn answer(
    channel: Channel,
    queue: &str,
    holder: &Holder,
    taken: Arc<AtomicUsize>,
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
            // Publishing to some addresses closes the connection; to these it does not.
            if !asker.as_str().starts_with(&queue) {
                continue;
            }
            let holder = Holder { taken: Some(taken.load(Ordering::Relaxed)), ..holder.clone() };
            let sent = async {
                let answer = serde_json::to_vec(&holder).map_err(|error| error.to_string())?;
                let (options, properties) = Default::default();
                let sent = channel.basic_publish("".into(), asker.clone(), options, &answer, properties);
                sent.await.map_err(|error| error.to_string())
            };
            if let Err(error) = sent.await {
                tracing::debug!(error, "the question who locks the dead letters could not be answered");
            }
        }
    }))
}

/// Asks who holds the lock.
async fn ask(connection: &Connection, lock: &str) -> LockedBy {
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
            Some((AMQPSoftError::ACCESSREFUSED, broker)) => return LockedBy::Refused(broker),
            _ => {
                tracing::debug!(%error, "the holder of the dead letters' lock could not be asked");
                None
            }
        },
        Err(_elapsed) => None,
    };
    let holder = answer.and_then(|answer| serde_json::from_slice(&answer.data).ok());
    holder.map_or(LockedBy::Unknown, LockedBy::Known)
}
