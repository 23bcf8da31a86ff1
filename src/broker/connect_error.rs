//! Why a connection to RabbitMQ could not be opened, and what to do about it.

use std::{io, time::Duration};

use lapin::{
    ErrorKind,
    uri::{AMQPScheme, AMQPUri},
};

use super::wire::WireError;
use crate::settings::BrokerUrlsError;

/// AMQP's reply codes.
const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;

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

/// What happened at one address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectCause {
    #[error(
        "the login of user {0} is refused: correct user or password in broker.url{guest}",
        guest = if .0 == "guest" { ". The user guest may log in on RabbitMQ's own machine alone" } else { "" }
    )]
    Login(String),
    #[error(
        "there is no virtual host {0}: correct it in broker.url, or create it with `rabbitmqctl add_vhost`"
    )]
    NoVhost(String),
    #[error(
        "user {user} has no access to virtual host {vhost}: grant it with `rabbitmqctl set_permissions -p \
         {vhost} {user} …`"
    )]
    NoAccess { user: String, vhost: String },
    /// The text is RabbitMQ's.
    #[error("RabbitMQ closed the connection: {0}")]
    Closed(String),
    #[error("the answer is not TLS: write amqp://, or the port that speaks TLS (usually 5671)")]
    NotTls,
    #[error(
        "the server's certificate is not accepted: {0}. SSL_CERT_FILE can name a file with the authorities \
         to trust"
    )]
    Certificate(&'static str),
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

impl ConnectError {
    /// Whether RabbitMQ was reached, and refused the user or the virtual host: to try again does not
    /// help.
    pub fn is_refusal(&self) -> bool {
        use ConnectCause::{Login, NoAccess, NoVhost};
        matches!(self, Self::Failed { cause: Login(_) | NoVhost(_) | NoAccess { .. }, .. })
    }

    /// What happened, in a few words before the error itself.
    pub fn summary(&self) -> &'static str {
        if self.is_refusal() { "RabbitMQ refuses the connection" } else { "RabbitMQ cannot be reached" }
    }
}

/// What [`ConnectCause`] is made of: lapin's error, or one of this program's own AMQP reader.
#[derive(Debug)]
pub(super) struct RawError {
    /// AMQP's reply code, if RabbitMQ closed the connection.
    code: Option<u16>,
    kind: Option<io::ErrorKind>,
    breaks_protocol: bool,
    text: String,
}

impl From<lapin::Error> for RawError {
    fn from(error: lapin::Error) -> Self {
        let (mut code, mut kind, mut text) = (None, None, error.to_string());
        match error.kind() {
            ErrorKind::ProtocolError(error) => {
                (code, text) = (Some(error.kind().get_id()), error.get_message().to_string());
            }
            ErrorKind::IOError(error) => (kind, text) = (Some(error.kind()), error.to_string()),
            _ => {}
        }
        let breaks_protocol =
            matches!(error.kind(), ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_));
        Self { code, kind, breaks_protocol, text }
    }
}

impl From<WireError> for RawError {
    fn from(error: WireError) -> Self {
        let (mut code, mut kind, text) = (None, None, error.to_string());
        let breaks_protocol = matches!(error, WireError::Protocol(_));
        let text = match error {
            WireError::ConnectionClosed { code: given, text } => {
                code = Some(given);
                text
            }
            WireError::Io { kind: given, text } => {
                kind = Some(given);
                text
            }
            _ => text,
        };
        Self { code, kind, breaks_protocol, text }
    }
}

impl ConnectCause {
    pub(super) fn new(url: &AMQPUri, error: RawError) -> Self {
        let (user, vhost) = (url.authority.userinfo.username.clone(), url.vhost.clone());
        let has = |part: &str| error.text.contains(part);
        let is_tls = url.scheme == AMQPScheme::AMQPS;
        match (error.code, error.kind) {
            (Some(ACCESS_REFUSED), _) => Self::Login(user),
            (Some(NOT_ALLOWED), _) if has("not found") => Self::NoVhost(vhost),
            (Some(NOT_ALLOWED), _) if has("access to vhost") => Self::NoAccess { user, vhost },
            (Some(_), _) => Self::Closed(error.text),
            (_, Some(io::ErrorKind::ConnectionRefused)) => Self::NoListener,
            // The standard library has no kind for it.
            _ if has("lookup address") => Self::UnknownHost,
            // rustls's errors have only a text.
            _ if is_tls && has("corrupt message") => Self::NotTls,
            _ if is_tls && has("certificate") => Self::Certificate(certificate_fault(&error.text)),
            _ if error.breaks_protocol => Self::NotAmqp,
            (_, Some(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof)) => Self::NotAmqp,
            _ => Self::Other(error.text),
        }
    }
}

fn certificate_fault(text: &str) -> &'static str {
    let has = |part: &str| text.contains(part);
    match () {
        () if has("UnknownIssuer") => "its issuer is not trusted",
        () if has("xpired") => "it has expired",
        () if has("not valid for name") || has("NotValidForName") => "it is for another host name",
        () if has("NotValidYet") || has("not valid yet") => "it is not valid yet",
        () if has("CaUsedAsEndEntity") => "it is an authority's own certificate, not a server's",
        () => "it is not valid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(url: &str, code: Option<u16>, kind: Option<io::ErrorKind>, text: &str) -> ConnectCause {
        let error = RawError { code, kind, breaks_protocol: false, text: text.to_owned() };
        ConnectCause::new(&url.parse().expect("a URL"), error)
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

    #[test]
    fn a_refusal_is_not_an_unreachable_broker() {
        let failed = |cause| ConnectError::Failed { address: "amqp://h".to_owned(), cause };
        assert!(failed(ConnectCause::Login("u".to_owned())).is_refusal());
        for cause in [ConnectCause::NoListener, ConnectCause::NotTls, ConnectCause::Closed(String::new())] {
            assert!(!failed(cause).is_refusal());
        }
    }

    #[test]
    fn a_certificate_fault_is_said_without_the_library_s_names() {
        for (text, fault) in [
            ("UnknownIssuer", "its issuer is not trusted"),
            ("Expired", "it has expired"),
            ("certificate expired: verification time 1 (UNIX)", "it has expired"),
            ("certificate not valid for name \"h\"", "it is for another host name"),
            ("Other(OtherError(CaUsedAsEndEntity))", "it is an authority's own certificate, not a server's"),
            ("BadEncoding", "it is not valid"),
        ] {
            let text = format!("invalid peer certificate: {text}");
            let cause = cause("amqps://h", None, Some(io::ErrorKind::InvalidData), &text);
            assert_eq!(cause, ConnectCause::Certificate(fault), "{text}");
        }
    }
}
