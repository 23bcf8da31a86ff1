//! Copies of outcomes for requests with a `reply_to`. Senders choose these addresses. RabbitMQ 3.10
//! and 4.0 close a connection that publishes to an invalid direct reply-to address. So replies have
//! their own connection, and only replies are lost with it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    Backoff, ConnectError, Connector, Lane, Mandatory, PublishError, Publisher, connection::Connection,
    publisher::Outgoing,
};

/// How long a request may wait for its reply to be sent.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// Prefixes of exclusive reply queues, which only the sender of the request can read: named by
/// RabbitMQ, or by aio-pika.
const OWN_REPLY_QUEUES: [&str; 3] = [DIRECT_REPLY_PREFIX, "amq.gen-", "amq_"];
const DIRECT_REPLY_PREFIX: &str = "amq.rabbitmq.reply-to.";
/// RabbitMQ's pseudo-queue for replies (RabbitMQ docs, "Direct Reply-to").
pub const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// How a copy is published to `queue`. `None` if no copy may be sent there: the name begins neither as
/// an exclusive reply queue nor with one of the prefixes.
pub fn routing(queue: &str, prefixes: &[String]) -> Option<Mandatory> {
    let mut allowed = OWN_REPLY_QUEUES.into_iter().chain(prefixes.iter().map(String::as_str));
    allowed.any(|prefix| queue.starts_with(prefix)).then(|| match queue.starts_with(DIRECT_REPLY_PREFIX) {
        true => Mandatory::Off,
        false => Mandatory::Required(Lane::Outcomes),
    })
}

/// A reply was probably not delivered.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("{0}")]
    Connect(Arc<ConnectError>),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("not delivered within {} s", REPLY_TIMEOUT.as_secs())]
    Timeout,
}

/// Publishes replies on a connection that is opened for the first reply. When it is lost, all replies
/// in flight are tried once more, one at a time on a second connection, so that the reply that caused
/// the loss fails alone.
#[derive(Debug)]
pub struct ReplyPublisher {
    shared: ReplyConnection,
    one_at_a_time: ReplyConnection,
    /// Locked by the one reply in flight on `one_at_a_time`.
    turn: Mutex<()>,
}

impl ReplyPublisher {
    /// Does not connect yet: the first reply does, with the URLs and credentials of that time.
    pub fn new(connector: Connector) -> Self {
        Self {
            shared: ReplyConnection::new(connector.clone()),
            one_at_a_time: ReplyConnection::new(connector),
            turn: Mutex::default(),
        }
    }

    /// Sends a reply within `REPLY_TIMEOUT`. Fails at once if RabbitMQ could not be reached a moment
    /// ago.
    ///
    /// # Errors
    /// If it was not delivered. The caller need not act on it: the sender may be gone.
    pub async fn send(&self, reply: &Outgoing<'_>, mandatory: Mandatory) -> Result<(), ReplyError> {
        let send = async {
            match self.shared.open().await?.publish(reply, mandatory).await {
                Err(PublishError::Lost(_)) => {}
                result => return Ok(result.map(|_routed| ())?),
            }
            let _turn = self.turn.lock().await;
            Ok(self.one_at_a_time.open().await?.publish(reply, mandatory).await.map(|_routed| ())?)
        };
        match tokio::time::timeout(REPLY_TIMEOUT, send).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ReplyError::Timeout),
        }
    }

    /// Closes what is open.
    pub async fn close(&self) {
        tokio::join!(self.shared.close(), self.one_at_a_time.close());
    }
}

/// One connection for replies. A task of its own opens it, so that a reply that gives up waiting does
/// not stop the connecting.
#[derive(Debug)]
struct ReplyConnection {
    connector: Connector,
    state: watch::Sender<State>,
    connecting: std::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Debug)]
enum State {
    NotYet,
    Connecting,
    Open {
        connection: Arc<Connection>,
        publisher: Publisher,
    },
    /// Not tried again before `next`.
    Failed {
        error: Arc<ConnectError>,
        next: Instant,
        backoff: Backoff,
    },
    Closed,
}

impl ReplyConnection {
    fn new(connector: Connector) -> Self {
        Self { connector, state: watch::Sender::new(State::NotYet), connecting: Default::default() }
    }

    /// Waits until the connection is open. The caller limits the time.
    async fn open(&self) -> Result<Publisher, ReplyError> {
        let mut changes = self.state.subscribe();
        self.connect_if_due();
        loop {
            match &*changes.borrow_and_update() {
                State::Open { publisher, .. } => return Ok(publisher.clone()),
                State::Failed { error, .. } => return Err(ReplyError::Connect(Arc::clone(error))),
                State::Closed => return Err(PublishError::Closed.into()),
                State::NotYet | State::Connecting => {}
            }
            // The sender lives in `self`.
            changes.changed().await.ok();
        }
    }

    /// Starts to connect, unless the connection is open, is being opened, or failed a moment ago.
    fn connect_if_due(&self) {
        let mut backoff = Backoff::new();
        let due = self.state.send_if_modified(|state| {
            let due = match state {
                State::NotYet => true,
                State::Open { connection, .. } => !connection.status().connected(),
                State::Failed { next, backoff: used, .. } => {
                    backoff = *used;
                    Instant::now() >= *next
                }
                State::Connecting | State::Closed => false,
            };
            if due {
                *state = State::Connecting;
            }
            due
        });
        if !due {
            return;
        }
        let (connector, state) = (self.connector.clone(), self.state.clone());
        let task = tokio::spawn(async move {
            let opened = match connector.connect_with_small_frames("replies").await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    State::Open { publisher: Publisher::new(Arc::clone(&connection)), connection }
                }
                Err(error) => {
                    let next = Instant::now() + backoff.next(fastrand::f64());
                    State::Failed { error: Arc::new(error), next, backoff }
                }
            };
            state.send_if_modified(|state| {
                let wanted = matches!(state, State::Connecting);
                if wanted {
                    *state = opened;
                }
                wanted
            });
        });
        *self.connecting.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(task);
    }

    async fn close(&self) {
        let state = self.state.send_replace(State::Closed);
        let task = self.connecting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
        }
        if let State::Open { connection, .. } = state {
            connection.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_reply_queues_and_the_allowed_prefixes_get_replies() {
        let prefixes = ["replies.".to_owned()];
        let routed = Some(Mandatory::Required(Lane::Outcomes));
        for (queue, expected) in [
            ("amq.rabbitmq.reply-to.g1h2", Some(Mandatory::Off)),
            ("amq.gen-x", routed),
            ("amq_5b1c9d1e6f0a4c7e8d2b3a4f5c6d7e8f", routed),
            ("replies.shop", routed),
            ("amq.topic", None),
            ("amqp_x", None),
            ("trackfinity.unlock.requests", None),
            ("", None),
        ] {
            assert_eq!(routing(queue, &prefixes), expected, "{queue}");
        }
    }
}
