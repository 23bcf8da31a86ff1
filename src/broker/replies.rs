//! Copies of outcomes for those who asked. Their addresses come from requests, and some crash the
//! broker's end of the connection that uses them (RabbitMQ 3.10 and 4.0, for an address of direct
//! reply-to that is none): so they have a connection of their own, whose loss costs a reply alone.

use std::{sync::Arc, time::Duration};

use lapin::uri::AMQPUri;
use tokio::sync::Mutex;

use super::{
    ConnectError, PublishError, Publisher, Routing,
    connection::{Link, connect, with_small_frames},
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
pub fn routing(queue: &str, prefixes: &[String]) -> Option<Routing> {
    let may = OWN_REPLY_QUEUES.into_iter().chain(prefixes.iter().map(String::as_str));
    may.into_iter().any(|prefix| queue.starts_with(prefix)).then(|| {
        match queue.starts_with(DIRECT_REPLY_TO) {
            true => Routing::Unasked,
            false => Routing::Required,
        }
    })
}

/// A reply was not delivered, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
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
    urls: Vec<AMQPUri>,
    shared: Mutex<Option<Line>>,
    /// Held by the one reply in flight on it.
    alone: Mutex<Option<Line>>,
}

#[derive(Clone, Debug)]
struct Line {
    link: Arc<Link>,
    publisher: Publisher,
}

impl Replies {
    #[must_use]
    pub fn new(urls: &[AMQPUri]) -> Self {
        Self { urls: with_small_frames(urls), shared: Mutex::default(), alone: Mutex::default() }
    }

    /// Sends a reply.
    ///
    /// # Errors
    /// If it was not delivered. Nothing is to be done about it: whoever asked may be gone.
    pub async fn send(&self, reply: &Outgoing<'_>, routing: Routing) -> Result<(), ReplyError> {
        let send = async {
            let shared = self.open(&mut *self.shared.lock().await).await?;
            match shared.publisher.publish(reply, routing).await {
                Err(error) if error.needs_connection() => {}
                result => return Ok(result.map(|_routed| ())?),
            }
            let mut alone = self.alone.lock().await;
            let line = self.open(&mut alone).await?;
            Ok(line.publisher.publish(reply, routing).await.map(|_routed| ())?)
        };
        match tokio::time::timeout(REPLY_TIMEOUT, send).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ReplyError::Timeout),
        }
    }

    /// Closes what is open.
    pub async fn close(&self) {
        let close = async |line: &Mutex<Option<Line>>| {
            // One that is held is in use by a reply, which is not waited for.
            let line = line.try_lock().ok().and_then(|mut line| line.take());
            if let Some(line) = line {
                line.link.close().await;
            }
        };
        tokio::join!(close(&self.shared), close(&self.alone));
    }

    async fn open(&self, line: &mut Option<Line>) -> Result<Line, ConnectError> {
        match line {
            Some(line) if line.link.status().connected() => Ok(line.clone()),
            _ => {
                let link = Arc::new(connect(&self.urls, "replies").await?);
                let opened = Line { publisher: Publisher::new(Arc::clone(&link)), link };
                Ok(line.insert(opened).clone())
            }
        }
    }
}
