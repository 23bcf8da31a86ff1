//! A connection to publish on, with the channels that are at hand; and one for headers that are
//! too large for its frames.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lapin::{
    Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    uri::AMQPUri,
};

use super::{Outgoing, PublishError, Routing};
use crate::broker::{
    ConnectError,
    connection::{Link, connect},
};

/// How long a confirm may take while the broker does not block the connection.
pub(super) const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// The frame size RabbitMQ offers unless told otherwise, in bytes.
const DEFAULT_FRAME_MAX: usize = 128 * 1024;
/// Bytes of a header frame that are not properties, and room for the headers that the broker adds
/// when it dead-letters: such a frame can't be split, and one too large ends the connection.
const FRAME_RESERVE: usize = 4 * 1024;

/// A connection, and what of it is at hand.
#[derive(Debug)]
pub(super) struct Line {
    link: Arc<Link>,
    /// Idle channels, for messages that must be routed.
    pool: Mutex<Vec<Channel>>,
}

/// How to connect for messages whose headers need larger frames.
#[derive(Debug)]
pub struct LargeFrames {
    urls: Vec<AMQPUri>,
    /// Bytes of a frame on such a connection; 0 is "no limit".
    frame_max: u32,
    line: tokio::sync::Mutex<Option<Arc<Line>>>,
}

impl LargeFrames {
    /// `frame_max` is what a connection to these addresses has come to.
    #[must_use]
    pub fn new(urls: Vec<AMQPUri>, frame_max: u32) -> Self {
        Self { urls, frame_max, line: tokio::sync::Mutex::default() }
    }

    /// The connection, opened if it is not open.
    pub(super) async fn line(&self) -> Result<Arc<Line>, ConnectError> {
        let mut line = self.line.lock().await;
        match &*line {
            Some(line) if line.link.status().connected() => Ok(Arc::clone(line)),
            _ => {
                let link = Arc::new(connect(&self.urls, "publishes large headers").await?);
                Ok(Arc::clone(line.insert(Arc::new(Line::new(link)))))
            }
        }
    }

    pub(super) fn room(&self) -> usize {
        room(self.frame_max)
    }

    /// Says goodbye, if it is open and nobody opens it.
    pub(super) async fn close(&self) {
        let line = self.line.try_lock().ok().and_then(|mut line| line.take());
        if let Some(line) = line {
            line.link.close().await;
        }
    }
}

impl Line {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, pool: Mutex::default() }
    }

    /// Bytes that a message's properties may take, so that its header frame fits.
    pub(super) fn room(&self) -> usize {
        room(self.link.configuration().frame_max())
    }

    /// Publishes and waits for the confirm.
    pub(super) async fn confirmed(
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
        loop {
            match tokio::time::timeout(CONFIRM_TIMEOUT, &mut publish).await {
                Ok(result) => return result.map_err(PublishError::from_lapin),
                // A broker short of memory or disk reads nothing; the message waits until it does.
                Err(_elapsed) if self.link.status().blocked() => {}
                Err(_elapsed) => return Err(PublishError::Timeout),
            }
        }
    }

    /// A channel with no publish in flight on it.
    pub(super) async fn idle(&self) -> Result<Channel, PublishError> {
        loop {
            let idle = self.pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(channel) if channel.status().connected() => return Ok(channel),
                Some(_closed) => {}
                None => return self.open().await,
            }
        }
    }

    pub(super) fn put_back(&self, idle: Channel) {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }

    /// Another channel.
    pub(super) async fn open(&self) -> Result<Channel, PublishError> {
        let open = async {
            let channel = self.link.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        match tokio::time::timeout(CONFIRM_TIMEOUT, open).await {
            Ok(opened) => opened.map_err(PublishError::from_lapin),
            Err(_elapsed) => Err(PublishError::Timeout),
        }
    }
}

/// Bytes that properties may take in a header frame.
fn room(frame_max: u32) -> usize {
    let frame_max = if frame_max == 0 { DEFAULT_FRAME_MAX } else { frame_max as usize };
    frame_max.saturating_sub(FRAME_RESERVE)
}
