//! Consumes a queue.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::{
    Channel, Connection,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::FieldTable,
};

/// How long RabbitMQ may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stop waits for RabbitMQ's answer to the cancel.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

/// The queue could not be consumed.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    #[error("queue {queue} cannot be consumed: {source}")]
    Failed { queue: String, source: lapin::Error },
    #[error("RabbitMQ does not answer: nothing within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
}

/// Waits for RabbitMQ's answer, for at most `ANSWER_TIMEOUT`.
async fn answered<T>(queue: &str, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, ConsumeError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|source| ConsumeError::Failed { queue: queue.to_owned(), source }),
        Err(_elapsed) => Err(ConsumeError::Timeout),
    }
}

/// A consumer of a queue, with at most `prefetch` unacknowledged deliveries.
#[derive(Debug)]
pub struct Consumer {
    channel: Channel,
    stream: lapin::Consumer,
}

impl Consumer {
    /// Opens a channel for consumers, one at a time.
    ///
    /// # Errors
    /// If the channel cannot be opened.
    pub async fn channel(connection: &Connection, queue: &str) -> Result<Channel, ConsumeError> {
        answered(queue, connection.create_channel()).await
    }

    /// Starts to consume. Quorum queues allow a prefetch of at most 2000 (RabbitMQ docs, "Quorum
    /// queues"). Without a prefetch, deliveries would queue here without limit.
    ///
    /// # Errors
    /// If RabbitMQ refuses.
    pub async fn start(channel: &Channel, queue: &str, prefetch: u16) -> Result<Self, ConsumeError> {
        let consume = async {
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            channel
                .basic_consume(
                    queue.into(),
                    // RabbitMQ makes a tag, so that a later consumer on the channel has another one.
                    "".into(),
                    BasicConsumeOptions::default(),
                    FieldTable::default(),
                )
                .await
        };
        let stream = answered(queue, consume).await?;
        Ok(Self { channel: channel.clone(), stream })
    }

    /// How many messages are ready in the queue, asked on the channel that consumes it.
    ///
    /// # Errors
    /// If the channel or the connection is lost, or RabbitMQ does not answer.
    pub async fn message_count(channel: &Channel, queue: &str) -> Result<usize, ConsumeError> {
        answered(queue, message_count(channel, queue)).await
    }

    /// The state of the queue, asked on the channel that consumes it.
    ///
    /// # Errors
    /// If the channel or the connection is lost, or RabbitMQ does not answer.
    pub async fn queue_state(channel: &Channel, queue: &str) -> Result<QueueState, ConsumeError> {
        answered(queue, queue_state(channel, queue)).await
    }

    /// The next delivery. `None` when the consumer was cancelled, by this program or by RabbitMQ (for
    /// example because the queue was deleted). Do not call it again after that.
    pub async fn next(&mut self) -> Option<Result<Delivery, lapin::Error>> {
        self.stream.next().await
    }

    /// Cancels the consumer; waits at most `CANCEL_TIMEOUT` for the answer.
    pub async fn cancel_in_time(&self) {
        match tokio::time::timeout(CANCEL_TIMEOUT, self.cancel()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the consumer could not be cancelled"),
            Err(_elapsed) => tracing::debug!("RabbitMQ did not answer the cancel"),
        }
    }

    /// Cancels the consumer. [`next`](Self::next) still returns what was delivered before, and then
    /// `None`.
    ///
    /// # Errors
    /// If the channel or the connection is lost, or RabbitMQ does not answer.
    pub async fn cancel(&self) -> Result<(), ConsumeError> {
        let cancel = self.channel.basic_cancel(self.stream.tag(), BasicCancelOptions::default());
        answered(self.stream.queue().as_str(), cancel).await
    }
}

/// A queue at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct QueueState {
    /// Messages that are ready.
    pub messages: u32,
    pub consumers: u32,
}

/// The state of a queue, by a passive declaration.
///
/// # Errors
/// If the queue does not exist, or the connection is lost.
pub async fn queue_state(channel: &Channel, queue: &str) -> lapin::Result<QueueState> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(QueueState { messages: declared.message_count(), consumers: declared.consumer_count() })
}

/// How many messages are ready in a queue at this moment.
///
/// # Errors
/// If the queue does not exist, or the connection is lost.
pub async fn message_count(channel: &Channel, queue: &str) -> lapin::Result<usize> {
    Ok(usize::try_from(queue_state(channel, queue).await?.messages).unwrap_or(usize::MAX))
}
