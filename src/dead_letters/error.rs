//! Why something could not be done with the dead letters.

use super::{
    audit::AuditError,
    lock::{LockError, LockedBy},
};
use crate::{
    broker::{ConnectError, PublishError, errors::soft_error, wire::WireError},
    settings::BrokerUrlsError,
};

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
    #[error("the dead letters cannot be written to a temporary file: {0}")]
    Spool(#[from] std::io::Error),
}

/// The dead letters cannot be reached, are locked, or a copy cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("{0}")]
    Urls(#[from] BrokerUrlsError),
    #[error("RabbitMQ cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error("the browse was stopped")]
    Stopped,
    #[error("the dead letters are locked by {0}; try again when they have finished")]
    Locked(LockedBy),
    #[error("RabbitMQ says: {0}. The user needs configure, write and read on the prefix's names")]
    Refused(String),
    #[error("the connection to RabbitMQ failed: {0}")]
    Amqp(lapin::Error),
    #[error("the connection to RabbitMQ failed: {0}")]
    Wire(WireError),
    #[error("not published: {0}")]
    Publish(#[from] PublishError),
    #[error("the plan cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

impl From<lapin::Error> for AccessError {
    fn from(error: lapin::Error) -> Self {
        match soft_error(&error) {
            Some((_, broker)) => Self::Refused(broker),
            None => Self::Amqp(error),
        }
    }
}

impl From<WireError> for AccessError {
    fn from(error: WireError) -> Self {
        match error.channel_closed() {
            Some((_, broker)) => Self::Refused(broker.to_owned()),
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
