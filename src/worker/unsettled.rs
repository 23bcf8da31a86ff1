//! Why a message was left in its queue.

/// Why a message was left in the queue.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsettled {
    #[error("an outcome cannot be encoded: {0}")]
    Encode(serde_json::Error),
    #[error("an outcome cannot be signed")]
    Unproven,
    #[error("the connection to RabbitMQ opens no more channels")]
    NoChannel,
    #[error("the session ended")]
    SessionEnded,
    #[error("the worker is stopping")]
    Stopping,
}
