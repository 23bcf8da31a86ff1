//! A distributed lock: an exclusive queue. RabbitMQ releases it when the owning connection closes, even
//! after a crash.

use lapin::{Channel, Connection, options::QueueDeclareOptions, protocol::AMQPSoftError, types::FieldTable};

use super::errors::soft_error;

/// Tries to take the lock. Returns the channel on which it was taken; `None` if another connection has
/// it. The lock ends with the connection, not with the channel.
///
/// # Errors
/// If the user may not declare it, or the connection is lost.
pub async fn try_once(connection: &Connection, queue: &str) -> lapin::Result<Option<Channel>> {
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { exclusive: true, auto_delete: false, ..Default::default() };
    match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
        Ok(_queue) => Ok(Some(channel)),
        Err(error) => match soft_error(&error) {
            Some((AMQPSoftError::RESOURCELOCKED, _)) => Ok(None),
            _ => Err(error),
        },
    }
}
