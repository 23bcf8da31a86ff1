//! Why a message was not published.

use std::time::Duration;

use lapin::{ErrorKind, protocol::AMQPSoftError};

use crate::broker::errors::soft_error;

/// How long RabbitMQ may take to open a channel, while it does not block the connection.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A message was not published, or it is unknown whether it was.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("no queue receives from exchange {exchange:?} with routing key {routing_key:?}")]
    Unroutable { exchange: String, routing_key: String },
    #[error("a queue behind exchange {exchange:?} refused the message: it is full, or has lost its quorum")]
    Refused { exchange: String },
    /// The exchange is missing, or the user may not write to it.
    #[error("RabbitMQ refuses the exchange: {0}")]
    ExchangeRefused(String),
    #[error("RabbitMQ closed the channel: {0}")]
    ChannelClosed(String),
    #[error("RabbitMQ opened no channel within {} s", OPEN_TIMEOUT.as_secs())]
    Timeout,
    #[error("the connection is lost: {0}")]
    Lost(lapin::Error),
    #[error("its headers need larger frames than RabbitMQ allows")]
    LargeHeaders,
    #[error("the publisher is closed")]
    Closed,
}

impl PublishError {
    /// `connected`: whether the connection is still open. Then only a channel was closed.
    pub(super) fn from_lapin(error: lapin::Error, connected: bool) -> Self {
        match soft_error(&error) {
            Some((AMQPSoftError::ACCESSREFUSED | AMQPSoftError::NOTFOUND, broker)) => {
                return Self::ExchangeRefused(broker);
            }
            Some((_, broker)) => return Self::ChannelClosed(broker),
            None => {}
        }
        match error.kind() {
            ErrorKind::InvalidChannel(_)
            | ErrorKind::InvalidChannelState(..)
            | ErrorKind::ChannelsLimitReached
            | ErrorKind::FutureCompleted
                if connected =>
            {
                Self::ChannelClosed(error.to_string())
            }
            _ => Self::Lost(error),
        }
    }

    /// The error as a low-cardinality code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unroutable { .. } => "unroutable",
            Self::Refused { .. } => "refused",
            Self::ExchangeRefused(_) | Self::ChannelClosed(_) => "channel_closed",
            Self::Timeout => "timeout",
            Self::Lost(_) => "connection_lost",
            Self::LargeHeaders => "large_headers",
            Self::Closed => "closed",
        }
    }
}

/// Whether RabbitMQ closed the channel because the exchange is missing or the user may not write to
/// it. The next publish to it would be refused, too.
pub(super) fn is_exchange_refused(error: &lapin::Error) -> bool {
    matches!(soft_error(error), Some((AMQPSoftError::ACCESSREFUSED | AMQPSoftError::NOTFOUND, _)))
}

#[cfg(test)]
mod tests {
    use lapin::ChannelState;

    use super::*;

    #[test]
    fn a_closed_channel_is_not_a_lost_connection() {
        let closing = || lapin::Error::from(ErrorKind::InvalidChannelState(ChannelState::Closing, "test"));
        assert!(matches!(PublishError::from_lapin(closing(), true), PublishError::ChannelClosed(_)));
        assert!(matches!(PublishError::from_lapin(closing(), false), PublishError::Lost(_)));
        let limit = lapin::Error::from(ErrorKind::ChannelsLimitReached);
        assert!(matches!(PublishError::from_lapin(limit, true), PublishError::ChannelClosed(_)));
    }
}
