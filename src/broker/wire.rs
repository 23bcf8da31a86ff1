//! A small AMQP 0-9-1 client that can read any message. lapin ends the connection if a short string of
//! a message (its id, its content type, the name of a header, its routing key, …) is not UTF-8, which
//! AMQP 0-9-1 and RabbitMQ allow. See docs/upstream.md.
//!
//! A [`WireConnection`] runs a task that reads, writes and sends heartbeats. A [`WireChannel`] does one
//! operation at a time. When either is dropped, RabbitMQ requeues what was not acknowledged.

mod channel;
mod connection;
mod error;
mod frame;
mod handshake;
mod io;

pub use channel::{Confirm, WireChannel};
pub use connection::WireConnection;
pub(super) use connection::WireSecret;
pub use error::WireError;
pub use frame::WireDelivery;
