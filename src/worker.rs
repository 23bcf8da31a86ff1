//! Processes the messages of the requests queue: decodes each, calls Trackfinity, publishes what
//! came of it, and acknowledges the delivery last. Enter at [`Worker`].
//!
//! - `supervisor`: opens one session with RabbitMQ after another.
//! - `consume`: takes deliveries in one session, and starts one task for each.
//! - `handler`: what such a task does with its message, from the first step to the last.
//! - `publish`: publishes until RabbitMQ has confirmed.
//! - `acks`: which deliveries can be acknowledged in one frame.
//! - `unreadable`, `undeliverable`: messages that lapin cannot read, and those that RabbitMQ gave
//!   up.
//! - `canary`: answers what `unlocker check --probe` sends.
//! - `shared_breaker`, `rate`, `concurrency`: whether, how often, and how many at once to call.

mod acks;
mod calls;
mod canary;
mod concurrency;
mod consume;
mod given_up;
mod handler;
mod incoming;
mod publish;
mod queues;
mod rate;
mod session_end;
mod shared_breaker;
mod status;
mod supervisor;
mod suspect;
mod tasks;
mod undeliverable;
mod unreadable;
mod unsettled;

pub use self::{
    publish::health::{PublishHealth, PublishKind},
    queues::QueueMonitor,
    shared_breaker::SharedBreaker,
    status::{StatusHandle, WorkerStatus},
    supervisor::{RunError, Worker},
};
