//! What is wrong with a certificate, from TLS's alerts and from rustls's errors, which have only a text.

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

/// Why the server's certificate is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerFault {
    #[error("its issuer is not trusted")]
    UnknownIssuer,
    #[error("it has expired")]
    Expired,
    #[error("it is for another host name")]
    OtherName,
    #[error("it names no host: it has no subjectAltName, and a CN does not count")]
    NoName,
    #[error("it is not valid yet")]
    NotValidYet,
    #[error("it is an authority's own certificate, not a server's")]
    IsAuthority,
    #[error("it is not valid")]
    Invalid,
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

impl ServerFault {
    pub(super) fn new(text: &str) -> Self {
        let has = |part: &str| text.contains(part);
        match () {
            () if has("UnknownIssuer") => Self::UnknownIssuer,
            () if has("xpired") => Self::Expired,
            () if has("not valid for any names") => Self::NoName,
            () if has("not valid for name") || has("NotValidForName") => Self::OtherName,
            () if has("NotValidYet") || has("not valid yet") => Self::NotValidYet,
            () if has("CaUsedAsEndEntity") => Self::IsAuthority,
            () => Self::Invalid,
        }
    }
}
