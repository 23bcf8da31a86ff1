//! The worker that unlocks Trackfinity customers.
//!
//! How one message is processed:
//!
//! ```text
//! RabbitMQ ─delivery→ worker ─bytes→ message::request::decode ─UnlockRequest→ trackfinity::Client::unlock ─Reply→
//!   policy::classify, policy::decide ─Verdict→ settle::publications ─[Publication], in order→ publish until confirmed ─→
//!   acknowledge
//! ```
//!
//! One task owns one delivery until it may be acknowledged; the consume loop then acknowledges for
//! all tasks. Delivery is at least once; unlocking is idempotent, and outcomes carry a `message_id`
//! to deduplicate by. Pure functions decide what a response means and what is published for it.
//!
//! Dependencies run one way, from left to right; a later module may use an earlier one:
//!
//! ```text
//! message → policy → breaker, settle → settings, secret → telemetry, trackfinity, broker → worker, dead_letters, history → http → gateway, console, ops → sandbox, fips → cli → main
//! ```

// Not in Cargo.toml: there it would also hold for tests, benches and tools, which export nothing.
#![warn(unreachable_pub)]

pub mod breaker;
pub mod broker;
pub mod cli;
pub mod console;
pub mod dead_letters;
pub mod fips;
pub mod gateway;
pub mod history;
pub mod http;
pub mod message;
pub mod ops;
pub mod policy;
pub mod sandbox;
pub mod secret;
pub mod settings;
pub mod settle;
pub mod telemetry;
pub mod trackfinity;
pub mod worker;
