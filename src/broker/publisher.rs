//! Publishes: persistent, confirmed, and mandatory where somebody asks.
//!
//! With several mandatory publishes in flight on one channel, a return is sometimes attached to the
//! wrong one of them; with one in flight, never. So where a message must reach a queue, its publish
//! has a channel to itself, from a pool for each kind of message ([`Lane`]). All others share one
//! channel, which costs a third less.
//!
//! A confirm is waited for as long as its channel lives. To publish again beside an unconfirmed
//! message makes copies: RabbitMQ still has it. Only a nack, a return or a lost channel is an error,
//! and it is the caller that publishes again.
//!
//! The worker's publisher (`Publisher::open`) heals itself: it opens a lost connection anew. What
//! was in flight on it fails with [`PublishError::Lost`]; what is published meanwhile waits.

mod error;
mod keeper;
mod line;
mod lines;
mod outgoing;
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
pub use self::{
    error::PublishError,
    outgoing::{Lane, Mandatory, Outgoing},
    unconfirmed::Unconfirmed,
};
use self::{
    keeper::{Keeper, OldLines},
    line::{Lease, Line, Writing},
    lines::Lines,
    outgoing::Route,
};
use super::{Backoff, ConnectError, Connector, connection::Link};
use crate::message::headers;

/// Room for the headers that RabbitMQ adds when it dead-letters, and for a frame's other parts.
const FRAME_RESERVE: usize = 4 * 1024;

/// Publishes. Clones share connection and channels.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lines: Arc<Lines>,
    old: Arc<OldLines>,
    max_properties_len: usize,
    /// Ends the keeper when the last clone is gone.
    _over: DropGuard,
}

impl Publisher {
    /// Publishes on this connection, for as long as it lives.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn new(connection: Arc<Link>) -> Self {
        let frame_max = connection.configuration().frame_max();
        let lines = Arc::new(Lines::new(false));
        lines.replace(Some(Arc::new(Line::new(connection, false, Arc::clone(&lines.refusals)))));
        Self::with_lines(lines, Arc::default(), frame_max)
    }

    /// Opens a connection to publish on, and keeps it open. `frame_max`: how large RabbitMQ's frames
    /// are, in bytes; this connection's may be smaller until a message needs larger ones.
    ///
    /// # Errors
    /// If it cannot be opened now.
    pub(crate) async fn open(
        connector: &Connector,
        frame_max: u32,
    ) -> Result<(Self, UnboundedReceiver<PublishingEvent>), ConnectError> {
        let lines = Arc::new(Lines::new(true));
        let line = keeper::open(connector, &lines).await?;
        lines.replace(Some(Arc::clone(&line)));
        let (events, received) = unbounded_channel();
        let keeper = Keeper {
            lines: Arc::clone(&lines),
            old: Arc::default(),
            connector: connector.clone(),
            events,
            blocked: false,
            backoff: Backoff::new(),
            replace_at: Instant::now(),
        };
        let publisher = Self::with_lines(lines, Arc::clone(&keeper.old), frame_max);
        tokio::spawn(keeper.run(line));
        Ok((publisher, received))
    }

    fn with_lines(lines: Arc<Lines>, old: Arc<OldLines>, frame_max: u32) -> Self {
        let over = lines.over.clone().drop_guard();
        let max_properties_len = (frame_max as usize).saturating_sub(FRAME_RESERVE);
        Self(Arc::new(Inner { lines, old, max_properties_len, _over: over }))
    }

    /// Bytes that a message's properties may take, so that its header frame fits wherever it goes.
    #[must_use]
    pub fn max_properties_len(&self) -> usize {
        self.0.max_properties_len
    }

    /// Whether the connection is open, now and from now on.
    pub(crate) fn connected(&self) -> ConnectedWatch {
        ConnectedWatch(self.0.lines.subscribe())
    }

    /// Publishes a message and waits for its confirm. `Ok(false)`: confirmed, but no queue received
    /// it, which [`Mandatory::Reported`] and [`Mandatory::Off`] allow.
    ///
    /// Has no time limit; see [`send`](Self::send) and [`Unconfirmed`].
    ///
    /// # Errors
    /// If the message was not published, or it is not known that it was.
    pub async fn publish(&self, message: &Outgoing<'_>, mandatory: Mandatory) -> Result<bool, PublishError> {
        self.send(message, mandatory).await?.await
    }

    /// Publishes a message. Ends when its last byte is written to the socket: how long that takes
    /// depends on the message and the network, and on RabbitMQ, which reads nothing while it is
    /// short of memory or disk. Heartbeats end a connection that is dead. Before that it may wait
    /// for a free channel of its lane, for the connection to be opened anew, or for the one publish
    /// that tries an exchange that refuses. May be dropped at any time; then it is not known whether
    /// the message was published.
    ///
    /// # Errors
    /// If the message was not published, or it is not known that it was.
    pub async fn send(
        &self,
        message: &Outgoing<'_>,
        mandatory: Mandatory,
    ) -> Result<Unconfirmed, PublishError> {
        let lines = &self.0.lines;
        let properties_len = headers::encoded_len(&message.properties);
        let attempt = lines.refusals.turn(message.exchange, message.routing_key).await;
        let lane = match mandatory {
            Mandatory::Required(lane) => Some(lane),
            Mandatory::Off => Some(Lane::Outcomes),
            // One that is refused takes others on its channel along.
            Mandatory::Reported if attempt.is_some() => Some(Lane::Outcomes),
            Mandatory::Reported => None,
        };
        let lease = match lane {
            Some(lane) => Lease::Alone(lines.alone(properties_len, lane).await?),
            None => Lease::Shared(lines.shared(properties_len).await?),
        };
        let route = Route::new(message.exchange, message.routing_key);
        let relayed = lease.line().wakes.relay();
        let half_written = lease.line().take_half_written();
        let writing = Writing::new(&lease);
        let options = BasicPublishOptions { mandatory: mandatory != Mandatory::Off, ..Default::default() };
        let (exchange, key) = (message.exchange.into(), message.routing_key.into());
        let properties = message.properties.clone();
        let publish = lease.channel().basic_publish(exchange, key, options, message.body, properties);
        let written = relayed.gather(std::pin::pin!(publish)).await;
        writing.end();
        drop(half_written);
        match written {
            Ok(confirm) => Ok(Unconfirmed::new(confirm, relayed, lease, route, mandatory, attempt)),
            Err(error) => Err(unconfirmed::failed(error, &lease, &route, attempt)),
        }
    }

    /// Closes its connections. What is in flight on them fails.
    pub(crate) async fn close(&self) {
        let lines = &self.0.lines;
        lines.over.cancel();
        let mut open = self.0.old.take();
        open.extend(lines.current());
        lines.replace(None);
        join_all(open.iter().map(|line| line.link().close())).await;
    }
}

/// Whether a publisher's connection is open.
#[derive(Debug)]
pub(crate) struct ConnectedWatch(watch::Receiver<Option<Arc<Line>>>);

impl ConnectedWatch {
    pub(crate) fn now(&mut self) -> bool {
        self.0.borrow_and_update().is_some()
    }

    /// Ends when that may have changed; never once the publisher is gone.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
