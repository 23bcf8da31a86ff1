//! What is wrong with the client certificate, from TLS's alerts.

use crate::settings::CertificateInfo;

/// Why RabbitMQ refuses the client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientFault {
    #[error("it has expired. Put a new one there, and its key beside it")]
    Expired,
    #[error("it is not valid yet, or a clock is wrong")]
    NotValidYet,
    /// It is valid by this machine's clock.
    #[error("it has expired or is not valid yet by RabbitMQ's clock: replace it, or the clocks differ")]
    ExpiredElsewhere,
    #[error("it does not trust the authority that issued it (ssl_options.cacertfile)")]
    UnknownAuthority,
    #[error("it is revoked")]
    Revoked,
    #[error(
        "it is no certificate for a client, or its issuer's certificate is missing: RabbitMQ's log says more"
    )]
    NotForClients,
}

impl ClientFault {
    /// TLS has one alert for a certificate that has expired and for one that is not valid yet.
    pub(super) fn out_of_time(certificate: &CertificateInfo) -> Self {
        match () {
            () if certificate.is_not_valid_yet() => Self::NotValidYet,
            () if certificate.has_expired() => Self::Expired,
            () => Self::ExpiredElsewhere,
        }
    }
}
