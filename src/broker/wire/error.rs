use std::time::Duration;

/// The longest wait for RabbitMQ's answer on a connection whose heartbeats come.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What went wrong on a channel or a connection. A channel or connection that gave one is of no more
/// use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// As when the queue does not exist, or the user may not read it; RabbitMQ's words.
    #[error("RabbitMQ closed the channel: {text}")]
    ChannelClosed { code: u16, text: String },
    #[error("RabbitMQ closed the connection: {text}")]
    ConnectionClosed { code: u16, text: String },
    #[error("{0}")]
    Lost(String),
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error("RabbitMQ sent what AMQP 0-9-1 does not allow: {0}")]
    Protocol(&'static str),
}

impl WireError {
    /// RabbitMQ's words where it closed the channel alone, as [`super::super::topology::soft_error`]
    /// gives them of lapin's errors.
    #[must_use]
    pub fn channel_closed(&self) -> Option<(u16, &str)> {
        match self {
            Self::ChannelClosed { code, text } => Some((*code, text)),
            _ => None,
        }
    }
}

impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}
