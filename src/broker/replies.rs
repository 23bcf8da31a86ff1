//! Copies of outcomes for those who asked. Their addresses come from requests, and some crash the
//! broker's end of the connection that uses them (RabbitMQ 3.10 and 4.0, for an address of direct
//! reply-to that is none): so they have a connection of their own, whose loss costs a reply alone.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    Backoff, ConnectError, Connector, Lane, Mandatory, PublishError, Publisher, connection::Link,
    publisher::Outgoing,
};

/// How long a request may be held up by its reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// RabbitMQ's own reply queues, which only the one who asked can read.
const OWN_REPLY_QUEUES: [&str; 2] = [DIRECT_REPLY_TO, "amq.gen-"];
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to.";

/// How a copy gets to `queue`; none where none may be sent: it is neither RabbitMQ's own reply queue
/// nor begins with one of the prefixes.
#[must_use]
pub fn routing(queue: &str, prefixes: &[String]) -> Option<Mandatory> {
    let may = OWN_REPLY_QUEUES.into_iter().chain(prefixes.iter().map(String::as_str));
    may.into_iter().any(|prefix| queue.starts_with(prefix)).then(|| {
        match queue.starts_with(DIRECT_REPLY_TO) {
            true => Mandatory::Off,
            false => Mandatory::Required(Lane::Outcomes),
        }
    })
}

/// A reply was not delivered, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("{0}")]
    Connect(Arc<ConnectError>),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("not delivered within {} s", REPLY_TIMEOUT.as_secs())]
    Timeout,
}

/// Sends replies, on a connection that is opened for the first of them. When it is lost, those that
/// were in flight on it are tried once more, each alone on a second one: so the one that took it
/// down takes no other along.
#[derive(Debug)]
pub struct Replies {
    shared: Line,
    alone: Line,
    /// Held by the one reply in flight on `alone`.
    turn: Mutex<()>,
}

impl Replies {
    /// Connects when the first reply is sent, with the URLs and credentials as they are then.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Self { shared: Line::new(connector.clone()), alone: Line::new(connector), turn: Mutex::default() }
    }

    /// Sends a reply, within `REPLY_TIMEOUT`; at once in vain where RabbitMQ could not be reached
    /// a moment ago.
    ///
    /// # Errors
    /// If it was not delivered. Nothing is to be done about it: whoever asked may be gone.
    pub async fn send(&self, reply: &Outgoing<'_>, mandatory: Mandatory) -> Result<(), ReplyError> {
        let send = async {
            match self.shared.open().await?.publish(reply, mandatory).await {
                Err(PublishError::Lost(_)) => {}
                result => return Ok(result.map(|_routed| ())?),
            }
            let _turn = self.turn.lock().await;
            Ok(self.alone.open().await?.publish(reply, mandatory).await.map(|_routed| ())?)
        };
        match tokio::time::timeout(REPLY_TIMEOUT, send).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ReplyError::Timeout),
        }
    }

    /// Closes what is open.
    pub async fn close(&self) {
        tokio::join!(self.shared.close(), self.alone.close());
    }
}

/// One connection for replies. It is opened beside those who wait for it, so that none has to wait
/// longer than it may, and the next ones find it open.
#[derive(Debug)]
struct Line {
    connector: Connector,
    state: watch::Sender<State>,
    connecting: std::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Debug)]
enum State {
    NotYet,
    Connecting,
    Open {
        link: Arc<Link>,
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

impl Line {
    fn new(connector: Connector) -> Self {
        Self { connector, state: watch::Sender::new(State::NotYet), connecting: Default::default() }
    }

    /// Waits until the connection is open. The caller's time limit stands behind the wait.
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

    /// Starts to connect, unless the connection is open, being opened, or was tried a moment ago.
    fn connect_if_due(&self) {
        let mut backoff = Backoff::new();
        let due = self.state.send_if_modified(|state| {
            let due = match state {
                State::NotYet => true,
                State::Open { link, .. } => !link.status().connected(),
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
                Ok(link) => {
                    let link = Arc::new(link);
                    State::Open { publisher: Publisher::new(Arc::clone(&link)), link }
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
        if let State::Open { link, .. } = state {
            link.close().await;
        }
    }
}
