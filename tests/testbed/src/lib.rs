//! What the demo, the soak and the test kit stand on: a RabbitMQ, a vhost of it, programs to start, AMQP.
//!
//! `make demo` builds this crate, so it holds nothing that a test alone needs, and no crate that the worker does without.

// The demo and the tests fail by panicking, and say why.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod amqp;
mod eventually;
mod management;
mod node;
mod ports;
mod process;
mod vhost;
mod watchdog;

pub use amqp::{Amqp, Inbox, Message};
pub use eventually::{Attempt, eventually};
pub use lapin::BasicProperties as Properties;
pub use lapin::options;
pub use lapin::types::{AMQPValue, FieldTable};
pub use management::Management;
pub use node::{NodeOptions, RabbitCluster, RabbitNode};
pub use ports::{free_port, listen};
pub use process::{Process, Program, Running, Signal, raise_descriptor_limit};
pub use vhost::Vhost;
