//! Takes all messages of a queue without acknowledging them, oldest first, and gives them back in
//! their order.
//!
//! RabbitMQ puts what is given back behind everything that was given back before, seen on 3.10, 4.0
//! and 4.3: whoever takes some of a queue's messages and gives them back has moved them to its end.
//! So all are taken, down to the last, before any is given back.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::time::Instant;

use super::connection::is_unreadable;

/// The most unacknowledged deliveries of one consumer of a quorum queue (RabbitMQ docs, "Quorum
/// queues").
const PREFETCH: usize = 2000;
/// RabbitMQ gives a channel's messages back consumer by consumer, in the order of their tags as long
/// as there are no more than 32: larger maps have no order in Erlang.
const CONSUMERS_A_CHANNEL: usize = 30;
/// Messages that the first consumer takes, from whose size the next one's number follows.
const SAMPLE: usize = 100;
/// Bodies that may be on their way here at once, in bytes.
const WINDOW: usize = 32 * 1024 * 1024;
/// After so long without a message it is asked whether there are more.
const IDLE: Duration = Duration::from_millis(500);
/// A busy broker counts messages as taken by this consumer, and no more as ready, seconds before it
/// sends them: so often it has to say that none is left until that is believed.
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

/// Why not all were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// There are more than may be taken.
    Count,
    /// It took too long.
    Time,
    /// The next message cannot be read off the wire. The connection is gone, and all went back.
    Unreadable,
}

/// Messages that are held. They go back when their channels are closed.
#[derive(Debug)]
pub struct Holding<'a> {
    connection: &'a Connection,
    queue: Arc<str>,
    bounds: Bounds,
    deadline: Instant,
    channels: Vec<Channel>,
    consumer: Option<Consumer>,
    consumers: usize,
    /// Messages that the consumer at work may still bring.
    room: usize,
    of: usize,
    taken: usize,
    bytes: usize,
    /// How often in a row none came and none was ready.
    silences: usize,
    short: Option<Short>,
}

/// A message that is held.
#[derive(Debug)]
pub struct Held {
    pub delivery: Delivery,
    channel: Channel,
    queue: Arc<str>,
}

impl Held {
    /// Takes it out of the queue, and waits until the broker has read that.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn acknowledge(&self) -> lapin::Result<()> {
        self.channel.basic_ack(self.delivery.delivery_tag, BasicAckOptions::default()).await?;
        ready(&self.channel, &self.queue).await.map(|_count| ())
    }
}

impl<'a> Holding<'a> {
    /// Begins with the oldest; nothing is taken yet.
    ///
    /// # Errors
    /// If the queue does not exist, or the user may not read it.
    pub async fn begin(connection: &'a Connection, queue: &str, bounds: Bounds) -> lapin::Result<Self> {
        let channel = connection.create_channel().await?;
        let of = ready(&channel, queue).await?;
        Ok(Self {
            connection,
            queue: queue.into(),
            deadline: Instant::now() + bounds.time,
            bounds,
            channels: vec![channel],
            consumer: None,
            consumers: 0,
            room: 0,
            of,
            taken: 0,
            bytes: 0,
            silences: 0,
            short: None,
        })
    }

    /// Messages there were when it began.
    #[must_use]
    pub fn of(&self) -> usize {
        self.of
    }

    /// Why there are no more, if there are.
    #[must_use]
    pub fn short(&self) -> Option<Short> {
        self.short
    }

    /// The next message. `None` when there are no more, or no more may be taken.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn next(&mut self) -> lapin::Result<Option<Held>> {
        while self.short.is_none() && self.taken < self.of {
            if self.taken >= self.bounds.messages {
                self.short = Some(Short::Count);
                break;
            }
            if self.room == 0 {
                self.next_consumer().await?;
            }
            let (Some(consumer), Some(channel)) = (&mut self.consumer, self.channels.last()) else {
                break;
            };
            let wait = IDLE.min(self.deadline.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(wait, consumer.next()).await {
                Ok(Some(Ok(delivery))) => {
                    self.room -= 1;
                    self.silences = 0;
                    self.taken += 1;
                    self.bytes += delivery.data.len();
                    return Ok(Some(Held {
                        delivery,
                        channel: channel.clone(),
                        queue: Arc::clone(&self.queue),
                    }));
                }
                Ok(Some(Err(error))) if is_unreadable(&error) => {
                    self.short = Some(Short::Unreadable);
                }
                Ok(Some(Err(error))) => return Err(error),
                // The broker cancelled the consumer: the queue is gone.
                Ok(None) => break,
                Err(_elapsed) if Instant::now() >= self.deadline => self.short = Some(Short::Time),
                Err(_elapsed) if ready(channel, &self.queue).await? > 0 => self.silences = 0,
                Err(_elapsed) => {
                    self.silences += 1;
                    if self.silences >= SILENCES {
                        // Somebody else has taken some meanwhile.
                        break;
                    }
                }
            }
        }
        Ok(None)
    }

    /// Gives back all that was not acknowledged, in its order: first takes what is left, since only
    /// who has taken all leaves the order as it was.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn release(mut self) -> lapin::Result<()> {
        while self.next().await?.is_some() {}
        if self.short == Some(Short::Unreadable) {
            return Ok(());
        }
        for channel in self.channels {
            channel.close(200, "looked".into()).await?;
        }
        Ok(())
    }

    async fn next_consumer(&mut self) -> lapin::Result<()> {
        // Never more than may be taken: the one behind may be one that cannot be read.
        let by_size = match self.taken {
            0 => SAMPLE,
            taken => (WINDOW / (self.bytes / taken).max(1)).clamp(1, PREFETCH),
        };
        self.room = by_size.min(self.bounds.messages - self.taken);
        if self.consumers > 0 && self.consumers.is_multiple_of(CONSUMERS_A_CHANNEL) {
            self.channels.push(self.connection.create_channel().await?);
        }
        let Some(channel) = self.channels.last() else {
            return Ok(());
        };
        let prefetch = u16::try_from(self.room).unwrap_or(u16::MAX);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let tag = format!("look-{:06}", self.consumers);
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        self.consumer =
            Some(channel.basic_consume(self.queue.as_ref().into(), tag.into(), options, arguments).await?);
        self.consumers += 1;
        Ok(())
    }
}

/// Messages ready in a queue, true at once.
///
/// # Errors
/// If the queue does not exist, or the connection is lost.
pub async fn ready(channel: &Channel, queue: &str) -> lapin::Result<usize> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(usize::try_from(declared.message_count()).unwrap_or(usize::MAX))
}
