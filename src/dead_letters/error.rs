//! Why something could not be done with the dead letters.

use super::{
    audit::AuditError,
    correction::Refused,
    lock::{LockError, LockedBy},
};
use crate::broker::{ConnectError, PublishError, errors::soft_error, wire::WireError};

/// AMQP's reply codes.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;

/// Why something could not be done with the dead letters.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("nothing was done, because the audit log cannot be written: {0}")]
    Audit(#[from] AuditError),
    #[error(
        "there is no plan {0}: it may be older than a day, or belong to another RabbitMQ or prefix; \
         plan again, without --confirm"
    )]
    NoPlan(String),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the dead letters cannot be written to a temporary file: {0}")]
    Spool(#[from] std::io::Error),
}

/// The dead letters cannot be reached, are locked, or a copy cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("{summary}: {0}", summary = .0.summary())]
    Connect(#[from] ConnectError),
    #[error("the browse was stopped")]
    Stopped,
    #[error("the dead letters are locked by {0}; try again when they have finished")]
    Locked(LockedBy),
    /// The text is RabbitMQ's.
    #[error(
        "RabbitMQ has {0}. `unlocker run` declares it: is it the right RabbitMQ, virtual host and \
         topology.prefix?"
    )]
    Missing(String),
    /// The text is RabbitMQ's.
    #[error(
        "RabbitMQ says: {0}. The rights of an operator are in docs/production.md, \"Rights in RabbitMQ\""
    )]
    NoRight(String),
    /// The text is RabbitMQ's.
    #[error("RabbitMQ says: {0}")]
    Refused(String),
    #[error("the connection to RabbitMQ failed: {0}")]
    Amqp(lapin::Error),
    #[error("the connection to RabbitMQ failed: {0}")]
    Wire(WireError),
    #[error("not published: {0}")]
    Publish(#[from] PublishError),
    #[error(
        "RabbitMQ has not confirmed the plan within 30 s, so nothing can be done: it may be short of memory or \
         disk; see its alarms, then plan again"
    )]
    Unconfirmed,
    #[error("the plan cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

impl AccessError {
    /// Of a channel that RabbitMQ closed.
    fn closed(code: u16, broker: &str) -> Self {
        // RabbitMQ writes the code's name before its words.
        let words = broker.split_once(" - ").map_or(broker, |(_name, words)| words).to_owned();
        match code {
            NOT_FOUND => Self::Missing(words),
            ACCESS_REFUSED => Self::NoRight(words),
            _ => Self::Refused(words),
        }
    }
}

impl From<lapin::Error> for AccessError {
    fn from(error: lapin::Error) -> Self {
        match soft_error(&error) {
            Some((code, broker)) => Self::closed(code.get_id(), &broker),
            None => Self::Amqp(error),
        }
    }
}

impl From<WireError> for AccessError {
    fn from(error: WireError) -> Self {
        match error.channel_closed() {
            Some((code, broker)) => Self::closed(code, broker),
            None => Self::Wire(error),
        }
    }
}

impl From<LockError> for AccessError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Taken(by) => Self::Locked(by),
            LockError::Failed(error) => error.into(),
        }
    }
}
