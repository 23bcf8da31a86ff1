//! How a request is published, and why it was not.

use std::time::Duration;

use clap::Args;
use lapin::{BasicProperties, protocol::AMQPSoftError};

use crate::broker::{Topology, errors::soft_error, topology::REQUEST_KEY};

/// The longest `expiration` that RabbitMQ accepts, in milliseconds: about 49 days.
const MAX_EXPIRATION_MS: u128 = u32::MAX as u128;

/// How RabbitMQ treats each request.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct DeliveryArgs {
    /// RabbitMQ delivers higher priorities first: from 4.0 on those above 4, from 4.3 on strictly.
    #[arg(long, value_name = "N", value_parser = priority)]
    priority: Option<u8>,
    /// Do not try the request after this time, such as 10m: its outcome is then `abandoned`, `expired`.
    #[arg(long, value_name = "DURATION", value_parser = expires_in)]
    expires_in: Option<Duration>,
}

fn priority(text: &str) -> Result<u8, &'static str> {
    text.parse().map_err(|_| "it is not a whole number from 0 to 255, such as 5")
}

fn expires_in(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (1..=MAX_EXPIRATION_MS).contains(&duration.as_millis()) {
        true => Ok(duration),
        false => Err("RabbitMQ allows from 1ms to 49days, such as 10m".to_owned()),
    }
}

impl DeliveryArgs {
    /// A persistent JSON message without a trace context, so that the worker's settings decide about
    /// sampling. This command creates no span, so its context would mean "not sampled".
    pub(super) fn properties(&self, message_id: &str) -> BasicProperties {
        let mut properties = BasicProperties::default()
            .with_message_id(message_id.into())
            .with_content_type("application/json".into())
            .with_delivery_mode(2);
        if let Some(priority) = self.priority {
            properties = properties.with_priority(priority);
        }
        if let Some(duration) = self.expires_in {
            properties = properties.with_expiration(duration.as_millis().to_string().into());
        }
        properties
    }
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
    let exchange = topology.exchange();
    Some(match soft_error(error)? {
        (AMQPSoftError::NOTFOUND, _) => format!(
            "exchange {exchange} does not exist in this virtual host. `unlocker run` declares it: is it the \
             right RabbitMQ, virtual host and topology.prefix?"
        ),
        (AMQPSoftError::ACCESSREFUSED, _) => format!(
            "RabbitMQ refuses access to exchange {exchange}: grant the user write on it, with `rabbitmqctl \
             set_permissions`"
        ),
        (_, broker) => broker,
    })
}
