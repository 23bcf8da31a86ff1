//! What errors of lapin mean.

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};

/// Why RabbitMQ closed the channel, with its words; `None` if it was another error.
pub fn soft_error(error: &lapin::Error) -> Option<(AMQPSoftError, String)> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some((soft.clone(), error.get_message().to_string())),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// Whether the content of a message ended the connection: for example a text in its properties is
/// not UTF-8, which RabbitMQ delivers and lapin cannot read.
pub fn is_unreadable(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ParsingError(_))
}

/// Whether RabbitMQ sent a frame that is larger than agreed, which ended the connection. It splits bodies into frames,
/// and never the headers of a message.
pub fn is_large_frame(error: &lapin::Error) -> bool {
    let large = AMQPErrorKind::Hard(AMQPHardError::FRAMEERROR);
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == large)
}
