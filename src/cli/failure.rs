//! Why a command fails, and with which exit code.

use std::process::ExitCode;

use crate::{
    broker::ConnectError,
    dead_letters::{AccessError, Error},
    gateway::{ClientsError, GatewayError},
    settings::Faults,
};

/// The exit code for settings that are invalid.
pub(super) const SETTINGS_INVALID: u8 = 78;
/// The exit code if RabbitMQ cannot be reached.
pub(super) const UNREACHABLE: u8 = 69;

/// Why a command ends with an exit code other than 0.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Settings(#[from] Faults),
    /// The files of the gateway's clients.
    #[error("{0}")]
    Clients(#[from] ClientsError),
    #[error("{summary}: {0}", summary = .0.summary())]
    Connect(#[from] ConnectError),
    /// The command has printed the cause itself.
    #[error("")]
    Reported,
    /// As `Reported`, with an exit code of its own.
    #[error("")]
    ReportedAs(u8),
    #[error("{}", causes(.0))]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Settings(_) | Self::Clients(_) => SETTINGS_INVALID,
            Self::Connect(error) if error.is_unreachable() => UNREACHABLE,
            Self::ReportedAs(code) => *code,
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

impl From<GatewayError> for Failure {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::Clients(error) => Self::Clients(error),
            error => Self::Failed(error.into()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Access(AccessError::Connect(error)) => Self::Connect(error),
            error => Self::Failed(error.into()),
        }
    }
}
