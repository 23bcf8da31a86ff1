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
    #[error("{summary}: {0}", summary = .0.summary())]
    Connect(#[from] ConnectError),
    /// The command has printed the cause itself.
    #[error("")]
    Reported,
    #[error("{}", causes(.0))]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Settings(_) => 78,
            Self::Connect(error) if !error.is_refusal() => 69,
            Self::Connect(_) | Self::Reported | Self::Failed(_) => 1,
        })
    }
}

/// The error and its causes, without those that its text already contains.
fn causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text {
        _ if text.contains(&cause) => text,
        _ if text.is_empty() => cause,
        _ => format!("{text}: {cause}"),
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Access(AccessError::Connect(error)) => Self::Connect(error),
            error => Self::Failed(error.into()),
        }
    }
}
