//! Why a session with RabbitMQ ended.

use std::time::Duration;

use super::unsettled::Unsettled;
use crate::broker::{
    ConsumeError,
    errors::{is_large_frame, is_unreadable},
};

/// How long a stop, in addition to `worker.drain_timeout`, and the end of a session wait for the
/// messages that RabbitMQ gave up, or that cannot be read, and whose settling has begun.
pub(super) const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// The worker was asked to stop.
    Stopped,
    /// Something failed; a new session may succeed.
    Failed(SessionError),
}

/// What failed in a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("the connection to RabbitMQ failed: {0}")]
    Connection(#[from] lapin::Error),
    #[error(
        "RabbitMQ cancelled the consumer: its queue was deleted, or a delivery stayed unacknowledged for longer \
         than consumer_timeout"
    )]
    Cancelled,
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    #[error("a request could not be settled: {0}")]
    Unsettled(#[from] Unsettled),
    #[error("a task panicked: {0}")]
    Panic(#[from] tokio::task::JoinError),
}

impl SessionError {
    /// Whether a message that cannot be read ended the session.
    pub(super) fn is_unreadable(&self) -> bool {
        self.lapin().is_some_and(is_unreadable)
    }

    /// Whether a message with headers that are larger than a frame ended the session.
    pub(super) fn is_large_frame(&self) -> bool {
        self.lapin().is_some_and(is_large_frame)
    }

    fn lapin(&self) -> Option<&lapin::Error> {
        match self {
            Self::Connection(error) | Self::Consume(ConsumeError::Failed { source: error, .. }) => {
                Some(error)
            }
            _ => None,
        }
    }
}
