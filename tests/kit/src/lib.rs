//! The test kit: what a test needs to drive `trackfinity-unlocker` against a real RabbitMQ.
//!
//! Most tests are one call of [`run`], which hands over a [`Context`] with a vhost of its own:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! kit::run(async |ctx| {
//!     let amqp = ctx.amqp().await;
//!     let inbox = amqp.consume_into("amq.topic", "unlock.#").await;
//!     amqp.publish("amq.topic", "unlock.unlocked", kit::Properties::default(), b"{}").await;
//!     assert_eq!(inbox.next(Duration::from_secs(5)).await.body, b"{}");
//! });
//! ```
//!
//! The broker is found as [`RabbitNode`] says. A test that hurts it takes a node of its own ([`run_on_own_node`]).

// Tests fail by panicking.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod authority;
mod chromium;
mod collected_log;
mod cutter;
mod harness;
mod otlp;
pub mod raw_amqp;
mod raw_http;
mod tinyproxy;
mod tls;
mod token_issuer;
mod trackfinity;

pub use authority::{Authority, Issued};
pub use chromium::{Chromium, Screen};
pub use collected_log::CollectedLog;
pub use cutter::TcpCutter;
pub use harness::{Context, run, run_alone_within, run_on_own_node, run_on_own_node_within, run_within};
pub use otlp::{Otlp, OtlpPoint, OtlpSpan, OtlpValue, SpanKind};
pub use raw_http::RawHttp;
pub use testbed::*;
pub use tinyproxy::{ProxyRules, Tinyproxy};
pub use tls::Certificate;
pub use token_issuer::TokenIssuer;
pub use trackfinity::{Answer, Call, Trackfinity};
