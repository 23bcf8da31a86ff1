//! Publishes: persistent, mandatory, confirmed, each with a deadline.
//!
//! With several mandatory publishes in flight on one channel, a return is sometimes attached to the
//! wrong one of them; with one in flight, never. So where being routed is a matter of life, each
//! publish has a channel of a pool to itself; all others are pipelined on one channel, which costs
//! a third less.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::sync::Semaphore;

use super::{connection::Link, topology::soft_error, wakes::Wakes};
use crate::message::headers;

/// How long a confirm may take while the broker does not block the connection.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// Publishes under way at once that must be routed.
const POOL_SIZE: usize = 32;
/// Bytes of a header frame that are not properties, a few too many. Such a frame can't be split, and
/// one too large ends the connection.
const FRAME_OVERHEAD: usize = 256;
/// The same, and room for the headers that the broker adds when it dead-letters.
const FRAME_RESERVE: usize = 4 * 1024;

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
    #[error("its headers need larger frames than the connection has")]
    LargeHeaders,
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
            Self::LargeHeaders => "large_headers",
        }
    }

    /// Whether only a new connection can help.
    #[must_use]
    pub fn needs_connection(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::LargeHeaders)
    }
}

/// Publishes on one connection. Clones share its channels.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Arc<Link>,
    wakes: Wakes,
    /// Bytes that properties may take in a header frame of this connection.
    fitting: usize,
    /// See [`Publisher::room`].
    room: usize,
    /// For messages that need not be routed.
    pipelined: RwLock<Option<Channel>>,
    /// Idle channels, for messages that must be routed.
    pool: Mutex<Vec<Channel>>,
    permits: Semaphore,
    /// Held while a channel is opened to pipeline on, so that one is opened, not one a message.
    opening: tokio::sync::Mutex<()>,
}

impl Publisher {
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn new(connection: Arc<Link>) -> Self {
        let frame_max = connection.configuration().frame_max();
        Self::with_small_frames(connection, frame_max)
    }

    /// One whose connection has smaller frames than RabbitMQ takes, which are `frame_max` bytes: what
    /// does not fit is refused with [`PublishError::LargeHeaders`].
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn with_small_frames(connection: Arc<Link>, frame_max: u32) -> Self {
        // Neither changes: they are agreed upon when a connection is opened.
        let own = connection.configuration().frame_max() as usize;
        Self(Arc::new(Inner {
            connection,
            wakes: Wakes::start(),
            fitting: own.saturating_sub(FRAME_OVERHEAD),
            room: (frame_max as usize).saturating_sub(FRAME_RESERVE),
            pipelined: RwLock::default(),
            pool: Mutex::default(),
            permits: Semaphore::new(POOL_SIZE),
            opening: tokio::sync::Mutex::default(),
        }))
    }

    /// Bytes that a message's properties may take, so that its header frame fits wherever it goes.
    #[must_use]
    pub fn room(&self) -> usize {
        self.0.room
    }

    /// Publishes a message and waits for its confirm. `Ok(false)`: confirmed, but no queue received
    /// it, which [`Routing::Optional`] alone allows.
    ///
    /// # Errors
    /// If the message was not published, or it is not known that it was.
    pub async fn publish(&self, message: &Outgoing<'_>, routing: Routing) -> Result<bool, PublishError> {
        if headers::encoded_len(&message.properties) > self.0.fitting {
            return Err(PublishError::LargeHeaders);
        }
        let confirmation = match routing {
            Routing::Optional => {
                let channel = self.0.pipelined().await?;
                let confirmation = self.0.confirmed(&channel, message, routing).await;
                if !confirmation.as_ref().is_ok_and(Confirmation::is_ack) {
                    self.0.retire(&channel);
                }
                confirmation?
            }
            Routing::Required | Routing::Unasked => {
                // The semaphore is never closed, and a failure to wait is no failure to publish.
                let _permit = self.0.permits.acquire().await.ok();
                let channel = self.0.idle().await?;
                let confirmation = self.0.confirmed(&channel, message, routing).await?;
                // With a publish still in flight on it, the next one's return could not be told; and
                // RabbitMQ 3.10 goes on refusing on a channel it once refused on, though there is
                // room again.
                if confirmation.is_ack() {
                    self.0.pool.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
                }
                confirmation
            }
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
    async fn confirmed(
        &self,
        channel: &Channel,
        message: &Outgoing<'_>,
        routing: Routing,
    ) -> Result<Confirmation, PublishError> {
        let publish = async {
            let options =
                BasicPublishOptions { mandatory: routing != Routing::Unasked, ..Default::default() };
            let (exchange, key) = (message.exchange.into(), message.routing_key.into());
            let properties = message.properties.clone();
            channel.basic_publish(exchange, key, options, message.body, properties).await?.await
        };
        tokio::pin!(publish);
        let publish = self.wakes.gather(publish);
        tokio::pin!(publish);
        loop {
            match tokio::time::timeout(CONFIRM_TIMEOUT, &mut publish).await {
                Ok(result) => return result.map_err(PublishError::from_lapin),
                // A broker short of memory or disk reads nothing; the message waits until it does.
                Err(_elapsed) if self.connection.status().blocked() => {}
                Err(_elapsed) => return Err(PublishError::Timeout),
            }
        }
    }

    async fn pipelined(&self) -> Result<Channel, PublishError> {
        if let Some(channel) = self.open_pipeline() {
            return Ok(channel);
        }
        let _opening = self.opening.lock().await;
        if let Some(channel) = self.open_pipeline() {
            return Ok(channel);
        }
        let channel = self.open().await?;
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

    async fn idle(&self) -> Result<Channel, PublishError> {
        loop {
            let idle = self.pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(channel) if channel.status().connected() => return Ok(channel),
                Some(_closed) => {}
                None => return self.open().await,
            }
        }
    }

    async fn open(&self) -> Result<Channel, PublishError> {
        let open = async {
            let channel = self.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        match tokio::time::timeout(CONFIRM_TIMEOUT, open).await {
            Ok(opened) => opened.map_err(PublishError::from_lapin),
            Err(_elapsed) => Err(PublishError::Timeout),
        }
    }
}
