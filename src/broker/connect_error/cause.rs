//! What happened at one address: RabbitMQ's words, TLS's alerts and the system's errors, for people.

use std::{io, path::PathBuf};

use lapin::uri::{AMQPScheme, AMQPUri};

use super::{client_fault::ClientFault, raw::RawError};
use crate::{
    broker::{
        login::{Credentials, FilesError, Login},
        rights::scopes::encoded,
    },
    policy::CertificateFault,
    settings::{CertificateInfo, TokenInfo},
};

/// AMQP's reply codes.
const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;
/// A token up to this size fits into the first frame of every RabbitMQ, with any names.
const SMALL_TOKEN_BYTES: usize = 3000;
/// A token above this size fits into no first frame of 4 KiB: names and capabilities take 250 bytes at least.
const LARGE_TOKEN_BYTES: usize = 4096 - 250;

/// What happened at one address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectCause {
    #[error(
        "the login of user {0} is refused: correct user or password in broker.url{guest}",
        guest = if .0 == "guest" { ". The user guest may log in on RabbitMQ's own machine alone" } else { "" }
    )]
    Login(String),
    #[error(
        "the login of user {0} is refused: if the client certificate is to be the login, add ?auth_mechanism=external to \
         broker.url; else correct user or password there"
    )]
    LoginWithoutExternal(String),
    #[error(
        "there is no virtual host {0}: correct it in broker.url, or create it with `rabbitmqctl add_vhost`"
    )]
    NoVhost(String),
    #[error(
        "user {user} has no access to virtual host {vhost}: grant it with `rabbitmqctl set_permissions -p \
         {vhost} {user} …`"
    )]
    NoAccess { user: String, vhost: String },
    #[error("RabbitMQ refuses {token}: {advice}", advice = token_advice(.token))]
    Token { token: TokenInfo },
    #[error(
        "{token} gives no access to virtual host {vhost}: it needs a scope for it, such as RESOURCE.read:{}/*/*",
        encoded(.vhost)
    )]
    NoAccessByToken { token: TokenInfo, vhost: String },
    #[error(
        "RabbitMQ ended the connection at the login. It takes a first frame of 4 KiB at most (8 KiB from 4.3 on), and \
         {token} has {} bytes: raise initial_frame_max in rabbitmq.conf, or have smaller tokens issued", .token.length
    )]
    TokenTooLarge { token: TokenInfo },
    #[error(
        "the connection was ended at the start: does RabbitMQ run there? If this goes on, RabbitMQ may take only smaller \
         tokens (initial_frame_max in rabbitmq.conf): {token} has {} bytes", .token.length
    )]
    EndedWithToken { token: TokenInfo },
    #[error(
        "RabbitMQ has no user for {login}: create one with the name that RabbitMQ reads from it \
             (ssl_cert_login_from), by `rabbitmqctl add_user`"
    )]
    NoUserForCertificate { login: Login },
    #[error(
        "RabbitMQ requires a client certificate: set broker.client_certificate_file and broker.client_key_file"
    )]
    NoClientCertificate,
    #[error("RabbitMQ refuses {certificate}: {wrong}")]
    ClientCertificate { certificate: CertificateInfo, wrong: ClientFault },
    #[error(
        "the connection was ended at the login with {login}. Does RabbitMQ accept it (its log says why not), and does it \
         offer this login (plugin rabbitmq_auth_mechanism_ssl, EXTERNAL in auth_mechanisms)?"
    )]
    CertificateLoginEnded { login: Login },
    #[error(
        "the connection was ended during the TLS handshake. If this goes on, RabbitMQ probably requires a client \
         certificate: set broker.client_certificate_file and broker.client_key_file. Its log says why"
    )]
    TlsEnded,
    #[error(
        "the connection was ended during the TLS handshake. If this goes on, RabbitMQ probably does not accept \
         {certificate}. Its log says why"
    )]
    TlsEndedWith { certificate: CertificateInfo },
    /// What is wrong with the files of certificates and keys.
    #[error("{0}")]
    Files(FilesError),
    /// The text is RabbitMQ's.
    #[error("RabbitMQ closed the connection: {0}")]
    Closed(String),
    #[error("the answer is not TLS: write amqp://, or the port that speaks TLS (usually 5671)")]
    NotTls,
    /// `ca_file`: the file of authorities, if it is not the system's that are trusted.
    #[error(
        "the server's certificate is not accepted: {fault}. {advice}",
        advice = certificate_advice(*.fault, .ca_file.as_ref())
    )]
    Certificate { fault: CertificateFault, ca_file: Option<PathBuf> },
    #[error(
        "the answer is not AMQP: is it RabbitMQ's port (usually 5672)? A port that speaks TLS needs amqps://"
    )]
    NotAmqp,
    #[error("no program listens there: are host and port right, and does RabbitMQ run?")]
    NoListener,
    #[error("the host's name is not known: is it right?")]
    UnknownHost,
    #[error("{0}")]
    Other(String),
}

impl ConnectCause {
    pub(in crate::broker) fn new(url: &AMQPUri, credentials: &Credentials, error: RawError) -> Self {
        let vhost = url.vhost.clone();
        let has = |part: &str| error.text.contains(part);
        let is_tls = url.scheme == AMQPScheme::AMQPS;
        if is_tls && let Some(fault) = CertificateFault::in_error(&error.text) {
            return Self::Certificate { fault, ca_file: credentials.ca_file().cloned() };
        }
        match (error.code, error.kind) {
            (Some(ACCESS_REFUSED), _) => match credentials.login(url) {
                // lapin's password where the URL has none.
                Login::Password(user)
                    if url.authority.userinfo.password == "guest"
                        && credentials.client_certificate(url).is_some() =>
                {
                    Self::LoginWithoutExternal(user)
                }
                Login::Password(user) => Self::Login(user),
                Login::Token(token) => Self::Token { token },
                login @ Login::Certificate(_) => Self::NoUserForCertificate { login },
            },
            (Some(NOT_ALLOWED), _) if has("not found") => Self::NoVhost(vhost),
            (Some(NOT_ALLOWED), _) if has("access to vhost") => match credentials.login(url) {
                Login::Token(token) => Self::NoAccessByToken { token, vhost },
                // RabbitMQ reads the name from the certificate.
                _ => Self::NoAccess { user: user_in(&error.text, url), vhost },
            },
            (Some(_), _) => Self::Closed(error.text),
            _ if is_tls && has("received fatal alert") => Self::alert(url, credentials, error.text),
            (_, Some(io::ErrorKind::ConnectionRefused)) => Self::NoListener,
            // The standard library has no kind for it.
            _ if has("lookup address") => Self::UnknownHost,
            // rustls's errors have only a text.
            _ if is_tls && has("corrupt message") => Self::NotTls,
            _ if error.breaks_protocol => Self::NotAmqp,
            (_, Some(kind)) => Self::ended(url, credentials, kind).unwrap_or(Self::Other(error.text)),
            _ => Self::Other(error.text),
        }
    }
}

impl ConnectCause {
    /// Whether a connection with TLS was ended for a reason that was perhaps on its way.
    pub(in crate::broker) fn lacks_alert(&self) -> bool {
        use ConnectCause::{CertificateLoginEnded, EndedWithToken, TlsEnded, TlsEndedWith};
        matches!(self, CertificateLoginEnded { .. } | EndedWithToken { .. } | TlsEnded | TlsEndedWith { .. })
    }

    /// The token, if it is too large for RabbitMQ's default; that it was RabbitMQ which ended the connection is to be seen.
    pub(in crate::broker) fn large_token(&self) -> Option<&TokenInfo> {
        match self {
            Self::EndedWithToken { token } => Some(token).filter(|token| token.length > LARGE_TOKEN_BYTES),
            _ => None,
        }
    }

    /// The connection was ended without a word, which RabbitMQ does for some of these reasons.
    fn ended(url: &AMQPUri, credentials: &Credentials, kind: io::ErrorKind) -> Option<Self> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        if ![BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof].contains(&kind) {
            return None;
        }
        match credentials.login(url) {
            Login::Token(token) if token.length > SMALL_TOKEN_BYTES => Some(Self::EndedWithToken { token }),
            login @ Login::Certificate(_) => Some(Self::CertificateLoginEnded { login }),
            _ if url.scheme == AMQPScheme::AMQPS => {
                Some(match credentials.client_certificate(url).cloned() {
                    None => Self::TlsEnded,
                    Some(certificate) => Self::TlsEndedWith { certificate },
                })
            }
            _ => [ConnectionReset, UnexpectedEof].contains(&kind).then_some(Self::NotAmqp),
        }
    }

    /// RabbitMQ ended the TLS handshake, and says why in one word.
    fn alert(url: &AMQPUri, credentials: &Credentials, text: String) -> Self {
        let has = |alert: &str| text.ends_with(alert);
        let certificate = match credentials.client_certificate(url).cloned() {
            Some(certificate) => certificate,
            None if has("CertificateRequired") || has("HandshakeFailure") => {
                return Self::NoClientCertificate;
            }
            None => return Self::Other(text),
        };
        let wrong = match () {
            () if has("CertificateExpired") => ClientFault::out_of_time(&certificate),
            () if has("UnknownCA") => ClientFault::UnknownAuthority,
            () if has("CertificateRevoked") => ClientFault::Revoked,
            // RabbitMQ 3.10 says so of a certificate for servers.
            () if has("HandshakeFailure") => ClientFault::NotForClients,
            () if has("BadCertificate") || has("UnsupportedCertificate") || has("CertificateUnknown") => {
                ClientFault::NotForClients
            }
            () => return Self::Other(text),
        };
        Self::ClientCertificate { certificate, wrong }
    }
}

fn token_advice(token: &TokenInfo) -> &'static str {
    match token.has_expired() {
        true => "put a new one into the file, which is read again by itself",
        false => {
            "RabbitMQ's log says why. Usual causes are its audience (aud), the key that signs it, and clocks that differ"
        }
    }
}

/// The user's name in RabbitMQ's text; else the one in the URL.
fn user_in(text: &str, url: &AMQPUri) -> String {
    let named = text.split_once("for user '").and_then(|(_, rest)| rest.rsplit_once('\''));
    named.map_or_else(|| url.authority.userinfo.username.clone(), |(user, _)| user.to_owned())
}

fn certificate_advice(fault: CertificateFault, ca_file: Option<&PathBuf>) -> String {
    match (fault, ca_file) {
        (CertificateFault::UnknownIssuer, Some(file)) => {
            format!("Only the authorities in broker.ca_file ({}) are trusted", file.display())
        }
        (CertificateFault::UnknownIssuer, None) => {
            "broker.ca_file can name a file with the authorities to trust".to_owned()
        }
        _ => "RabbitMQ needs another one (ssl_options.certfile)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kit::{Authority, Issued};

    use super::*;
    use crate::{secret::Secret, settings::Broker};

    fn cause(url: &str, code: Option<u16>, kind: Option<io::ErrorKind>, text: &str) -> ConnectCause {
        cause_with(&Broker::with_url(Secret::fixed(url.to_owned())), url, code, kind, text)
    }

    fn cause_with(
        broker: &Broker,
        url: &str,
        code: Option<u16>,
        kind: Option<io::ErrorKind>,
        text: &str,
    ) -> ConnectCause {
        let error = RawError { code, kind, breaks_protocol: false, text: text.to_owned() };
        ConnectCause::new(&url.parse().expect("a URL"), &Credentials::of(broker), error)
    }

    /// The cause of this alert, with this client certificate.
    fn alert(issued: &Issued, alert: &str) -> ConnectCause {
        let url = "amqps://h";
        let broker = Broker {
            client_certificate_file: Some(Secret::fixed(issued.certificate.clone())),
            ..Broker::with_url(Secret::fixed(url.to_owned()))
        };
        let text = format!("received fatal alert: {alert}");
        cause_with(&broker, url, None, Some(io::ErrorKind::InvalidData), &text)
    }

    #[test]
    fn a_scope_has_the_virtual_host_as_rabbitmq_reads_it() {
        let token = TokenInfo { file: "/t".into(), expires_at: None, length: 9 };
        let cause = ConnectCause::NoAccessByToken { token, vhost: "/".to_owned() };
        assert!(cause.to_string().contains("such as RESOURCE.read:%2F/*/*"), "{cause}");
    }

    #[test]
    fn a_certificate_that_is_not_used_as_the_login_is_a_hint() {
        let issued = Authority::new("authority").client("u");
        for (url, hint) in [("amqps://h", true), ("amqps://u:p@h", false), ("amqp://h", false)] {
            let broker = Broker {
                client_certificate_file: Some(Secret::fixed(issued.certificate.clone())),
                ..Broker::with_url(Secret::fixed(url.to_owned()))
            };
            let cause = cause_with(&broker, url, Some(403), None, "ACCESS_REFUSED");
            assert_eq!(cause.to_string().contains("?auth_mechanism=external"), hint, "{url}: {cause}");
        }
    }

    #[test]
    fn a_handshake_that_fails_with_a_certificate_is_the_certificate_s_fault() {
        let issued = Authority::new("authority").client("u");
        let cause = alert(&issued, "HandshakeFailure");
        assert!(cause.to_string().contains("it is no certificate for a client"), "{cause}");
    }

    #[test]
    fn a_certificate_out_of_its_time_is_told_from_a_clock_that_is_wrong() {
        let authority = Authority::new("authority");
        for (issued, fault, part) in [
            (authority.expired_client("u"), ClientFault::Expired, "which expired at 2020-01-01"),
            (authority.later_client("u"), ClientFault::NotValidYet, "which is not valid before 2100-01-01"),
            (authority.client("u"), ClientFault::ExpiredElsewhere, "or the clocks differ"),
        ] {
            let cause = alert(&issued, "CertificateExpired");
            assert!(
                matches!(&cause, ConnectCause::ClientCertificate { wrong, .. } if *wrong == fault),
                "{cause}"
            );
            assert!(cause.to_string().contains(part), "{cause}");
        }
    }

    #[test]
    fn what_rabbitmq_says_is_read_on_every_version() {
        let url = "amqp://u:p@h/v";
        let cause = |code, text| cause(url, Some(code), None, text);
        let login = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.";
        assert_eq!(cause(403, login), ConnectCause::Login("u".to_owned()));
        assert_eq!(cause(530, "NOT_ALLOWED - vhost v not found"), ConnectCause::NoVhost("v".to_owned()));
        let access = "NOT_ALLOWED - access to vhost 'v' refused for user 'u'";
        assert_eq!(
            cause(530, access),
            ConnectCause::NoAccess { user: "u".to_owned(), vhost: "v".to_owned() }
        );
        let full = "NOT_ALLOWED - access to vhost refused: connection limit (5) is reached";
        let full = full.replace("access to vhost refused: ", "");
        assert_eq!(cause(530, &full), ConnectCause::Closed(full.clone()));
    }
}
