//! RabbitMQ: connections that reconnect, the topology, consuming and publishing.

pub mod backoff;
pub mod browse;
pub mod connect_error;
pub mod connection;
pub mod connector;
pub mod consumer;
pub mod errors;
mod greeting;
pub mod lock;
pub mod login;
pub mod publisher;
pub mod queue_states;
pub mod replies;
pub mod rights;
pub mod session;
pub mod stream;
mod tls_alert;
mod token_keeper;
pub mod topology;
mod wake_coalescer;
pub mod wire;

pub use backoff::Backoff;
pub use connect_error::ConnectError;
pub use connector::Connector;
pub use consumer::{ConsumeError, Consumer};
pub use login::Login;
pub use publisher::{Lane, Mandatory, PublishError, Publisher};
pub use queue_states::QueueStates;
pub use replies::ReplyPublisher;
pub use session::Session;
pub use topology::{Topology, TopologyError};
