//! Where plans wait for whoever confirms them: a queue in RabbitMQ, since the next command may run
//! in another container. It needs no durability: a plan that is gone is made again.

use std::{collections::BTreeMap, time::Duration};

use lapin::{
    BasicProperties,
    options::{BasicGetOptions, QueueDeclareOptions},
    protocol::AMQPSoftError,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{desk::DeskError, plan::Plan};
use crate::{
    broker::{
        Lane, Mandatory, Publisher, Topology, connection, connection::Connection, errors::soft_error,
        publisher::Outgoing,
    },
    settings::Broker,
};

/// How long a plan can be confirmed.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// The most plans; the oldest goes first.
const MOST: i64 = 100;

/// Keeps a plan.
pub(super) async fn keep(
    link: &Connection,
    publisher: &Publisher,
    topology: &Topology,
    plan: &Plan,
) -> Result<(), DeskError> {
    let queue = topology.dead_letter_plans();
    let kept = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
    let arguments = [("x-expires", kept), ("x-message-ttl", kept), ("x-max-length", MOST)];
    let arguments = arguments.map(|(name, value)| (ShortString::from(name), AMQPValue::LongLongInt(value)));
    let arguments = FieldTable::from(arguments.into_iter().collect::<BTreeMap<_, _>>());
    let channel = link.create_channel().await?;
    // RabbitMQ 4.3 knows no queues that are neither durable nor exclusive.
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), options, arguments).await?;
    channel.close(200, "declared".into()).await?;
    let body = plan.encode();
    let properties = BasicProperties::default().with_content_type("application/json".into());
    let message = Outgoing { exchange: "", routing_key: &queue, properties, body: &body };
    publisher.publish(&message, Mandatory::Required(Lane::DeadLetters)).await?;
    Ok(())
}

/// The plan with this digest, if it is there.
pub(super) async fn find(
    broker: &Broker,
    topology: &Topology,
    digest: &str,
) -> Result<Option<Plan>, DeskError> {
    let link = connection::connect(&broker.uris()?, "reads plans").await?;
    let found = search(&link, &topology.dead_letter_plans(), digest).await;
    // What was taken goes back with the connection.
    link.close().await;
    match found {
        Err(error) if matches!(soft_error(&error), Some((AMQPSoftError::NOTFOUND, _))) => Ok(None),
        found => Ok(found?),
    }
}

async fn search(link: &Connection, queue: &str, digest: &str) -> lapin::Result<Option<Plan>> {
    let channel = link.create_channel().await?;
    while let Some(kept) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }).await? {
        if let Some(plan) = Plan::decode(&kept.delivery.data).filter(|plan| plan.digest == digest) {
            return Ok(Some(plan));
        }
    }
    Ok(None)
}
