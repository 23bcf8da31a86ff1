//! How a request is published, and why it was not.

use lapin::BasicProperties;

use crate::broker::{Topology, errors::soft_error, topology::REQUEST_KEY};

/// A persistent JSON message without a trace context, so that the worker's settings decide about
/// sampling. This command creates no span, so its context would mean "not sampled".
pub(super) fn properties(message_id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_message_id(message_id.into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
}

pub(super) const REFUSED: &str = "the queue refused the request; it may be full";

pub(super) fn unrouted(topology: &Topology) -> String {
    format!(
        "no queue is bound to exchange {} with routing key {REQUEST_KEY}; `unlocker run` declares them",
        topology.exchange()
    )
}

/// Why the broker closed the channel, if it did.
pub(super) fn closed(error: &lapin::Error, topology: &Topology) -> Option<String> {
    let (_, broker) = soft_error(error)?;
    let exchange = topology.exchange();
    Some(format!("{broker}; `unlocker run` declares the exchange {exchange}, and the user needs write on it"))
}
