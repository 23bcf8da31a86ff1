//! The worker as its users see it: the real binary, a real RabbitMQ, and a simulated
//! Trackfinity. Each test has a virtual host of its own.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod adaptive;
mod answers;
mod bulk;
mod check;
mod cluster;
mod commands;
mod console;
mod contract;
mod dead_letters;
mod dev;
mod examples;
mod expiry;
mod faults;
mod fips;
mod gateway;
mod history;
mod hostile;
mod identity;
mod isolation;
mod kill;
mod layout;
mod libraries;
mod manifests;
mod mistakes;
mod outcomes;
mod pauses;
mod probe;
mod proxy;
mod publisher;
mod reference;
mod replicas;
mod requests;
mod retries;
mod rights;
mod senders;
mod shutdown;
mod status;
mod telemetry;
mod topology;
mod undeliverable;
mod wire;
mod world;
