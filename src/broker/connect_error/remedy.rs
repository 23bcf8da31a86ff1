//! Which setting or file to change.

use std::path::Path;

use super::{cause::ConnectCause, client_fault::ClientFault};
use crate::{broker::login::FilesError, policy::CertificateFault};

const CERTIFICATE: &str = "broker.client_certificate_file";

impl ConnectCause {
    /// What to do about it: a sentence for people.
    pub fn remedy(&self) -> String {
        match self {
            Self::Login(_) => "correct user or password in broker.url".to_owned(),
            Self::LoginWithoutExternal(_) => {
                "add ?auth_mechanism=external to broker.url, or user and password".to_owned()
            }
            Self::NoVhost(_) => "correct the virtual host in broker.url, or create it".to_owned(),
            Self::NoAccess { .. } => "grant the user its permissions in the virtual host".to_owned(),
            Self::NoAccessByToken { .. } => "have a token issued with scopes for the virtual host".to_owned(),
            Self::Token { token } => {
                let file = named("broker.token_file", &token.file);
                match token.has_expired() {
                    true => format!("put a new token into {file}: see who issues it"),
                    false => format!(
                        "put a token that RabbitMQ accepts into {file}, or correct auth_oauth2 in rabbitmq.conf: \
                         RabbitMQ's log says why it refuses this one"
                    ),
                }
            }
            Self::TokenTooLarge { token } => format!(
                "raise initial_frame_max in rabbitmq.conf, or put a smaller token into {}",
                named("broker.token_file", &token.file)
            ),
            Self::EndedWithToken { token } => format!(
                "start RabbitMQ, or see its log; if this goes on, raise initial_frame_max in rabbitmq.conf, or put a \
                 smaller token into {}",
                named("broker.token_file", &token.file)
            ),
            Self::NoUserForCertificate { .. } => format!(
                "create the user by `rabbitmqctl add_user`, correct ssl_cert_login_from in rabbitmq.conf, or put the \
                 certificate of another user into {CERTIFICATE}"
            ),
            Self::NoClientCertificate => format!("set {CERTIFICATE} and broker.client_key_file"),
            Self::ClientCertificate { certificate, wrong } => {
                let file = named(CERTIFICATE, &certificate.file);
                match wrong {
                    ClientFault::NotValidYet => {
                        format!("correct the clock that is wrong, or put a certificate into {file} that is valid now")
                    }
                    ClientFault::Expired | ClientFault::ExpiredElsewhere | ClientFault::Revoked => {
                        format!("put a new certificate into {file}, and its key into broker.client_key_file")
                    }
                    ClientFault::UnknownAuthority => format!(
                        "add its authority to RabbitMQ's ssl_options.cacertfile, or put a certificate of an authority \
                         that is there into {file}"
                    ),
                    ClientFault::NotForClients => format!(
                        "put a certificate for clients into {file}, followed by its issuers' certificates up to the one \
                         that RabbitMQ trusts"
                    ),
                }
            }
            Self::CertificateLoginEnded { .. } => {
                format!("see RabbitMQ's log; replace the file in {CERTIFICATE}, or correct rabbitmq.conf")
            }
            Self::TlsEnded => {
                format!("see RabbitMQ's log; if it requires a certificate, set {CERTIFICATE} and its key")
            }
            Self::TlsEndedWith { certificate } => format!(
                "see RabbitMQ's log; if it refuses the certificate, replace {}",
                named(CERTIFICATE, &certificate.file)
            ),
            Self::Files(FilesError::NoAuthorities(_)) => {
                "install the system's authorities, or set broker.ca_file".to_owned()
            }
            Self::Files(FilesError::Authorities(_)) => {
                "replace the content of the file in broker.ca_file".to_owned()
            }
            Self::Files(FilesError::KeyMismatch) => {
                format!("put a certificate into {CERTIFICATE}, and its own key into broker.client_key_file")
            }
            Self::Files(FilesError::Identity(_)) => {
                format!("replace the content of the files in {CERTIFICATE} and broker.client_key_file")
            }
            Self::Files(FilesError::Tls(_)) => "start the program again; report it if it stays".to_owned(),
            Self::Certificate { fault, ca_file } => match (fault, ca_file) {
                (CertificateFault::UnknownIssuer, Some(file)) => format!(
                    "put the authority of RabbitMQ's certificate into {}",
                    named("broker.ca_file", file)
                ),
                (CertificateFault::UnknownIssuer, None) => {
                    "set broker.ca_file to a file with the authority of RabbitMQ's certificate".to_owned()
                }
                (CertificateFault::OtherName, _) => {
                    "write a host name in broker.url that the certificate has, or give RabbitMQ a certificate for this \
                     one (ssl_options.certfile)"
                        .to_owned()
                }
                (CertificateFault::NotValidYet, _) => {
                    "correct this machine's clock, or give RabbitMQ another certificate (ssl_options.certfile)"
                        .to_owned()
                }
                _ => "give RabbitMQ another certificate (ssl_options.certfile in rabbitmq.conf)".to_owned(),
            },
            Self::NotTls | Self::NotAmqp | Self::NoListener | Self::UnknownHost => {
                "correct scheme, host or port in broker.url, or start RabbitMQ".to_owned()
            }
            Self::Closed(_) | Self::Other(_) => "correct broker.url, or see RabbitMQ's log".to_owned(),
        }
    }
}

/// The file and the setting that names it.
fn named(key: &str, file: &Path) -> String {
    format!("{} ({key})", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message::Timestamp,
        settings::{CertificateInfo, TokenInfo},
    };

    #[test]
    fn each_fault_of_identity_names_the_setting_or_the_file_to_change() {
        let certificate = CertificateInfo {
            file: "/run/tls.crt".into(),
            subject: "CN=u".to_owned(),
            valid_from: Timestamp::from_millis(0),
            expires_at: Timestamp::from_millis(0),
        };
        let refused =
            |wrong| ConnectCause::ClientCertificate { certificate: certificate.clone(), wrong }.remedy();
        let server = |fault, ca_file: Option<&str>| {
            ConnectCause::Certificate { fault, ca_file: ca_file.map(Into::into) }.remedy()
        };
        let token = |expires_at| TokenInfo {
            file: "/run/token".into(),
            expires_at: Some(Timestamp::from_millis(expires_at)),
            length: 5000,
        };
        for (remedy, parts) in [
            (refused(ClientFault::Expired), ["/run/tls.crt", "broker.client_key_file"]),
            (refused(ClientFault::UnknownAuthority), ["ssl_options.cacertfile", "/run/tls.crt"]),
            (ConnectCause::Files(FilesError::KeyMismatch).remedy(), [CERTIFICATE, "broker.client_key_file"]),
            (ConnectCause::NoClientCertificate.remedy(), [CERTIFICATE, "broker.client_key_file"]),
            (ConnectCause::Token { token: token(0) }.remedy(), ["a new token", "/run/token"]),
            (ConnectCause::Token { token: token(i64::MAX) }.remedy(), ["RabbitMQ's log", "/run/token"]),
            (ConnectCause::TokenTooLarge { token: token(0) }.remedy(), ["initial_frame_max", "/run/token"]),
            (server(CertificateFault::UnknownIssuer, Some("/run/ca.crt")), ["/run/ca.crt", "broker.ca_file"]),
            (server(CertificateFault::UnknownIssuer, None), ["set broker.ca_file", "authority"]),
            (server(CertificateFault::Expired, None), ["another certificate", "ssl_options.certfile"]),
        ] {
            assert!(parts.iter().all(|part| remedy.contains(part)), "{parts:?}: {remedy}");
            assert!(!remedy.contains("correct broker.url"), "{remedy}");
        }
    }
}
