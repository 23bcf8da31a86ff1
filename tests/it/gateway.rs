//! The gateway: requests over HTTP, a real RabbitMQ, and a worker behind it.

mod batches;
mod bounds;
mod broker;
mod clients;
mod connection;
mod examples;
mod faults;
mod history;
mod intake;
mod keys;
mod openapi;
mod page;
mod raw;
mod replicas;
mod stop;
mod trace;
mod waiting;
pub mod world;
