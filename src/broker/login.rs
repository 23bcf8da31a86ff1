//! How the program logs in to RabbitMQ, and what it needs for TLS, as the files of the settings are now.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use lapin::{
    tcp::{RustlsConnector, RustlsConnectorConfig},
    uri::{AMQPScheme, AMQPUri, SASLMechanism},
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    secret::Secret,
    settings::{Broker, CertificateInfo, TokenInfo, certificates, private_key},
};

/// How the program logs in at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// With this user, and the password in the URL.
    Password(String),
    /// With a token in the place of the password.
    Token(TokenInfo),
    /// By the client certificate alone. `None`: a proxy in between presents one.
    Certificate(Option<CertificateInfo>),
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password(user) => write!(f, "the password of user {user}"),
            Self::Token(token) => token.fmt(f),
            Self::Certificate(Some(certificate)) => certificate.fmt(f),
            Self::Certificate(None) => f.write_str("the client certificate of a proxy"),
        }
    }
}

/// What is wrong with the files, or with the system's authorities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    #[error("no authorities to trust: {0}. broker.ca_file can name some")]
    NoAuthorities(String),
    #[error("the file in broker.ca_file cannot be used: {0}")]
    Authorities(String),
    #[error(
        "the key in broker.client_key_file does not belong to the certificate in broker.client_certificate_file"
    )]
    KeyMismatch,
    #[error("the client certificate or its key cannot be used: {0}")]
    Identity(String),
    #[error("TLS cannot be used: {0}")]
    Tls(String),
}

/// The files of `[broker]` as they were when they were last read. `Debug` shows no content.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    token: Option<TokenInfo>,
    certificate: Option<CertificateInfo>,
    /// The client certificate and its key.
    identity: Option<[Arc<SecretString>; 2]>,
    authorities: Option<Arc<SecretString>>,
    ca_file: Option<PathBuf>,
}

impl Credentials {
    pub(super) fn of(broker: &Broker) -> Self {
        let files = broker.client_certificate_file.as_ref().zip(broker.client_key_file.as_ref());
        Self {
            token: broker.token_file.as_ref().map(TokenInfo::of),
            certificate: broker.client_certificate_file.as_ref().and_then(CertificateInfo::of),
            identity: files.map(|(certificate, key)| [certificate, key].map(Secret::current)),
            authorities: broker.ca_file.as_ref().map(Secret::current),
            ca_file: broker.ca_file.as_ref().and_then(Secret::path).map(Path::to_path_buf),
        }
    }

    /// How the program logs in at this address.
    pub(super) fn login(&self, url: &AMQPUri) -> Login {
        match (url.query.auth_mechanism, &self.token) {
            (Some(SASLMechanism::External), _) => Login::Certificate(self.client_certificate(url).cloned()),
            (_, Some(token)) => Login::Token(token.clone()),
            (_, None) => Login::Password(url.authority.userinfo.username.clone()),
        }
    }

    /// The client certificate that is presented at this address.
    pub(super) fn client_certificate(&self, url: &AMQPUri) -> Option<&CertificateInfo> {
        self.certificate.as_ref().filter(|_| url.scheme == AMQPScheme::AMQPS)
    }

    /// The file with the authorities to trust, in the place of the system's.
    pub(super) fn ca_file(&self) -> Option<&PathBuf> {
        self.ca_file.as_ref()
    }

    /// What TLS to this address needs; `None` without TLS.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub(super) fn tls(&self, url: &AMQPUri) -> Result<Option<RustlsConnector>, FilesError> {
        match url.scheme {
            AMQPScheme::AMQP => Ok(None),
            AMQPScheme::AMQPS => self.connector().map(Some),
        }
    }

    fn connector(&self) -> Result<RustlsConnector, FilesError> {
        let config = match &self.authorities {
            None => RustlsConnectorConfig::new_with_native_certs()
                .map_err(|error| FilesError::NoAuthorities(error.to_string()))?,
            Some(authorities) => {
                let authorities =
                    certificates(authorities.expose_secret()).map_err(FilesError::Authorities)?;
                RustlsConnectorConfig::default().with_parsable_certificates(authorities)
            }
        };
        let Some([certificate, key]) = &self.identity else {
            let connector = config.connector_with_no_client_auth();
            return connector.map_err(|error| FilesError::Tls(error.to_string()));
        };
        let chain = certificates(certificate.expose_secret()).map_err(FilesError::Identity)?;
        let key = private_key(key.expose_secret()).map_err(FilesError::Identity)?;
        config.connector_with_single_cert(chain, key).map_err(|error| match error.to_string() {
            text if text.contains("KeyMismatch") => FilesError::KeyMismatch,
            text => FilesError::Identity(text),
        })
    }
}
