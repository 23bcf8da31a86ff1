//! Browses a queue: consumes without acknowledging, then closes the channel so that RabbitMQ
//! requeues. Reads also messages that lapin cannot read.
//!
//! A browse may stop after any message. Messages that it has read may then be behind all others
//! (seen on RabbitMQ 3.10, 4.0 and 4.3). Nothing in this program depends on the queue's order.

use std::time::Duration;

use tokio::time::Instant;

use super::wire::{WireChannel, WireConnection, WireDelivery, WireError};

/// The largest prefetch of a consumer of a quorum queue (RabbitMQ docs, "Quorum queues").
const MAX_PREFETCH: usize = 2000;
/// The prefetch of the first consumer. The size of its messages decides the next prefetch.
const SAMPLE_MESSAGES: usize = 100;
/// The largest sum of bodies that RabbitMQ may send ahead, in bytes.
const WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// After this long without a message, RabbitMQ is asked whether there are more.
const IDLE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often in a row RabbitMQ must say that no message is ready. A busy RabbitMQ stops counting
/// messages as ready seconds before it delivers them.
const MAX_EMPTY_CHECKS: usize = 10;
/// How many messages are requeued before RabbitMQ is asked for an answer. RabbitMQ searches each one
/// among all that are not acknowledged, so it could not answer in time for very many.
const REQUEUE_STEP: usize = 1000;

/// The tag of the consumer whose answers tell that all acknowledgements were processed.
const FLUSH_TAG: &str = "browse-flush";

/// How long to wait until all messages of a browse are ready again, and how often to ask. A policy may delay them.
const REQUEUE_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEUE_INTERVAL: Duration = Duration::from_millis(20);

/// How many messages a browse reads at most, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub messages: usize,
    pub time: Duration,
}

impl Bounds {
    /// Of a browse that a person waits for.
    pub const DEFAULT: Self = Self { messages: 250_000, time: Duration::from_secs(60) };
}

/// Why a browse ended before the last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// The limit of messages was reached.
    Count,
    /// The time limit was reached.
    Time,
    /// Someone else consumed some of the messages.
    Elsewhere,
}

/// A delivered message that is not acknowledged.
#[derive(Debug)]
pub struct BrowsedMessage {
    pub delivery: WireDelivery,
    pub tag: Tag,
}

/// Identifies a message within one browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u64);

/// Browses a queue. RabbitMQ requeues the messages when the browser is released or dropped.
#[derive(Debug)]
pub struct QueueBrowser {
    channel: WireChannel,
    queue: String,
    bounds: Bounds,
    deadline: Instant,
    /// The tags of the running consumers.
    consumers: Vec<String>,
    /// How many messages the last consumer may still deliver.
    remaining_prefetch: usize,
    /// Whether all consumers are cancelled, so that no more messages are delivered.
    is_stopped: bool,
    total: usize,
    taken: usize,
    acknowledged: usize,
    bytes: usize,
    /// How often in a row no message came and none was ready.
    empty_checks: usize,
    incomplete: Option<Incomplete>,
}

impl QueueBrowser {
    /// Counts the messages; consumes none yet.
    ///
    /// # Errors
    /// If the queue does not exist, or the connection is lost.
    pub async fn open(connection: &WireConnection, queue: &str, bounds: Bounds) -> Result<Self, WireError> {
        let mut channel = connection.open_channel().await?;
        let total = channel.message_count(queue).await?;
        Ok(Self {
            channel,
            queue: queue.to_owned(),
            deadline: Instant::now() + bounds.time,
            bounds,
            consumers: Vec::new(),
            remaining_prefetch: 0,
            is_stopped: false,
            total,
            taken: 0,
            acknowledged: 0,
            bytes: 0,
            empty_checks: 0,
            incomplete: None,
        })
    }

    /// How many messages were ready when the browse began.
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many messages were read so far.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Why the browse ended before the last message, if it did.
    pub fn incomplete(&self) -> Option<Incomplete> {
        self.incomplete
    }

    /// The next message. `None` after the last one, or when a limit is reached. Cancel safe.
    ///
    /// # Errors
    /// If the queue may not be read, or the connection is lost.
    pub async fn next(&mut self) -> Result<Option<BrowsedMessage>, WireError> {
        while self.incomplete.is_none() && !self.is_stopped && self.taken < self.total {
            if self.taken >= self.bounds.messages {
                self.incomplete = Some(Incomplete::Count);
                break;
            }
            if self.remaining_prefetch == 0 {
                self.start_consumer().await?;
            }
            let wait = IDLE_TIMEOUT.min(self.deadline.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(wait, self.channel.next()).await {
                Ok(Ok(Some(delivery))) => {
                    self.remaining_prefetch = self.remaining_prefetch.saturating_sub(1);
                    self.empty_checks = 0;
                    self.taken += 1;
                    self.bytes += delivery.body.len();
                    let tag = Tag(delivery.delivery_tag);
                    return Ok(Some(BrowsedMessage { delivery, tag }));
                }
                Ok(Err(error)) => return Err(error),
                // RabbitMQ cancelled the consumer because the queue was deleted.
                Ok(Ok(None)) => self.incomplete = Some(Incomplete::Elsewhere),
                Err(_elapsed) if Instant::now() >= self.deadline => {
                    self.incomplete = Some(Incomplete::Time);
                }
                Err(_elapsed) if self.channel.message_count(&self.queue).await? > 0 => self.empty_checks = 0,
                Err(_elapsed) => {
                    self.empty_checks += 1;
                    if self.empty_checks >= MAX_EMPTY_CHECKS {
                        self.incomplete = Some(Incomplete::Elsewhere);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Cancels all consumers. Messages that RabbitMQ has already sent are requeued with the rest.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn stop_taking(&mut self) -> Result<(), WireError> {
        for tag in std::mem::take(&mut self.consumers) {
            self.channel.cancel(&tag).await?;
        }
        self.is_stopped = true;
        Ok(())
    }

    /// Acknowledges a message. Cancels the consumers before: after an acknowledgement RabbitMQ would
    /// send one more message to the consumer (decision 102).
    ///
    /// # Errors
    /// If the connection is lost. Then the message may or may not have left the queue.
    pub async fn acknowledge(&mut self, tag: Tag) -> Result<(), WireError> {
        if !self.is_stopped {
            self.stop_taking().await?;
        }
        self.channel.acknowledge(tag.0).await?;
        self.acknowledged += 1;
        Ok(())
    }

    /// Cancels the consumers, and requeues these messages and those that [`next`](Self::next) has
    /// not returned.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn requeue(&mut self, tags: &[Tag]) -> Result<(), WireError> {
        self.stop_taking().await?;
        for step in tags.chunks(REQUEUE_STEP) {
            self.channel.requeue(step.iter().map(|tag| tag.0)).await?;
        }
        // RabbitMQ may answer a cancel before it sends the consumer's last messages; this answer
        // comes after them.
        self.channel.requeue(std::iter::empty()).await?;
        let unread: Vec<_> = std::iter::from_fn(|| self.channel.buffered()).collect();
        self.channel.requeue(unread.iter().map(|delivery| delivery.delivery_tag)).await
    }

    /// Requeues everything that was not acknowledged, and waits until it is ready again: a quorum queue requeues only
    /// after RabbitMQ has answered the close, and a browse that begins before sees fewer messages, or none.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn release(mut self, connection: &WireConnection) -> Result<(), WireError> {
        if self.acknowledged > 0 {
            self.flush_acknowledgements().await?;
        }
        self.channel.close().await?;
        let mut channel = connection.open_channel().await?;
        let deadline = Instant::now() + REQUEUE_TIMEOUT;
        let expected = self.total.saturating_sub(self.acknowledged);
        // Someone else may have taken some.
        while self.incomplete.is_none()
            && Instant::now() < deadline
            && channel.message_count(&self.queue).await? < expected
        {
            tokio::time::sleep(REQUEUE_INTERVAL).await;
        }
        channel.close().await
    }

    /// Waits until a quorum queue has processed all acknowledgements. RabbitMQ's channel sends at most 32 ahead of the
    /// queue and keeps the others back; when it closes, it forgets them, and the messages come back.
    ///
    /// The queue answers both of these in turn with all that was sent before. After the first answer the channel has sent
    /// what it kept back, so the second answer comes after all.
    async fn flush_acknowledgements(&mut self) -> Result<(), WireError> {
        // It may be sent a message; the close requeues that with the others.
        self.channel.qos(1).await?;
        self.channel.consume(&self.queue, FLUSH_TAG).await?;
        self.channel.cancel(FLUSH_TAG).await
    }

    async fn start_consumer(&mut self) -> Result<(), WireError> {
        let by_size = match self.taken {
            0 => SAMPLE_MESSAGES,
            taken => (WINDOW_BYTES / (self.bytes / taken).max(1)).clamp(1, MAX_PREFETCH),
        };
        self.remaining_prefetch = by_size.min(self.bounds.messages - self.taken);
        self.channel.qos(u16::try_from(self.remaining_prefetch).unwrap_or(u16::MAX)).await?;
        let tag = format!("browse-{}", self.consumers.len());
        self.channel.consume(&self.queue, &tag).await?;
        self.consumers.push(tag);
        Ok(())
    }
}
