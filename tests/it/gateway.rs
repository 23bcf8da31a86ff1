//! The gateway: requests over HTTP, a real RabbitMQ, and a worker behind it.

mod batches;
mod broker;
mod clients;
mod examples;
mod history;
mod intake;
mod keys;
mod page;
mod waiting;
mod world;
