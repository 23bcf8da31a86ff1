//! A request that was accepted.

use std::sync::Arc;

use super::waiters::Waiter;
use crate::message::Timestamp;

/// A request that was accepted: RabbitMQ has it, and a queue.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) id: String,
    /// Its outcome is not older.
    pub(super) since: Timestamp,
    /// Where its outcome will come, if it can be waited for.
    pub(super) waiter: Option<Waiter>,
    /// Its outcome, if that is known already.
    pub(super) outcome: Option<Arc<[u8]>>,
}
