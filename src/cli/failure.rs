//! Why a command fails, and with which exit code.

use std::process::ExitCode;

use crate::{
    broker::ConnectError,
    dead_letters::{AccessError, Error},
    settings::Faults,
};

/// Why a command ends with an exit code other than 0.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Settings(#[from] Faults),
    #[error("RabbitMQ cannot be reached: {0}")]
    Unreachable(#[from] ConnectError),
    /// The command has printed the cause itself.
    #[error("")]
    Reported,
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Settings(_) => 78,
            Self::Unreachable(_) => 69,
            Self::Reported | Self::Failed(_) => 1,
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Access(AccessError::Connect(error)) => Self::Unreachable(error),
            error => Self::Failed(error.into()),
        }
    }
}
