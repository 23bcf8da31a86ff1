//! The gateway: requests over HTTP, a real RabbitMQ, and a worker behind it.

mod batches;
mod broker;
mod clients;
mod history;
mod intake;
mod keys;
mod waiting;
mod world;
