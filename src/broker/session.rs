//! The two connections to RabbitMQ: one consumes, one publishes. The broker blocks a connection
//! that publishes while it is short of memory or disk; acknowledgements must not wait for that.
//!
//! The session lives as long as the connection that consumes. The publisher heals its own.

use futures_util::{StreamExt, stream::BoxStream};
use lapin::{Connection, Event};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    connection::{ConnectError, Link},
    connector::Connector,
    publisher::{ConnectedWatch, Publisher, PublishingEvent},
};

/// Both connections.
#[derive(Debug)]
pub struct Session {
    consuming: Link,
    publisher: Publisher,
}

impl Session {
    /// Opens both connections; also returns what happens to them from now on.
    ///
    /// # Errors
    /// If either cannot be opened.
    pub async fn open(connector: &Connector) -> Result<(Self, SessionEvents), ConnectError> {
        let consuming = connector.connect("consumes").await?;
        let frame_max = consuming.configuration().frame_max();
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

    /// The connection that consumes; also the one to declare on, as it is never blocked.
    #[must_use]
    pub fn consuming(&self) -> &Connection {
        &self.consuming
    }

    #[must_use]
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
                // One that closes a channel alone comes here, too; whoever uses the channel is told.
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

    /// Says goodbye; does not wait long for an answer.
    pub async fn close(&self) {
        tokio::join!(self.consuming.close(), self.publisher.close());
    }
}

/// What happens to a session's connections, as it happens.
pub type SessionEvents = BoxStream<'static, SessionEvent>;

/// Something happened to a connection.
#[derive(Debug)]
pub enum SessionEvent {
    /// The connection that consumes is lost, and the session with it.
    Lost(lapin::Error),
    /// The broker is short of memory or disk, and takes no messages for now.
    Blocked(String),
    Unblocked,
}
