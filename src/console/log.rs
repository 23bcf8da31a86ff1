//! The stream in which consoles keep what they have done. Each console follows it, so that all know the same, and
//! one that starts knows what happened before.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use lapin::{
    BasicProperties,
    options::QueueDeclareOptions,
    protocol::AMQPSoftError,
    types::{AMQPValue, FieldTable},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    events::{Event, Record},
    problem::Problem,
    records::Records,
};
use crate::{
    broker::{
        Backoff, ConnectError, Connector, Lane, Mandatory, PublishError, Publisher,
        connection::Connection,
        errors::soft_error,
        publisher::Outgoing,
        stream::{Start, Stream, StreamError, was_declared_anew},
    },
    message::Timestamp,
    telemetry::LogThrottle,
};

/// How long events are kept.
const MAX_AGE: &str = "7D";
/// How many bytes of events are kept, and in segments of which size: RabbitMQ deletes whole ones.
const MAX_BYTES: i64 = 50_000_000;
const SEGMENT_BYTES: i64 = 5_000_000;
/// How long RabbitMQ may take to store an event.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait until all events so far are known, after a start.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Events could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("{summary}: {0}", summary = .0.summary())]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Amqp(#[from] lapin::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("RabbitMQ has not confirmed it within {} s", APPEND_TIMEOUT.as_secs())]
    Unconfirmed,
    #[error("stream {name} does not exist, and RabbitMQ does not let this user declare it: {broker}")]
    Undeclared { name: String, broker: String },
    #[error("it cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        let what = format!("What consoles do cannot be kept in RabbitMQ, so nothing was started: {error}.");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "console_log",
            what,
            "Run `unlocker check --role console`.",
        )
    }
}

/// The stream. Clones share what is known.
#[derive(Clone, Debug)]
pub(super) struct ConsoleLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connector: Connector,
    stream: String,
    records: Mutex<Records>,
    known: watch::Sender<Known>,
    publishing: tokio::sync::Mutex<Option<(Arc<Connection>, Publisher)>>,
    throttle: LogThrottle,
}

/// What is known of the events. Changes with each.
#[derive(Debug)]
enum Known {
    /// The console has just started.
    NotYet,
    /// All that there were when it connected, and this many since.
    All(u64),
    /// They cannot be read, for this reason.
    Unread(Arc<str>),
}

impl ConsoleLog {
    pub(super) fn new(connector: Connector, stream: String) -> Self {
        Self(Arc::new(Shared {
            connector,
            stream,
            records: Mutex::default(),
            known: watch::Sender::new(Known::NotYet),
            publishing: tokio::sync::Mutex::default(),
            throttle: LogThrottle::default(),
        }))
    }

    /// What `find` finds in what is known now.
    pub(super) fn look<T>(&self, find: impl FnOnce(&Records) -> T) -> T {
        find(&self.0.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As [`look`](Self::look), once all events so far are known. While they cannot be read, it waits for them a
    /// moment.
    pub(super) async fn read<T>(&self, find: impl FnOnce(&Records) -> T) -> Result<T, Problem> {
        self.read_once(|known| matches!(known, Known::All(_)), find).await
    }

    /// As [`read`](Self::read), but while they cannot be read, it fails at once.
    pub(super) async fn read_at_once<T>(&self, find: impl FnOnce(&Records) -> T) -> Result<T, Problem> {
        self.read_once(|known| !matches!(known, Known::NotYet), find).await
    }

    async fn read_once<T>(
        &self,
        is_reached: impl FnMut(&Known) -> bool,
        find: impl FnOnce(&Records) -> T,
    ) -> Result<T, Problem> {
        let mut known = self.0.known.subscribe();
        // The sender lives as long as this value.
        drop(tokio::time::timeout(READ_TIMEOUT, known.wait_for(is_reached)).await);
        let why = match &*known.borrow() {
            Known::All(_) => None,
            Known::NotYet => Some("RabbitMQ has not been reached yet".into()),
            Known::Unread(why) => Some(Arc::clone(why)),
        };
        let Some(why) = why else { return Ok(self.look(find)) };
        let what = format!("What consoles have done cannot be read from RabbitMQ: {why}.");
        let advice = "Try again when RabbitMQ is back, or run `unlocker check --role console`.";
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "console_log", what, advice))
    }

    /// Waits until `find` finds something.
    pub(super) async fn wait_for<T>(&self, mut find: impl FnMut(&Records) -> Option<T>) -> T {
        let mut known = self.0.known.subscribe();
        loop {
            known.mark_unchanged();
            if let Some(found) = self.look(&mut find) {
                return found;
            }
            // The sender lives as long as this value.
            if known.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Notes an event for this console alone, for as long as it runs.
    pub(super) fn note(&self, event: Event) {
        self.apply(Record { at: Timestamp::now(), event });
    }

    /// Stores an event for all consoles.
    pub(super) async fn append(&self, event: Event) -> Result<(), LogError> {
        let body = serde_json::to_vec(&Record { at: Timestamp::now(), event })?;
        let append = async {
            let publisher = self.publisher().await?;
            let properties = BasicProperties::default().with_content_type("application/json".into());
            let message = Outgoing { exchange: "", routing_key: &self.0.stream, properties, body: &body };
            publisher.publish(&message, Mandatory::Required(Lane::DeadLetters)).await?;
            Ok(())
        };
        tokio::time::timeout(APPEND_TIMEOUT, append).await.unwrap_or(Err(LogError::Unconfirmed))
    }

    async fn publisher(&self) -> Result<Publisher, LogError> {
        let mut publishing = self.0.publishing.lock().await;
        if let Some((_, publisher)) = publishing.as_ref().filter(|(open, _)| open.status().connected()) {
            return Ok(publisher.clone());
        }
        let open = Arc::new(self.0.connector.connect_with_small_frames("tells other consoles").await?);
        declare(&open, &self.0.stream).await?;
        let publisher = Publisher::new(Arc::clone(&open));
        *publishing = Some((open, publisher.clone()));
        Ok(publisher)
    }

    /// Follows the stream until `end` is cancelled.
    pub(super) async fn follow(self, end: CancellationToken) {
        let follow = async {
            let mut backoff = Backoff::new();
            let mut next = None;
            loop {
                let error = self.follow_once(&mut next, &mut backoff).await;
                let text = error.to_string();
                if let Some(left_out) = self.0.throttle.due(&text) {
                    tracing::warn!(
                        event = "console_log_unread",
                        error = text,
                        left_out,
                        "what other consoles do is not known"
                    );
                }
                self.0.known.send_modify(|known| *known = Known::Unread(text.into()));
                self.0.connector.wait_to_retry(backoff.next(fastrand::f64())).await;
            }
        };
        end.run_until_cancelled(follow).await;
        if let Some((connection, _)) = self.0.publishing.lock().await.take() {
            connection.close().await;
        }
    }

    /// Follows the stream from the entry `next` until it cannot be read any more; returns why.
    async fn follow_once(&self, next: &mut Option<u64>, backoff: &mut Backoff) -> LogError {
        let follow = async {
            let connection = self.0.connector.connect_with_small_frames("follows the consoles").await?;
            let refused = declare(&connection, &self.0.stream).await?;
            let stream = Stream::new(&connection, &self.0.stream);
            let last = stream.last_entries().await.map_err(|error| match (error, refused) {
                (StreamError::Missing(name), Some(broker)) => LogError::Undeclared { name, broker },
                (error, _) => error.into(),
            });
            let last = last?.last().map(|entry| entry.offset);
            if next.is_some_and(|next| was_declared_anew(next, last)) {
                *next = None;
                *self.0.records.lock().unwrap_or_else(PoisonError::into_inner) = Records::default();
            }
            let mut reader = stream.read(next.map_or(Start::First, Start::Offset), &[]).await?;
            backoff.reset();
            let is_up_to_date =
                |next: Option<u64>| last.is_none_or(|last| next.is_some_and(|next| next > last));
            loop {
                if is_up_to_date(*next) {
                    self.0.known.send_modify(|known| match known {
                        Known::All(count) => *count += 1,
                        _ => *known = Known::All(0),
                    });
                }
                let entry = reader.wait_next().await?;
                *next = Some(entry.offset.saturating_add(1));
                match serde_json::from_slice(&entry.delivery.data) {
                    Ok(record) => self.apply(record),
                    Err(error) => tracing::debug!(%error, "an event of another version"),
                }
            }
        };
        let followed: Result<std::convert::Infallible, LogError> = follow.await;
        match followed {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    fn apply(&self, record: Record) {
        self.0.records.lock().unwrap_or_else(PoisonError::into_inner).apply(record);
        self.0.known.send_modify(|known| {
            if let Known::All(count) = known {
                *count += 1;
            }
        });
    }
}

/// Declares the stream. That it exists with other arguments, or that the user may not declare, is no reason to
/// stop: reading it says whether it can be used. Returns why RabbitMQ refused.
async fn declare(connection: &Connection, stream: &str) -> lapin::Result<Option<String>> {
    let text = |value: &str| AMQPValue::LongString(value.into());
    let arguments = BTreeMap::from([
        ("x-queue-type".into(), text("stream")),
        ("x-max-age".into(), text(MAX_AGE)),
        ("x-max-length-bytes".into(), AMQPValue::LongLongInt(MAX_BYTES)),
        ("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(SEGMENT_BYTES)),
    ]);
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    match channel.queue_declare(stream.into(), options, FieldTable::from(arguments)).await {
        Ok(_queue) => channel.close(200, "declared".into()).await.map(|()| None),
        Err(error) => match soft_error(&error) {
            Some((AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::ACCESSREFUSED, broker)) => {
                Ok(Some(broker))
            }
            _ => Err(error),
        },
    }
}
