//! Takes letters without acknowledging them, oldest first.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde::Serialize;
use tokio::time::Instant;

use super::letter::Letter;

/// The most unacknowledged deliveries of one consumer of a quorum queue (RabbitMQ docs, "Quorum
/// queues").
const PREFETCH: usize = 2000;
/// RabbitMQ gives letters back consumer by consumer, in the order of the consumers' tags as long as
/// there are no more than 32: larger maps have no order in Erlang.
const MAX_CONSUMERS: usize = 30;
/// Letters that the first consumer takes, from whose size the next one's number follows.
const SAMPLE: usize = 100;
/// Bodies that may be on their way here at once, in bytes.
const WINDOW: usize = 32 * 1024 * 1024;
/// The most letters that a scan takes; large ones less.
const MAX_LETTERS: usize = SAMPLE + PREFETCH * (MAX_CONSUMERS - 1);
/// The longest that a scan takes.
const MAX_TIME: Duration = Duration::from_secs(30);
/// After so long without a letter it is asked whether there are more.
const IDLE: Duration = Duration::from_millis(500);

/// How far a scan came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// Letters that were looked at.
    pub seen: usize,
    /// Letters there were when it began.
    pub of: usize,
    /// Why it ended before the last one.
    pub stopped: Option<Stopped>,
}

/// Why a scan ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// As many as were wanted.
    Enough,
    /// There are more than are looked at in one go.
    Count,
    /// It took too long.
    Time,
    /// The next letter cannot be read off the wire, and so none behind it.
    Unreadable,
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "first {} of {}", self.seen, self.of)?;
        match self.stopped {
            None | Some(Stopped::Enough) => Ok(()),
            Some(Stopped::Count) => write!(f, "; no more than {MAX_LETTERS} are looked at"),
            Some(Stopped::Time) => write!(f, "; a look takes no longer than {} s", MAX_TIME.as_secs()),
            Some(Stopped::Unreadable) => {
                write!(f, "; the next one cannot be read, as a text in its properties is not UTF-8")
            }
        }
    }
}

/// How far a scan may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) letters: usize,
    pub(super) time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { letters: MAX_LETTERS, time: MAX_TIME }
    }
}

/// Letters taken and not acknowledged. They go back when the channel is closed.
#[derive(Debug)]
pub(super) struct Scan {
    queue: String,
    channel: Channel,
    consumer: Option<Consumer>,
    consumers: usize,
    /// Letters that the consumer at work may still bring.
    room: usize,
    bounds: Bounds,
    deadline: Instant,
    extent: Extent,
    /// Of the bodies seen.
    bytes: usize,
    /// How many letters had each fingerprint.
    fingerprints: HashMap<[u8; 16], u32>,
}

impl Scan {
    pub(super) async fn begin(connection: &Connection, queue: &str, bounds: Bounds) -> lapin::Result<Self> {
        let channel = connection.create_channel().await?;
        let of = ready(&channel, queue).await?;
        Ok(Self {
            queue: queue.to_owned(),
            channel,
            consumer: None,
            consumers: 0,
            room: 0,
            deadline: Instant::now() + bounds.time,
            bounds,
            extent: Extent { seen: 0, of, stopped: None },
            bytes: 0,
            fingerprints: HashMap::new(),
        })
    }

    /// The next letter, and the tag to acknowledge it by. `None` when there are no more, or no more
    /// may be taken.
    pub(super) async fn next(&mut self) -> lapin::Result<Option<(Letter, u64)>> {
        while self.extent.stopped.is_none() && self.extent.seen < self.extent.of {
            if self.extent.seen >= self.bounds.letters || (self.room == 0 && self.consumers == MAX_CONSUMERS)
            {
                self.extent.stopped = Some(Stopped::Count);
                break;
            }
            if self.room == 0 {
                self.room = self.next_room();
                let consumer = consume(&self.channel, &self.queue, self.consumers, self.room).await?;
                self.consumer = Some(consumer);
                self.consumers += 1;
            }
            let Some(consumer) = &mut self.consumer else {
                break;
            };
            let wait = IDLE.min(self.deadline.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(wait, consumer.next()).await {
                Ok(Some(Ok(delivery))) => {
                    self.room -= 1;
                    self.extent.seen += 1;
                    self.bytes += delivery.data.len();
                    let tag = delivery.delivery_tag;
                    let fingerprints = &mut self.fingerprints;
                    let letter = Letter::open(delivery.properties, delivery.data, |fingerprint| {
                        let nth = fingerprints.entry(short(fingerprint)).or_insert(0);
                        *nth += 1;
                        *nth
                    });
                    return Ok(Some((letter, tag)));
                }
                Ok(Some(Err(error))) if is_unreadable(&error) => {
                    self.extent.stopped = Some(Stopped::Unreadable);
                }
                Ok(Some(Err(error))) => return Err(error),
                // The broker cancelled the consumer: the queue is gone.
                Ok(None) => break,
                Err(_elapsed) if Instant::now() >= self.deadline => {
                    self.extent.stopped = Some(Stopped::Time);
                }
                // Somebody else may have taken some meanwhile.
                Err(_elapsed) if ready(&self.channel, &self.queue).await? == 0 => break,
                Err(_elapsed) => {}
            }
        }
        Ok(None)
    }

    /// How many letters the next consumer may bring. Never more than may be taken: the one behind may
    /// be one that cannot be read.
    fn next_room(&self) -> usize {
        let by_size = match self.extent.seen {
            0 => SAMPLE,
            seen => (WINDOW / (self.bytes / seen).max(1)).clamp(1, PREFETCH),
        };
        by_size.min(self.bounds.letters - self.extent.seen)
    }

    /// Says that as many were taken as were wanted.
    pub(super) fn enough(&mut self) {
        if self.extent.seen < self.extent.of {
            self.extent.stopped.get_or_insert(Stopped::Enough);
        }
    }

    pub(super) fn extent(&self) -> Extent {
        self.extent
    }

    /// Takes a letter out of the queue, and waits until the broker has read that.
    pub(super) async fn acknowledge(&self, tag: u64) -> lapin::Result<()> {
        self.channel.basic_ack(tag, BasicAckOptions::default()).await?;
        ready(&self.channel, &self.queue).await.map(|_count| ())
    }

    /// Gives back all that was not acknowledged, in its order.
    pub(super) async fn release(self) -> lapin::Result<()> {
        self.channel.close(200, "looked".into()).await
    }
}

/// Whether the connection ended because a message cannot be read.
pub(super) fn is_unreadable(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ParsingError(_))
}

async fn consume(channel: &Channel, queue: &str, nth: usize, prefetch: usize) -> lapin::Result<Consumer> {
    let prefetch = u16::try_from(prefetch).unwrap_or(u16::MAX);
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let tag = format!("look-{nth:02}");
    channel
        .basic_consume(queue.into(), tag.into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
}

/// Messages ready in a queue, true at once.
async fn ready(channel: &Channel, queue: &str) -> lapin::Result<usize> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(usize::try_from(declared.message_count()).unwrap_or(usize::MAX))
}

/// As much of a fingerprint as tells letters apart.
fn short(fingerprint: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (short, byte) in short.iter_mut().zip(fingerprint.bytes()) {
        *short = byte;
    }
    short
}
