//! An error of one of the two AMQP clients.

use std::io;

use lapin::ErrorKind;

use crate::broker::wire::WireError;

/// What a cause is made of: lapin's error, or one of this program's own AMQP reader.
#[derive(Debug)]
pub(in crate::broker) struct RawError {
    /// AMQP's reply code, if RabbitMQ closed the connection.
    pub(super) code: Option<u16>,
    pub(super) kind: Option<io::ErrorKind>,
    pub(super) breaks_protocol: bool,
    pub(super) text: String,
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

impl From<io::Error> for RawError {
    fn from(error: io::Error) -> Self {
        Self { code: None, kind: Some(error.kind()), breaks_protocol: false, text: error.to_string() }
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
