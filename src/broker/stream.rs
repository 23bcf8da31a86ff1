//! Reads a stream over AMQP 0-9-1 (RabbitMQ docs, "Streams").

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    protocol::AMQPSoftError,
    types::{AMQPValue, DeliveryTag, FieldArray, FieldTable},
};
use tokio::time::{Instant, timeout_at};

use super::{consumer::queue_state, errors::soft_error};
use crate::message::{Timestamp, headers, outcome::STREAM_FILTER_VALUE};

/// How many entries may be on their way. More make nothing faster.
const PREFETCH: u16 = 1000;
/// Entries are acknowledged in steps of this many: the acknowledgement is what asks for more.
const ACK_EVERY: u16 = 250;
/// No entry waits longer than this for its acknowledgement: RabbitMQ closes the channel of one that waits for
/// `consumer_timeout`, 30 minutes, also of a stream that gets few.
const ACK_WITHIN: Duration = Duration::from_secs(1);
/// How many entries of the last chunk are read at once to find the end: more than a chunk has.
const MAX_CHUNK: u16 = 60_000;
/// How long RabbitMQ may take for the next entry while it is known that one comes.
pub const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How long to wait for an entry of a stream that says it has none: its count lags behind a moment.
const EMPTY_GRACE: Duration = Duration::from_secs(1);

const OFFSET: &str = "x-stream-offset";

/// A stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("stream {0} does not exist")]
    Missing(String),
    #[error("RabbitMQ refuses to read stream {name}: {broker}")]
    Refused { name: String, broker: String },
    #[error("RabbitMQ sent no entry of stream {name} for {seconds} s")]
    Stalled { name: String, seconds: u64 },
    #[error("reading stream {name} failed: {source}")]
    Failed { name: String, source: lapin::Error },
    #[error("RabbitMQ ended the reading of stream {0}")]
    Ended(String),
}

/// An entry of a stream.
#[derive(Debug)]
pub struct Entry {
    /// Its number; later ones are greater.
    pub offset: u64,
    pub delivery: Delivery,
}

impl Entry {
    /// The value by which it is filtered.
    pub fn filter_value(&self) -> Option<&str> {
        header(&self.delivery, STREAM_FILTER_VALUE).and_then(headers::text)
    }

    fn new(delivery: Delivery) -> Self {
        let offset = match header(&delivery, OFFSET) {
            Some(AMQPValue::LongLongInt(offset)) => u64::try_from(*offset).unwrap_or(0),
            _ => 0,
        };
        Self { offset, delivery }
    }
}

fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    delivery.properties.headers().as_ref()?.inner().get(name)
}

/// Where to begin.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    First,
    /// At a chunk that may begin before this time by RabbitMQ's clock.
    At(Timestamp),
    Offset(u64),
}

impl Start {
    fn value(self) -> AMQPValue {
        match self {
            Self::First => AMQPValue::LongString("first".into()),
            Self::At(at) => AMQPValue::Timestamp(at.as_secs()),
            Self::Offset(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX)),
        }
    }
}

/// Whether a stream, whose last entry this is, was declared anew since all entries before `next` were read.
pub fn was_declared_anew(next: u64, last: Option<u64>) -> bool {
    last.is_none_or(|last| last.saturating_add(1) < next)
}

/// A stream of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a> {
    connection: &'a Connection,
    name: &'a str,
}

impl<'a> Stream<'a> {
    pub fn new(connection: &'a Connection, name: &'a str) -> Self {
        Self { connection, name }
    }

    /// The last entries, which end with the last one there is now; empty if the stream is.
    ///
    /// RabbitMQ sends the whole last chunk at once: after its first entry, all others come before the
    /// answer to a cancel. So no silence has to be interpreted, but for a stream that has no entry.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub async fn last_entries(&self) -> Result<Vec<Entry>, StreamError> {
        let channel = self.connection.create_channel().await.map_err(|error| self.fault(error))?;
        let state = queue_state(&channel, self.name).await.map_err(|error| self.fault(error))?;
        let is_empty = state.messages == 0;
        let mut consumer =
            self.consume(&channel, AMQPValue::LongString("last".into()), &[], MAX_CHUNK).await?;
        let patience = if is_empty { EMPTY_GRACE } else { STALLED_AFTER };
        let mut entries = Vec::new();
        match tokio::time::timeout(patience, consumer.next()).await {
            Ok(first) => entries.push(self.entry(first)?),
            Err(_elapsed) if is_empty => {}
            Err(_elapsed) => return Err(self.stalled(STALLED_AFTER)),
        }
        let cancelled = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
        cancelled.map_err(|error| self.fault(error))?;
        // It ends after what came before the answer.
        while let Some(delivery) = consumer.next().await {
            entries.push(self.entry(Some(delivery))?);
        }
        super::topology::close(&channel).await;
        Ok(entries)
    }

    /// The first entry from `start` on, of which it is known that it is there.
    ///
    /// # Errors
    /// If it does not come within `patience`, or the stream cannot be read.
    pub async fn entry_at(&self, start: Start, patience: Duration) -> Result<Entry, StreamError> {
        // A search would get a thousand entries for this one.
        let mut reader = self.open(start, &[], 1, 1).await?;
        let first = tokio::time::timeout(patience, reader.wait_next()).await;
        reader.close().await;
        first.unwrap_or_else(|_elapsed| Err(self.stalled(patience)))
    }

    /// Reads from `start` on. With `filters`, RabbitMQ may leave out entries that have another filter
    /// value; older releases leave out none.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub async fn read(&self, start: Start, filters: &[&str]) -> Result<Reader<'a>, StreamError> {
        self.open(start, filters, PREFETCH, ACK_EVERY).await
    }

    async fn open(
        &self,
        start: Start,
        filters: &[&str],
        prefetch: u16,
        ack_every: u16,
    ) -> Result<Reader<'a>, StreamError> {
        let channel = self.connection.create_channel().await.map_err(|error| self.fault(error))?;
        let consumer = self.consume(&channel, start.value(), filters, prefetch).await?;
        let from = match start {
            Start::Offset(offset) => offset,
            Start::First | Start::At(_) => 0,
        };
        Ok(Reader { stream: *self, channel, consumer, from, unacknowledged: None, ack_every })
    }

    async fn consume(
        &self,
        channel: &Channel,
        start: AMQPValue,
        filters: &[&str],
        prefetch: u16,
    ) -> Result<Consumer, StreamError> {
        let mut arguments = BTreeMap::from([(OFFSET.into(), start)]);
        if !filters.is_empty() {
            let values: Vec<_> = filters.iter().map(|value| AMQPValue::LongString((*value).into())).collect();
            arguments.insert("x-stream-filter".into(), AMQPValue::FieldArray(FieldArray::from(values)));
            // They have several identifiers, or are older than the header.
            arguments.insert("x-stream-match-unfiltered".into(), AMQPValue::Boolean(true));
        }
        let consume = async {
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            channel.basic_consume(self.name.into(), "".into(), options, FieldTable::from(arguments)).await
        };
        consume.await.map_err(|error| self.fault(error))
    }

    fn entry(&self, delivery: Option<lapin::Result<Delivery>>) -> Result<Entry, StreamError> {
        match delivery {
            Some(Ok(delivery)) => Ok(Entry::new(delivery)),
            Some(Err(error)) => Err(self.fault(error)),
            None => Err(StreamError::Ended(self.name.to_owned())),
        }
    }

    fn stalled(&self, after: Duration) -> StreamError {
        StreamError::Stalled { name: self.name.to_owned(), seconds: after.as_secs() }
    }

    fn fault(&self, source: lapin::Error) -> StreamError {
        let name = self.name.to_owned();
        match soft_error(&source) {
            Some((AMQPSoftError::NOTFOUND, broker)) if is_missing(&broker) => StreamError::Missing(name),
            Some((AMQPSoftError::ACCESSREFUSED, broker)) => StreamError::Refused { name, broker },
            _ => StreamError::Failed { name, source },
        }
    }
}

/// Reads a stream, entry by entry. Dropping it ends the reading.
#[derive(Debug)]
pub struct Reader<'a> {
    stream: Stream<'a>,
    channel: Channel,
    consumer: Consumer,
    /// RabbitMQ begins with a chunk, which may begin earlier.
    from: u64,
    unacknowledged: Option<Unacknowledged>,
    ack_every: u16,
}

/// Entries that RabbitMQ has sent, and that are not acknowledged yet.
#[derive(Clone, Copy, Debug)]
struct Unacknowledged {
    count: u16,
    last: DeliveryTag,
    due: Instant,
}

impl Reader<'_> {
    /// The next entry, of which it is known that it comes.
    ///
    /// # Errors
    /// If it does not come within `patience`, or the stream cannot be read any more.
    pub async fn next(&mut self, patience: Duration) -> Result<Entry, StreamError> {
        let stream = self.stream;
        let next = tokio::time::timeout(patience, self.wait_next()).await;
        next.unwrap_or_else(|_elapsed| Err(stream.stalled(patience)))
    }

    /// The next entry, whenever it comes.
    ///
    /// # Errors
    /// If the stream cannot be read any more.
    pub async fn wait_next(&mut self) -> Result<Entry, StreamError> {
        loop {
            let entry = self.receive().await?;
            if entry.offset >= self.from {
                return Ok(entry);
            }
        }
    }

    async fn receive(&mut self) -> Result<Entry, StreamError> {
        let entry = loop {
            let next = self.consumer.next();
            let next = match self.unacknowledged {
                Some(unacknowledged) => timeout_at(unacknowledged.due, next).await,
                None => Ok(next.await),
            };
            match next {
                Ok(next) => break self.stream.entry(next)?,
                Err(_elapsed) => self.acknowledge().await?,
            }
        };
        let earlier = self.unacknowledged;
        let unacknowledged = Unacknowledged {
            count: earlier.map_or(1, |earlier| earlier.count + 1),
            last: entry.delivery.delivery_tag,
            due: earlier.map_or_else(|| Instant::now() + ACK_WITHIN, |earlier| earlier.due),
        };
        self.unacknowledged = Some(unacknowledged);
        if unacknowledged.count >= self.ack_every {
            self.acknowledge().await?;
        }
        Ok(entry)
    }

    async fn acknowledge(&mut self) -> Result<(), StreamError> {
        let Some(Unacknowledged { last, .. }) = self.unacknowledged.take() else { return Ok(()) };
        // Ends when lapin has written it. Readers that wait for the next entry as long as it takes have no other limit.
        let acknowledge = self.channel.basic_ack(last, BasicAckOptions { multiple: true });
        match tokio::time::timeout(STALLED_AFTER, acknowledge).await {
            Ok(acknowledged) => acknowledged.map_err(|error| self.stream.fault(error)),
            Err(_elapsed) => Err(self.stream.stalled(STALLED_AFTER)),
        }
    }

    /// Ends the reading, and waits for RabbitMQ's answer.
    pub async fn close(self) {
        super::topology::close(&self.channel).await;
    }
}

/// Whether there is no such queue. RabbitMQ answers with the same code if its leader is away.
fn is_missing(broker: &str) -> bool {
    broker.contains("no queue")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_whose_leader_is_away_is_not_missing() {
        assert!(is_missing("NOT_FOUND - no queue 'trackfinity.unlock.history' in vhost '/'"));
        assert!(!is_missing(
            "NOT_FOUND - home node 'rabbit@b' of durable queue 'trackfinity.unlock.history' in vhost '/' is down \
             or inaccessible"
        ));
    }
}
