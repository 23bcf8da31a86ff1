//! What RabbitMQ itself gave up: `undeliverable` and `unreadable` settle it.

use lapin::types::FieldTable;

use super::{publish::SessionPublisher, unsettled::Unsettled};
use crate::{
    broker::{ConnectError, ConsumeError, wire::WireError},
    message::x_death::{self, XDeath},
};

/// What RabbitMQ gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// A dead letter, whose outcome is published already.
    DeadLetter,
    /// A request, whose outcome is not published; and why, if RabbitMQ says.
    Request(Option<XDeath>),
}

impl SessionPublisher {
    /// Decides by `x-death`, which RabbitMQ writes. Workers remove `x-death` from everything they
    /// publish, so in a dead letter it can only name the queue of dead letters. In a request that was set
    /// aside, and then removed from the dead letters, it also names the other queues.
    pub(super) fn given_up(&self, headers: Option<&FieldTable>) -> GivenUp {
        let topology = self.config.topology();
        let deaths = headers.map(x_death::all).unwrap_or_default();
        let of = |queue: String| deaths.iter().find(|death| death.queue == queue).cloned();
        match of(topology.requests()).or_else(|| of(topology.undeliverable())) {
            Some(death) => GivenUp::Request(Some(death)),
            None if deaths.first().is_some_and(|death| death.queue == topology.dead()) => GivenUp::DeadLetter,
            None => GivenUp::Request(None),
        }
    }

    /// Warns, after a dead letter is put back, that a policy removes dead letters from their queue.
    pub(super) fn warn_restored(&self) {
        if let Some(left_out) = self.config.throttle.due("dead_letter_restored") {
            tracing::warn!(
                event = "dead_letter_restored",
                queue = self.dead(),
                left_out,
                "RabbitMQ removed a dead letter from its queue, and it is put back unchanged: a policy sets a \
                 delivery limit, a length limit or a TTL for this queue. Change the policy"
            );
        }
    }
}

/// Why settling messages stopped and has to start again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interrupted {
    #[error(transparent)]
    Count(#[from] ConsumeError),
    #[error("{summary}: {0}", summary = .0.summary())]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("RabbitMQ cancelled the consumer")]
    Cancelled,
    #[error("a message could not be settled: {0}")]
    Unsettled(#[from] Unsettled),
    #[error("a task panicked: {0}")]
    Panic(#[from] tokio::task::JoinError),
}
