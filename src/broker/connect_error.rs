//! Why a connection to RabbitMQ could not be opened, and what to do about it.

mod cause;
mod client_fault;
mod raw;
mod remedy;

use std::time::Duration;

pub(super) use self::raw::RawError;
pub use self::{cause::ConnectCause, client_fault::ClientFault};
use crate::settings::BrokerUrlsError;

/// No address of `broker.url` gave a connection; the error is the last address's. Never shows a
/// password.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{address}: {cause}")]
    Failed { address: String, cause: ConnectCause },
    #[error(
        "{address}: no answer within {:.1} s: are host and port right (usually 5672, with TLS 5671), and does a \
         firewall let it through?",
        limit.as_secs_f64()
    )]
    Timeout { address: String, limit: Duration },
    #[error("broker.url names no address")]
    NoAddress,
    #[error("broker.url: {0}")]
    Urls(#[from] BrokerUrlsError),
}

impl ConnectError {
    /// Whether RabbitMQ was reached, and refused the user or the virtual host: to try again does not
    /// help.
    pub fn is_refusal(&self) -> bool {
        use ConnectCause as Cause;
        let Self::Failed { cause, .. } = self else { return false };
        let is_login = matches!(
            cause,
            Cause::Login(_)
                | Cause::LoginWithoutExternal(_)
                | Cause::Token { .. }
                | Cause::TokenTooLarge { .. }
        );
        let is_certificate = matches!(
            cause,
            Cause::NoUserForCertificate { .. } | Cause::NoClientCertificate | Cause::ClientCertificate { .. }
        );
        let is_vhost =
            matches!(cause, Cause::NoVhost(_) | Cause::NoAccess { .. } | Cause::NoAccessByToken { .. });
        is_login || is_certificate || is_vhost
    }

    /// Whether to try again may help: not if RabbitMQ refuses the connection, nor if this program does, because of its
    /// files or of the server's certificate.
    pub fn is_unreachable(&self) -> bool {
        use ConnectCause as Cause;
        let is_ours = matches!(self, Self::Failed { cause: Cause::Files(_) | Cause::Certificate { .. }, .. });
        !is_ours && !self.is_refusal()
    }

    /// What happened, in a few words before the error itself.
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Failed { cause: ConnectCause::Files(_), .. } => {
                "the files for the connection to RabbitMQ cannot be used"
            }
            Self::Failed { cause: ConnectCause::Certificate { .. }, .. } => "RabbitMQ is not trusted",
            error if error.is_refusal() => "RabbitMQ refuses the connection",
            _ => "RabbitMQ cannot be reached",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{broker::login::FilesError, policy::CertificateFault};

    #[test]
    fn a_refusal_is_not_an_unreachable_broker() {
        let failed = |cause| ConnectError::Failed { address: "amqp://h".to_owned(), cause };
        assert!(failed(ConnectCause::Login("u".to_owned())).is_refusal());
        for cause in [ConnectCause::NoListener, ConnectCause::NotTls, ConnectCause::Closed(String::new())] {
            assert!(!failed(cause.clone()).is_refusal(), "{cause}");
            assert!(failed(cause.clone()).is_unreachable(), "{cause}");
        }
    }

    #[test]
    fn a_file_s_fault_and_a_server_that_is_not_trusted_are_neither_a_refusal_nor_unreachable() {
        let fault = CertificateFault::Expired;
        for cause in
            [ConnectCause::Files(FilesError::KeyMismatch), ConnectCause::Certificate { fault, ca_file: None }]
        {
            let error = ConnectError::Failed { address: "amqps://h".to_owned(), cause };
            assert!(!error.is_refusal() && !error.is_unreachable(), "{error}");
            assert!(!error.summary().contains("reached"), "{error}");
        }
    }
}
