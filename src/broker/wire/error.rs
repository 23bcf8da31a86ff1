use std::time::Duration;

/// How long RabbitMQ may take to answer while its heartbeats arrive.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// An error of a channel or a connection, which cannot be used any more after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// For example because the queue does not exist, or the user may not read it. The text is RabbitMQ's.
    #[error("RabbitMQ closed the channel: {text}")]
    ChannelClosed { code: u16, text: String },
    #[error("RabbitMQ closed the connection: {text}")]
    ConnectionClosed { code: u16, text: String },
    #[error("{0}")]
    Lost(String),
    #[error("{text}")]
    Io { kind: std::io::ErrorKind, text: String },
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error("RabbitMQ sent what AMQP 0-9-1 does not allow: {0}")]
    Protocol(&'static str),
}

impl WireError {
    /// Code and text if RabbitMQ closed only the channel, as [`crate::broker::errors::soft_error`] for
    /// lapin's errors.
    pub fn channel_closed(&self) -> Option<(u16, &str)> {
        match self {
            Self::ChannelClosed { code, text } => Some((*code, text)),
            _ => None,
        }
    }
}

impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> Self {
        Self::Io { kind: error.kind(), text: error.to_string() }
    }
}
