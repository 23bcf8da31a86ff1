//! AMQP 0-9-1 as far as it takes to read any message: lapin ends the connection where a short string
//! of a message (its id, its content type, the name of a header, its routing key, …) is not UTF-8,
//! which AMQP 0-9-1 and RabbitMQ allow. See docs/upstream.md.
//!
//! A [`WireConnection`] holds a task that reads, writes and keeps up the heartbeat. A [`WireChannel`]
//! does one thing after another. Dropping either gives back what was not acknowledged.

mod channel;
mod connection;
mod error;
mod frame;
mod handshake;
mod io;

pub use channel::{Confirm, WireChannel};
pub use connection::WireConnection;
pub use error::WireError;
pub use frame::WireDelivery;
