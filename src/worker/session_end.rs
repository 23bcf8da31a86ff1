//! Why a session with RabbitMQ ended.

use super::handler::Unsettled;
use crate::broker::{ConsumeError, errors::is_unreadable};

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
        match self {
            Self::Connection(error) | Self::Consume(ConsumeError::Failed { source: error, .. }) => {
                is_unreadable(error)
            }
            _ => false,
        }
    }
}
