//! Browses a queue: consumes without acknowledging, then closes the channels so that RabbitMQ
//! requeues. Reads also messages that lapin cannot read.
//!
//! Browsing only some messages of a queue moves them to its end (seen on RabbitMQ 3.10, 4.0 and 4.3);
//! browsing all keeps their order. Nothing in this program depends on that order.

use std::time::Duration;

use tokio::time::Instant;

use super::wire::{WireChannel, WireConnection, WireDelivery, WireError};

/// The largest prefetch of a consumer of a quorum queue (RabbitMQ docs, "Quorum queues").
const MAX_PREFETCH: usize = 2000;
/// RabbitMQ requeues a channel's messages consumer by consumer. It keeps the order of the consumer
/// tags only up to 32 consumers, because larger maps have no order in Erlang.
const MAX_CONSUMERS_PER_CHANNEL: usize = 30;
/// The prefetch of the first consumer. The size of its messages decides the next prefetch.
const SAMPLE_MESSAGES: usize = 100;
/// The largest sum of bodies that RabbitMQ may send ahead, in bytes.
const WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// After this long without a message, RabbitMQ is asked whether there are more.
const IDLE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often in a row RabbitMQ must say that no message is ready. A busy RabbitMQ stops counting
/// messages as ready seconds before it delivers them.
const MAX_EMPTY_CHECKS: usize = 10;

/// How many messages a browse reads at most, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub messages: usize,
    pub time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { messages: 250_000, time: Duration::from_secs(60) }
    }
}

/// Why a browse ended before the last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// The limit of messages was reached.
    Count,
    /// The time limit was reached.
    Time,
    /// Somebody else consumed some of the messages.
    Elsewhere,
}

/// A delivered message that is not acknowledged.
#[derive(Debug)]
pub struct BrowsedMessage {
    pub delivery: WireDelivery,
    pub tag: Tag,
}

/// Identifies a message within one browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    channel: usize,
    delivery_tag: u64,
}

/// Browses a queue. RabbitMQ requeues the messages when the browser is released or dropped.
#[derive(Debug)]
pub struct QueueBrowser<'a> {
    connection: &'a WireConnection,
    queue: String,
    bounds: Bounds,
    deadline: Instant,
    channels: Vec<WireChannel>,
    /// The running consumers: the index of the channel, and the consumer tag.
    consumers: Vec<(usize, String)>,
    /// How many messages the last consumer may still deliver.
    remaining_prefetch: usize,
    started_consumers: usize,
    /// Whether all consumers are cancelled, so that no more messages are delivered.
    is_stopped: bool,
    total: usize,
    taken: usize,
    bytes: usize,
    /// How often in a row no message came and none was ready.
    empty_checks: usize,
    incomplete: Option<Incomplete>,
}

impl<'a> QueueBrowser<'a> {
    /// Counts the messages; consumes none yet.
    ///
    /// # Errors
    /// If the queue does not exist, or the connection is lost.
    pub async fn open(
        connection: &'a WireConnection,
        queue: &str,
        bounds: Bounds,
    ) -> Result<Self, WireError> {
        let mut channel = connection.open_channel().await?;
        let total = channel.message_count(queue).await?;
        Ok(Self {
            connection,
            queue: queue.to_owned(),
            deadline: Instant::now() + bounds.time,
            bounds,
            channels: vec![channel],
            consumers: Vec::new(),
            remaining_prefetch: 0,
            started_consumers: 0,
            is_stopped: false,
            total,
            taken: 0,
            bytes: 0,
            empty_checks: 0,
            incomplete: None,
        })
    }

    /// How many messages were ready when the browse began.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many messages were read so far.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Why the browse ended before the last message, if it did.
    #[must_use]
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
            let at = self.channels.len() - 1;
            let Some(channel) = self.channels.last_mut() else {
                break;
            };
            let wait = IDLE_TIMEOUT.min(self.deadline.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(wait, channel.next()).await {
                Ok(Ok(Some(delivery))) => {
                    self.remaining_prefetch = self.remaining_prefetch.saturating_sub(1);
                    self.empty_checks = 0;
                    self.taken += 1;
                    self.bytes += delivery.body.len();
                    let tag = Tag { channel: at, delivery_tag: delivery.delivery_tag };
                    return Ok(Some(BrowsedMessage { delivery, tag }));
                }
                Ok(Err(error)) => return Err(error),
                // RabbitMQ cancelled the consumer because the queue was deleted.
                Ok(Ok(None)) => self.incomplete = Some(Incomplete::Elsewhere),
                Err(_elapsed) if Instant::now() >= self.deadline => {
                    self.incomplete = Some(Incomplete::Time);
                }
                Err(_elapsed) if channel.message_count(&self.queue).await? > 0 => self.empty_checks = 0,
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
        for (at, tag) in std::mem::take(&mut self.consumers) {
            if let Some(channel) = self.channels.get_mut(at) {
                channel.cancel(&tag).await?;
            }
        }
        self.is_stopped = true;
        Ok(())
    }

    /// Acknowledges a message, and waits until RabbitMQ has processed that. Cancels the consumers
    /// before: after an acknowledgement RabbitMQ would send one more message to the consumer.
    ///
    /// # Errors
    /// If the connection is lost. Then the message may or may not have left the queue.
    pub async fn acknowledge(&mut self, tag: Tag) -> Result<(), WireError> {
        if !self.is_stopped {
            self.stop_taking().await?;
        }
        match self.channels.get_mut(tag.channel) {
            Some(channel) => channel.acknowledge(tag.delivery_tag).await,
            None => Err(WireError::Lost("the message does not belong to this browser".to_owned())),
        }
    }

    /// Cancels the consumers and requeues these messages, in the order of their delivery.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn requeue(&mut self, mut tags: Vec<Tag>) -> Result<(), WireError> {
        self.stop_taking().await?;
        tags.sort_unstable();
        for (at, channel) in self.channels.iter_mut().enumerate() {
            let of_channel = tags.iter().filter(|tag| tag.channel == at).map(|tag| tag.delivery_tag);
            channel.requeue(of_channel).await?;
        }
        Ok(())
    }

    /// Requeues everything that was not acknowledged.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn release(self) -> Result<(), WireError> {
        for channel in self.channels {
            channel.close().await?;
        }
        Ok(())
    }

    async fn start_consumer(&mut self) -> Result<(), WireError> {
        let by_size = match self.taken {
            0 => SAMPLE_MESSAGES,
            taken => (WINDOW_BYTES / (self.bytes / taken).max(1)).clamp(1, MAX_PREFETCH),
        };
        self.remaining_prefetch = by_size.min(self.bounds.messages - self.taken);
        let started = self.started_consumers;
        if started > 0 && started.is_multiple_of(MAX_CONSUMERS_PER_CHANNEL) {
            self.channels.push(self.connection.open_channel().await?);
        }
        let at = self.channels.len() - 1;
        let Some(channel) = self.channels.last_mut() else {
            return Ok(());
        };
        channel.qos(u16::try_from(self.remaining_prefetch).unwrap_or(u16::MAX)).await?;
        let tag = format!("browse-{started:06}");
        channel.consume(&self.queue, &tag).await?;
        self.consumers.push((at, tag));
        self.started_consumers += 1;
        Ok(())
    }
}
