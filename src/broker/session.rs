//! The two connections to RabbitMQ: one consumes, one publishes. RabbitMQ blocks connections that
//! publish while it is short of memory or disk; acknowledgements must not wait for that.
//!
//! The session ends with the connection that consumes. The publisher replaces its connection itself.

use futures_util::{StreamExt, stream::BoxStream};
use lapin::Event;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    connect_error::ConnectError,
    connection::Connection,
    connector::Connector,
    publisher::{ConnectedWatch, Publisher, PublishingEvent},
};

/// Both connections.
#[derive(Debug)]
pub struct Session {
    consuming: Connection,
    publisher: Publisher,
}

impl Session {
    /// Opens both connections. Also returns the events on them.
    ///
    /// # Errors
    /// If either cannot be opened.
    pub async fn open(connector: &Connector) -> Result<(Self, SessionEvents), ConnectError> {
        let (consuming, frame_max) = connector.connect_to_consume().await?;
        let (publisher, publishing) = match Publisher::open(connector, frame_max).await {
            Ok(opened) => opened,
            Err(error) => {
                consuming.close().await;
                return Err(error);
            }
        };
        let session = Self { consuming, publisher };
        let events = session.events(publishing);
        Ok((session, events))
    }

    /// The connection that consumes. It is never blocked, so it is also used to declare.
    pub fn consuming(&self) -> &lapin::Connection {
        &self.consuming
    }

    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Whether the connection that publishes is open.
    pub(crate) fn publishing(&self) -> ConnectedWatch {
        self.publisher.connected()
    }

    fn events(&self, publishing: UnboundedReceiver<PublishingEvent>) -> SessionEvents {
        let consuming = self.consuming.events_listener().filter_map(|event| {
            std::future::ready(match event {
                // It closes only a channel, and the user of the channel gets the error.
                Event::Error(error) if error.is_amqp_soft_error() => None,
                Event::Error(error) => Some(SessionEvent::Lost(error)),
                _ => None,
            })
        });
        let publishing = futures_util::stream::unfold(publishing, async |mut publishing| {
            let event = match publishing.recv().await? {
                PublishingEvent::Blocked(reason) => SessionEvent::Blocked(reason),
                PublishingEvent::Unblocked => SessionEvent::Unblocked,
            };
            Some((event, publishing))
        });
        futures_util::stream::select(consuming, publishing).boxed()
    }

    /// Closes both connections; does not wait long for the answers.
    pub async fn close(&self) {
        tokio::join!(self.consuming.close(), self.publisher.close());
    }
}

/// The events on a session's connections.
pub type SessionEvents = BoxStream<'static, SessionEvent>;

/// An event on one of the connections.
#[derive(Debug)]
pub enum SessionEvent {
    /// The connection that consumes is lost, and the session with it.
    Lost(lapin::Error),
    /// RabbitMQ is short of memory or disk, and accepts no messages for now.
    Blocked(String),
    Unblocked,
}
