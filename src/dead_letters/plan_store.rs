//! Stores plans in a RabbitMQ queue until someone confirms them, because the next command may run
//! in another container. A lost plan does no harm: plan again.

use std::{collections::BTreeMap, time::Duration};

use lapin::{
    BasicProperties,
    options::{BasicGetOptions, QueueDeclareOptions},
    protocol::AMQPSoftError,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    error::AccessError,
    lock::{self, Holder},
    plan::Plan,
};
use crate::{
    broker::{
        Connector, Lane, Mandatory, Publisher, Topology, connection::Connection, errors::soft_error,
        publisher::Outgoing,
    },
    message::Timestamp,
};

/// How long a plan can be confirmed.
const PLAN_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long RabbitMQ may take to confirm a plan. While it is short of memory or disk, it never does.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);
/// A search that finds nothing is repeated after this time: RabbitMQ may not yet have requeued the
/// plans of a command that was killed.
const SEARCH_INTERVAL: Duration = Duration::from_millis(300);
/// The queue drops the oldest plan beyond this number.
const MAX_PLANS: i64 = 100;

/// Stores a plan.
pub(super) async fn store(
    link: &Connection,
    publisher: &Publisher,
    topology: &Topology,
    plan: &Plan,
) -> Result<(), AccessError> {
    let body = plan.encode()?;
    let queue = topology.dead_letter_plans();
    let ttl = i64::try_from(PLAN_TTL.as_millis()).unwrap_or(i64::MAX);
    let arguments = [("x-expires", ttl), ("x-message-ttl", ttl), ("x-max-length", MAX_PLANS)];
    let arguments = arguments.map(|(name, value)| (ShortString::from(name), AMQPValue::LongLongInt(value)));
    let arguments = FieldTable::from(arguments.into_iter().collect::<BTreeMap<_, _>>());
    let channel = link.create_channel().await?;
    // RabbitMQ 4.3 refuses queues that are neither durable nor exclusive.
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), options, arguments).await?;
    channel.close(200, "declared".into()).await?;
    let properties = BasicProperties::default().with_content_type("application/json".into());
    let message = Outgoing { exchange: "", routing_key: &queue, properties, body: &body };
    let publish = publisher.publish(&message, Mandatory::Required(Lane::DeadLetters));
    tokio::time::timeout(STORE_TIMEOUT, publish).await.map_err(|_elapsed| AccessError::Unconfirmed)??;
    Ok(())
}

/// Finds the plan with this digest.
pub(super) async fn find(
    connector: &Connector,
    topology: &Topology,
    digest: &str,
) -> Result<Option<Plan>, AccessError> {
    let link = connector.connect("reads plans").await?;
    let found = search_alone(&link, topology, digest).await;
    link.close().await;
    found
}

/// A search takes all plans. So one search at a time: another would see none of them.
async fn search_alone(
    link: &Connection,
    topology: &Topology,
    digest: &str,
) -> Result<Option<Plan>, AccessError> {
    let holder = Holder {
        actor: "a command".to_owned(),
        doing: "reads plans".to_owned(),
        since: Timestamp::now().to_string(),
        taken: None,
    };
    for is_last in [false, false, true] {
        let lock = lock::acquire(link, &topology.dead_letter_lock(), &holder).await?;
        let found = search(link, &topology.dead_letter_plans(), digest).await;
        lock.release().await?;
        match found {
            Ok(None) if !is_last => tokio::time::sleep(SEARCH_INTERVAL).await,
            Err(error) if matches!(soft_error(&error), Some((AMQPSoftError::NOTFOUND, _))) => break,
            found => return Ok(found?),
        }
    }
    Ok(None)
}

async fn search(link: &Connection, queue: &str, digest: &str) -> lapin::Result<Option<Plan>> {
    let channel = link.create_channel().await?;
    let mut found = None;
    while found.is_none()
        && let Some(message) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }).await?
    {
        found = Plan::decode(&message.delivery.data).filter(|plan| plan.digest == digest);
    }
    // RabbitMQ requeues the plans before it answers.
    channel.close(200, "searched".into()).await?;
    Ok(found)
}
