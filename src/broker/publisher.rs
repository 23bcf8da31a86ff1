//! Publishes with publisher confirms: persistent, and mandatory if the caller asks for it.
//!
//! With several mandatory publishes in flight on one channel, a return is sometimes attached to the
//! wrong one; with one in flight, never. So a message that must reach a queue is published on
//! a channel of its own, from a pool per kind of message ([`Lane`]). All others share one channel,
//! which costs a third less.
//!
//! A publish waits for its confirm until its channel closes. Publishing an unconfirmed message again
//! makes a copy, because RabbitMQ still has the first (decision 33). So only a nack, a return or a
//! lost channel is an error, and then the caller publishes again.
//!
//! The worker's publisher (`Publisher::open`) reconnects itself. What was in flight on a lost
//! connection fails with [`PublishError::Lost`]; new publishes wait for the next connection.

mod connection;
mod error;
mod keeper;
mod outgoing;
mod pool;
mod refusals;
mod unconfirmed;

use std::sync::Arc;

use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, unbounded_channel},
        watch,
    },
    time::Instant,
};
use tokio_util::sync::DropGuard;

pub(crate) use self::keeper::PublishingEvent;
use self::{
    connection::{Lease, PublishConnection, Writing},
    keeper::{Keeper, ReplacedConnections},
    outgoing::Route,
    pool::ChannelPool,
    refusals::Attempt,
};
pub use self::{
    error::PublishError,
    outgoing::{Lane, Mandatory, Outgoing},
    unconfirmed::Unconfirmed,
};
use super::{Backoff, ConnectError, Connector, connection::Connection};
use crate::{message::headers, telemetry::LogThrottle};

/// Bytes reserved for the headers that RabbitMQ adds when it dead-letters, and for the rest of a frame.
const FRAME_RESERVE: usize = 4 * 1024;

/// Publishes. Clones share connection and channels.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: Arc<ChannelPool>,
    replaced: Arc<ReplacedConnections>,
    max_properties_len: usize,
    /// Ends the keeper when the last clone is dropped.
    _close_on_drop: DropGuard,
}

impl Publisher {
    /// Publishes on this connection; does not reconnect.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn new(connection: Arc<Connection>) -> Self {
        let frame_max = connection.configuration().frame_max();
        let pool = Arc::new(ChannelPool::new(false));
        pool.replace(Some(Arc::new(PublishConnection::new(connection, false, Arc::clone(&pool.refusals)))));
        Self::with_pool(pool, Arc::default(), frame_max)
    }

    /// Opens a connection to publish on, and reconnects when it is lost. `frame_max` is RabbitMQ's frame
    /// size in bytes. This connection has smaller frames until a message needs larger ones.
    ///
    /// # Errors
    /// If it cannot be opened now.
    pub(crate) async fn open(
        connector: &Connector,
        frame_max: u32,
    ) -> Result<(Self, UnboundedReceiver<PublishingEvent>), ConnectError> {
        let pool = Arc::new(ChannelPool::new(true));
        let connection = keeper::open(connector, &pool).await?;
        pool.replace(Some(Arc::clone(&connection)));
        let (events, received) = unbounded_channel();
        let keeper = Keeper {
            pool: Arc::clone(&pool),
            replaced: Arc::default(),
            connector: connector.clone(),
            events,
            blocked: false,
            backoff: Backoff::new(),
            replace_at: Instant::now(),
            throttle: LogThrottle::default(),
        };
        let publisher = Self::with_pool(pool, Arc::clone(&keeper.replaced), frame_max);
        tokio::spawn(keeper.run(connection));
        Ok((publisher, received))
    }

    fn with_pool(pool: Arc<ChannelPool>, replaced: Arc<ReplacedConnections>, frame_max: u32) -> Self {
        let closed = pool.closed.clone().drop_guard();
        let max_properties_len = (frame_max as usize).saturating_sub(FRAME_RESERVE);
        Self(Arc::new(Inner { pool, replaced, max_properties_len, _close_on_drop: closed }))
    }

    /// The largest properties of a message, in bytes, so that its header frame fits everywhere.
    pub fn max_properties_len(&self) -> usize {
        self.0.max_properties_len
    }

    /// Watches whether the connection is open.
    pub(crate) fn connected(&self) -> ConnectedWatch {
        ConnectedWatch(self.0.pool.subscribe())
    }

    /// Whether the message's exchange has just refused a message, so that its publish would wait for its turn
    /// to try the exchange again.
    pub(crate) fn is_refused(&self, message: &Outgoing<'_>) -> bool {
        self.0.pool.refusals.must_wait(message.exchange, message.routing_key)
    }

    /// Publishes a message and waits for its confirm. `Ok(false)`: it was confirmed, but no queue
    /// received it, which [`Mandatory::Reported`] and [`Mandatory::Off`] allow.
    ///
    /// Has no time limit; see [`send`](Self::send) and [`Unconfirmed`].
    ///
    /// # Errors
    /// If the message was not published, or it is unknown whether it was.
    pub async fn publish(&self, message: &Outgoing<'_>, mandatory: Mandatory) -> Result<bool, PublishError> {
        self.send(message, mandatory).await?.await
    }

    /// Publishes a message. Ends when its last byte is written to the socket. How long that takes
    /// depends on the message, the network, and RabbitMQ, which reads nothing while it is short of
    /// memory or disk. Heartbeats end a dead connection. Before writing, it may wait for a free channel
    /// of its lane, for the connection to reconnect, or for the one publish that tries an exchange
    /// which refuses. May be dropped at any time. Then it is unknown whether the message was published.
    ///
    /// # Errors
    /// If the message was not published, or it is unknown whether it was.
    pub async fn send(
        &self,
        message: &Outgoing<'_>,
        mandatory: Mandatory,
    ) -> Result<Unconfirmed, PublishError> {
        self.reserve(message, mandatory).await?.write(message.clone()).await
    }

    /// Waits until the message can be written: for the connection to reconnect, for a free channel, for
    /// the one publish that tries an exchange which refuses. Nothing is published if this is dropped.
    ///
    /// # Errors
    /// If the message was not published.
    pub(crate) async fn reserve(
        &self,
        message: &Outgoing<'_>,
        mandatory: Mandatory,
    ) -> Result<Reserved, PublishError> {
        let pool = &self.0.pool;
        let properties_len = headers::encoded_len(&message.properties);
        let attempt = pool.refusals.wait_for_turn(message.exchange, message.routing_key).await;
        let lane = match mandatory {
            Mandatory::Required(lane) => Some(lane),
            Mandatory::Off => Some(Lane::Outcomes),
            // If it is refused, RabbitMQ closes its channel and all publishes on it fail.
            Mandatory::Reported if attempt.is_some() => Some(Lane::Outcomes),
            Mandatory::Reported => None,
        };
        let lease = match lane {
            Some(lane) => Lease::Exclusive(pool.exclusive(properties_len, lane).await?),
            None => Lease::Shared(pool.shared(properties_len).await?),
        };
        Ok(Reserved { lease, attempt, mandatory })
    }

    /// Closes all its connections. What is in flight on them fails.
    pub(crate) async fn close(&self) {
        let pool = &self.0.pool;
        pool.closed.cancel();
        let mut open = self.0.replaced.take();
        open.extend(pool.current());
        pool.replace(None);
        join_all(open.iter().map(|connection| connection.amqp().close())).await;
    }
}

/// A channel for one publish.
#[derive(Debug)]
pub(crate) struct Reserved {
    lease: Lease,
    attempt: Option<Attempt>,
    mandatory: Mandatory,
}

impl Reserved {
    /// Writes the message to the socket. If this is dropped, it is unknown whether it was published.
    ///
    /// # Errors
    /// If the message was not published, or it is unknown whether it was.
    pub(crate) async fn write(self, message: Outgoing<'_>) -> Result<Unconfirmed, PublishError> {
        let Self { lease, attempt, mandatory } = self;
        let Outgoing { exchange, routing_key, properties, body } = message;
        let route = Route::new(exchange, routing_key);
        let waker = lease.connection().wake_coalescer.waker();
        let half_written = lease.connection().take_half_written();
        let writing = Writing::new(&lease);
        let options = BasicPublishOptions { mandatory: mandatory != Mandatory::Off, ..Default::default() };
        let (exchange, key) = (exchange.into(), routing_key.into());
        let publish = lease.channel().basic_publish(exchange, key, options, body, properties);
        let written = waker.poll_through(std::pin::pin!(publish)).await;
        writing.end();
        drop(half_written);
        match written {
            Ok(confirm) => Ok(Unconfirmed::new(confirm, waker, lease, route, mandatory, attempt)),
            Err(error) => Err(unconfirmed::failed(error, &lease, &route, attempt)),
        }
    }
}

/// Whether a publisher's connection is open.
#[derive(Debug)]
pub(crate) struct ConnectedWatch(watch::Receiver<Option<Arc<PublishConnection>>>);

impl ConnectedWatch {
    pub(crate) fn now(&mut self) -> bool {
        self.0.borrow_and_update().is_some()
    }

    /// Ends when this may have changed; never after the publisher is dropped.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
