//! RabbitMQ: supervised connections, the topology, taking requests and publishing.

pub mod backoff;
pub mod browse;
pub mod connection;
pub mod consumer;
pub mod holding;
pub mod lock;
pub mod publisher;
pub mod replies;
pub mod rights;
pub mod topology;
mod wakes;
pub mod wire;

pub use backoff::Backoff;
pub use connection::{ConnectError, Session};
pub use consumer::{ConsumeError, Consumer};
pub use publisher::{PublishError, Publisher, Routing};
pub use replies::Replies;
pub use topology::{Topology, TopologyError};
