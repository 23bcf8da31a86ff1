//! Browses a queue: consumes without acknowledging, then closes the channels so that RabbitMQ
//! requeues. One reader for messages that lapin can and cannot read.
//!
//! Whoever takes some of a queue's messages and gives them back has moved them to its end, seen on
//! RabbitMQ 3.10, 4.0 and 4.3; taking all keeps their order. Nothing here depends on that order.

use std::time::Duration;

use tokio::time::Instant;

use super::wire::{WireChannel, WireConnection, WireDelivery, WireError};

/// The most unacknowledged deliveries of one consumer of a quorum queue (RabbitMQ docs, "Quorum
/// queues").
const PREFETCH: usize = 2000;
/// RabbitMQ gives a channel's messages back consumer by consumer, in the order of their tags as long
/// as there are no more than 32: larger maps have no order in Erlang.
const CONSUMERS_A_CHANNEL: usize = 30;
/// Messages that the first consumer takes, from whose size the next one's number follows.
const SAMPLE: usize = 100;
/// Bytes of bodies that may be on their way here at once.
const WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// After so long without a message RabbitMQ is asked whether there are more.
const IDLE: Duration = Duration::from_millis(500);
/// A busy broker counts messages as taken by this consumer, and no more as ready, seconds before it
/// sends them: it has to say that none is left this often until that is believed.
const SILENCES: usize = 10;

/// How far to go.
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
    /// There are more than may be taken.
    Count,
    /// It took too long.
    Time,
    /// Somebody else has taken some of them meanwhile.
    Elsewhere,
}

/// A message that is held.
#[derive(Debug)]
pub struct BrowsedMessage {
    pub delivery: WireDelivery,
    pub tag: Tag,
}

/// Names a message that is held, among all that a browser holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    channel: usize,
    delivery_tag: u64,
}

/// Holds the messages that it has taken. They go back when it is released or dropped.
#[derive(Debug)]
pub struct QueueBrowser<'a> {
    connection: &'a WireConnection,
    queue: String,
    bounds: Bounds,
    deadline: Instant,
    channels: Vec<WireChannel>,
    /// Consumers that RabbitMQ may send to, by channel.
    consumers: Vec<(usize, String)>,
    /// Messages that the last consumer may still bring.
    room: usize,
    started: usize,
    /// Whether all consumers are cancelled: no further message is taken.
    closed: bool,
    total: usize,
    taken: usize,
    bytes: usize,
    /// How often in a row none came and none was ready.
    silences: usize,
    incomplete: Option<Incomplete>,
}

impl<'a> QueueBrowser<'a> {
    /// Counts the messages; takes none yet.
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
            room: 0,
            started: 0,
            closed: false,
            total,
            taken: 0,
            bytes: 0,
            silences: 0,
            incomplete: None,
        })
    }

    /// Messages that were ready when it began.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Messages taken so far.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Why there are no more, if there are.
    #[must_use]
    pub fn incomplete(&self) -> Option<Incomplete> {
        self.incomplete
    }

    /// The next message. `None` when there are no more, or no more may be taken. May be dropped at
    /// any point.
    ///
    /// # Errors
    /// If the queue may not be read, or the connection is lost.
    pub async fn next(&mut self) -> Result<Option<BrowsedMessage>, WireError> {
        while self.incomplete.is_none() && !self.closed && self.taken < self.total {
            if self.taken >= self.bounds.messages {
                self.incomplete = Some(Incomplete::Count);
                break;
            }
            if self.room == 0 {
                self.start_consumer().await?;
            }
            let at = self.channels.len() - 1;
            let Some(channel) = self.channels.last_mut() else {
                break;
            };
            let wait = IDLE.min(self.deadline.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(wait, channel.next()).await {
                Ok(Ok(Some(delivery))) => {
                    self.room = self.room.saturating_sub(1);
                    self.silences = 0;
                    self.taken += 1;
                    self.bytes += delivery.body.len();
                    let tag = Tag { channel: at, delivery_tag: delivery.delivery_tag };
                    return Ok(Some(BrowsedMessage { delivery, tag }));
                }
                Ok(Err(error)) => return Err(error),
                // RabbitMQ cancelled the consumer: the queue is gone.
                Ok(Ok(None)) => self.incomplete = Some(Incomplete::Elsewhere),
                Err(_elapsed) if Instant::now() >= self.deadline => {
                    self.incomplete = Some(Incomplete::Time);
                }
                Err(_elapsed) if channel.message_count(&self.queue).await? > 0 => self.silences = 0,
                Err(_elapsed) => {
                    self.silences += 1;
                    if self.silences >= SILENCES {
                        self.incomplete = Some(Incomplete::Elsewhere);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Takes no more. What RabbitMQ has sent already and was not seen here goes back with the rest.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn stop_taking(&mut self) -> Result<(), WireError> {
        for (at, tag) in std::mem::take(&mut self.consumers) {
            if let Some(channel) = self.channels.get_mut(at) {
                channel.cancel(&tag).await?;
            }
        }
        self.closed = true;
        Ok(())
    }

    /// Takes a message out of the queue, and waits until RabbitMQ has read that. Takes no more from
    /// then on: RabbitMQ would fill up a consumer whose prefetch is used up, with messages that
    /// nobody asked for.
    ///
    /// # Errors
    /// If the connection is lost: then the message may or may not have left the queue.
    pub async fn acknowledge(&mut self, tag: Tag) -> Result<(), WireError> {
        if !self.closed {
            self.stop_taking().await?;
        }
        match self.channels.get_mut(tag.channel) {
            Some(channel) => channel.acknowledge(tag.delivery_tag).await,
            None => Err(WireError::Lost("the message is not held any more".to_owned())),
        }
    }

    /// Gives back messages that are held, in the order in which they were taken, and takes no more.
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

    /// Gives back all that was not acknowledged.
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
            0 => SAMPLE,
            taken => (WINDOW_BYTES / (self.bytes / taken).max(1)).clamp(1, PREFETCH),
        };
        self.room = by_size.min(self.bounds.messages - self.taken);
        if self.started > 0 && self.started.is_multiple_of(CONSUMERS_A_CHANNEL) {
            self.channels.push(self.connection.open_channel().await?);
        }
        let at = self.channels.len() - 1;
        let Some(channel) = self.channels.last_mut() else {
            return Ok(());
        };
        channel.qos(u16::try_from(self.room).unwrap_or(u16::MAX)).await?;
        let tag = format!("browse-{:06}", self.started);
        channel.consume(&self.queue, &tag).await?;
        self.consumers.push((at, tag));
        self.started += 1;
        Ok(())
    }
}
