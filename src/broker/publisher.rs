//! Publishes: persistent, mandatory, confirmed, each with a deadline.
//!
//! With several mandatory publishes in flight on one channel, a return is sometimes attached to the
//! wrong one of them; with one in flight, never. So where being routed is a matter of life, each
//! publish has a channel of a pool to itself; all others are pipelined on one channel, which costs
//! a third less.
//!
//! lapin holds 32 frames each way for every connection: with RabbitMQ's usual frames 8 MiB. Few
//! messages have headers that need them, so the connection that publishes may have smaller ones;
//! what does not fit goes on a further connection, opened for the first such message.

mod line;

use std::sync::{Arc, PoisonError, RwLock};

use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Semaphore;

pub use self::line::LargeFrames;
use self::line::{CONFIRM_TIMEOUT, Line};
use super::{ConnectError, connection::Link, topology::soft_error};
use crate::message::headers;

/// Publishes under way at once that must be routed.
const POOL_SIZE: usize = 32;
/// A message to publish.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    pub exchange: &'a str,
    pub routing_key: &'a str,
    pub properties: BasicProperties,
    pub body: &'a [u8],
}

/// Whether a message has to reach a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// A message that reaches no queue was not published.
    Required,
    /// A message that reaches no queue was published all the same.
    Optional,
    /// Nobody asks: RabbitMQ 4.0 calls a direct reply unroutable that it delivered.
    Unasked,
}

/// A message was not published, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("no queue receives from exchange {exchange:?} with routing key {routing_key:?}")]
    Unroutable { exchange: String, routing_key: String },
    #[error("a queue behind exchange {exchange:?} refused the message: it is full, or has lost its quorum")]
    Refused { exchange: String },
    #[error("the broker closed the channel: {0}")]
    ChannelClosed(String),
    #[error("no confirm within {} s", CONFIRM_TIMEOUT.as_secs())]
    Timeout,
    #[error("the connection is gone: {0}")]
    Lost(lapin::Error),
    #[error("no connection for its large headers: {0}")]
    NoConnection(#[from] ConnectError),
}

impl PublishError {
    fn from_lapin(error: lapin::Error) -> Self {
        match soft_error(&error) {
            Some((_, broker)) => Self::ChannelClosed(broker),
            None => Self::Lost(error),
        }
    }

    /// The error as a low-cardinality code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unroutable { .. } => "unroutable",
            Self::Refused { .. } => "refused",
            Self::ChannelClosed(_) => "channel_closed",
            Self::Timeout => "timeout",
            Self::Lost(_) => "connection_lost",
            Self::NoConnection(_) => "no_connection",
        }
    }

    /// Whether only a new connection can help.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

/// Publishes on one connection. Clones share its channels.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    line: Line,
    /// None where the line's frames are as large as RabbitMQ takes them.
    large: Option<LargeFrames>,
    /// For messages that need not be routed.
    pipelined: RwLock<Option<Channel>>,
    permits: Semaphore,
    /// Held while a channel is opened to pipeline on, so that one is opened, not one a message.
    opening: tokio::sync::Mutex<()>,
}

impl Publisher {
    #[must_use]
    pub fn new(connection: Arc<Link>) -> Self {
        Self::with(connection, None)
    }

    /// One whose connection has smaller frames than RabbitMQ takes.
    #[must_use]
    pub fn with_small_frames(connection: Arc<Link>, large: LargeFrames) -> Self {
        Self::with(connection, Some(large))
    }

    fn with(connection: Arc<Link>, large: Option<LargeFrames>) -> Self {
        Self(Arc::new(Inner {
            line: Line::new(connection),
            large,
            pipelined: RwLock::default(),
            permits: Semaphore::new(POOL_SIZE),
            opening: tokio::sync::Mutex::default(),
        }))
    }

    /// Bytes that a message's properties may take, so that its header frame fits.
    #[must_use]
    pub fn room(&self) -> usize {
        match &self.0.large {
            Some(large) => large.room(),
            None => self.0.line.room(),
        }
    }

    /// Says goodbye on the connection that was opened here, if one was.
    pub async fn close(&self) {
        if let Some(large) = &self.0.large {
            large.close().await;
        }
    }

    /// Publishes a message and waits for its confirm. `Ok(false)`: confirmed, but no queue received
    /// it, which [`Routing::Optional`] alone allows.
    ///
    /// # Errors
    /// If the message was not published, or it is not known that it was.
    pub async fn publish(&self, message: &Outgoing<'_>, routing: Routing) -> Result<bool, PublishError> {
        let large = match &self.0.large {
            Some(large) if headers::encoded_len(&message.properties) > self.0.line.room() => {
                Some(Box::pin(large.line()).await?)
            }
            _ => None,
        };
        let confirmation = match (routing, large) {
            (Routing::Optional, None) => self.0.pipeline(message).await?,
            (_, None) => Box::pin(self.0.alone(&self.0.line, message, routing)).await?,
            (_, Some(line)) => Box::pin(self.0.alone(&line, message, routing)).await?,
        };
        let exchange = || message.exchange.to_owned();
        match (confirmation, routing) {
            (Confirmation::Ack(None), _) => Ok(true),
            (Confirmation::Ack(Some(_returned)), Routing::Optional | Routing::Unasked) => Ok(false),
            (Confirmation::Ack(Some(_returned)), Routing::Required) => {
                let routing_key = message.routing_key.to_owned();
                Err(PublishError::Unroutable { exchange: exchange(), routing_key })
            }
            (Confirmation::Nack(_), _) => Err(PublishError::Refused { exchange: exchange() }),
            (Confirmation::NotRequested, _) => {
                Err(PublishError::ChannelClosed("the channel is not in confirm mode".to_owned()))
            }
        }
    }
}

impl Inner {
    /// Publishes beside others on one channel.
    async fn pipeline(&self, message: &Outgoing<'_>) -> Result<Confirmation, PublishError> {
        let channel = self.pipelined().await?;
        let confirmation = self.line.confirmed(&channel, message, Routing::Optional).await;
        if !confirmation.as_ref().is_ok_and(Confirmation::is_ack) {
            self.retire(&channel);
        }
        confirmation
    }

    /// Publishes as the only one on a channel.
    async fn alone(
        &self,
        line: &Line,
        message: &Outgoing<'_>,
        routing: Routing,
    ) -> Result<Confirmation, PublishError> {
        // The semaphore is never closed, and a failure to wait is no failure to publish.
        let _permit = self.permits.acquire().await.ok();
        let channel = line.idle().await?;
        let confirmation = line.confirmed(&channel, message, routing).await?;
        // With a publish still in flight on it, the next one's return could not be told; and
        // RabbitMQ 3.10 goes on refusing on a channel it once refused on, though there is room
        // again.
        if confirmation.is_ack() {
            line.put_back(channel);
        }
        Ok(confirmation)
    }

    async fn pipelined(&self) -> Result<Channel, PublishError> {
        if let Some(channel) = self.open_pipeline() {
            return Ok(channel);
        }
        let _opening = self.opening.lock().await;
        if let Some(channel) = self.open_pipeline() {
            return Ok(channel);
        }
        let channel = self.line.open().await?;
        *self.pipelined.write().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
        Ok(channel)
    }

    fn open_pipeline(&self) -> Option<Channel> {
        let pipelined = self.pipelined.read().unwrap_or_else(PoisonError::into_inner);
        pipelined.as_ref().filter(|channel| channel.status().connected()).cloned()
    }

    /// The next publish opens another channel; this one closes after the last publish on it. One
    /// that is refused on, or silent, may stay so.
    fn retire(&self, channel: &Channel) {
        let mut pipelined = self.pipelined.write().unwrap_or_else(PoisonError::into_inner);
        if pipelined.as_ref().is_some_and(|current| current.id() == channel.id()) {
            *pipelined = None;
        }
    }
}
