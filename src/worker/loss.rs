//! Why a session with RabbitMQ is over.

use super::Unsettled;
use crate::broker::{ConsumeError, errors::is_unreadable};

/// Why a session is over.
#[derive(Debug)]
pub(super) enum End {
    /// The worker was told to stop.
    Stopped,
    /// Something failed; a new session may do better.
    Lost(Loss),
}

/// What failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Loss {
    #[error("the connection to RabbitMQ failed: {0}")]
    Connection(#[from] lapin::Error),
    #[error(
        "RabbitMQ cancelled the consumer: its queue was deleted, or a delivery was held for longer than \
         consumer_timeout"
    )]
    Cancelled,
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    #[error("a request could not be settled: {0}")]
    Unsettled(#[from] Unsettled),
    #[error("a task panicked: {0}")]
    Panic(#[from] tokio::task::JoinError),
}

impl Loss {
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
