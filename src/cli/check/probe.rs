//! `--probe`: sends canaries the way of a request and of a retry, and waits until a worker has
//! answered them (decision 157).

use std::{collections::BTreeMap, time::Duration};

use anyhow::anyhow;
use futures_util::StreamExt;
use lapin::{
    Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::report::{Check, Report};
use crate::{
    broker::{
        Topology,
        consumer::{QueueState, queue_state},
        errors::soft_error,
        replies::DIRECT_REPLY_TO,
        topology::REQUEST_KEY,
    },
    cli::{failure::Failure, publish::consume_replies},
    message::canary::{self, Answer},
    policy::Tier,
};

/// How long to look for a consumer: a worker that changes its prefetch has none for a moment.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(3);
const CONSUMER_INTERVAL: Duration = Duration::from_millis(100);
/// The tier that a canary waits in.
const TIER: Tier = Tier::SHORTEST;

const POLICIES: &str = "`rabbitmqctl list_policies` shows the policies of a virtual host with `-p`";

/// The way that a canary takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Requests,
    Retry,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Requests => "canary through the request queue",
            Self::Retry => "canary through the retry queue",
        }
    }

    /// The exchange, the routing key, and the queue behind them.
    fn route(self, topology: &Topology) -> (String, String, String) {
        match self {
            Self::Requests => (topology.exchange().to_owned(), REQUEST_KEY.to_owned(), topology.requests()),
            Self::Retry => (topology.retry(), TIER.to_string(), topology.retry_queue(TIER)),
        }
    }
}

/// A canary that RabbitMQ has taken.
#[derive(Clone, Copy, Debug)]
struct Sent {
    way: Way,
    at: Instant,
}

/// Sends a canary through the request queue and, with `retry`, one through the shortest tier.
pub(super) async fn probe(
    connection: &Connection,
    topology: &Topology,
    retry: bool,
    limit: Duration,
    report: &mut Report,
) -> Result<(), Failure> {
    let requests = topology.requests();
    if let Some(QueueState { messages, consumers: 0 }) = wait_for_consumer(connection, &requests).await {
        return report.add(Check::fail(
            "canaries",
            format!("not sent, because no worker consumes {requests} ({messages} waiting)"),
            "start a worker; if one runs, it is paused or not connected: `unlocker status --ops URL` says why",
        ));
    }
    let channel = connection.create_channel().await.map_err(anyhow::Error::from)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(anyhow::Error::from)?;
    let mut answers = consume_replies(&channel).await?;
    let deadline = Instant::now() + limit;
    let mut sent = BTreeMap::new();
    for way in [Way::Requests, Way::Retry] {
        if way == Way::Retry && !retry {
            continue;
        }
        let id = format!("unlocker-canary-{}", uuid::Uuid::now_v7());
        match send(&channel, topology, way, &id, deadline).await {
            Ok(()) => _ = sent.insert(id, Sent { way, at: Instant::now() }),
            Err((detail, remedy)) => {
                report.add(Check::fail(way.name(), detail, remedy))?;
                // Both come back through the request queue, and the channel may be closed.
                break;
            }
        }
    }
    while !sent.is_empty() {
        let Ok(answer) = timeout_at(deadline, answers.next()).await else { break };
        let answer =
            answer.ok_or_else(|| anyhow!("RabbitMQ closed the channel"))?.map_err(anyhow::Error::from)?;
        let Ok(answer) = serde_json::from_slice::<Answer>(&answer.data) else { continue };
        if let Some(Sent { way, at }) = sent.remove(&answer.canary) {
            report.add(judge(way, &answer, at.elapsed()))?;
        }
    }
    for Sent { way, .. } in sent.into_values() {
        let (detail, remedy) = explain_silence(connection, topology, way, limit).await;
        report.add(Check::fail(way.name(), detail, remedy))?;
    }
    Ok(())
}

/// The state of the queue once it has a consumer, or after `CONSUMER_TIMEOUT`. `None` if the user
/// may not see it.
async fn wait_for_consumer(connection: &Connection, queue: &str) -> Option<QueueState> {
    let deadline = Instant::now() + CONSUMER_TIMEOUT;
    loop {
        let state = state(connection, queue).await?;
        if state.consumers > 0 || Instant::now() >= deadline {
            return Some(state);
        }
        tokio::time::sleep(CONSUMER_INTERVAL).await;
    }
}

async fn state(connection: &Connection, queue: &str) -> Option<QueueState> {
    // A refusal closes the channel.
    let channel = connection.create_channel().await.ok()?;
    let state = queue_state(&channel, queue).await.ok()?;
    channel.close(200, "done".into()).await.ok();
    Some(state)
}

/// Publishes a canary. If RabbitMQ does not take it: why, and what to do.
async fn send(
    channel: &Channel,
    topology: &Topology,
    way: Way,
    id: &str,
    deadline: Instant,
) -> Result<(), (String, String)> {
    let (exchange, key, queue) = way.route(topology);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let publish = async {
        let properties = canary::properties(id, DIRECT_REPLY_TO);
        let (exchange, key) = (exchange.as_str().into(), key.as_str().into());
        channel.basic_publish(exchange, key, options, b"", properties).await?.await
    };
    let see_above = "see the checks above".to_owned();
    match timeout_at(deadline, publish).await {
        Ok(Ok(Confirmation::Ack(None))) => Ok(()),
        Ok(Ok(Confirmation::Ack(Some(_returned)))) => Err((
            format!("the binding is missing: exchange {exchange} routes the key {key} to no queue"),
            format!(
                "start a worker with broker.declare = true, or bind {queue} to {exchange} with the key {key}"
            ),
        )),
        Ok(Ok(Confirmation::Nack(_))) => Err((
            format!("{queue}, or another queue bound to {exchange}, refuses it: it is full"),
            format!("find the policy that limits it (max-length, max-length-bytes): {POLICIES}"),
        )),
        Ok(Ok(Confirmation::NotRequested)) => Err(("RabbitMQ does not confirm".to_owned(), see_above)),
        Ok(Err(error)) => {
            let broker = soft_error(&error).map_or_else(|| error.to_string(), |(_, broker)| broker);
            Err((format!("RabbitMQ refuses it: {broker}"), see_above))
        }
        Err(_elapsed) => Err((
            format!(
                "RabbitMQ does not confirm it: {queue} may have lost its quorum, or publishing is blocked"
            ),
            "see RabbitMQ's alarms (memory, disk) and the state of its nodes".to_owned(),
        )),
    }
}

/// A canary that was answered.
fn judge(way: Way, answer: &Answer, took: Duration) -> Check {
    let Answer { queue, gave_up, .. } = answer;
    match gave_up {
        None => Check::pass(way.name(), format!("a worker answered it after {} ms", took.as_millis())),
        Some(reason) => Check::fail(
            way.name(),
            format!(
                "RabbitMQ gave it up ({reason}), and a worker found it in {queue}: requests end the same way"
            ),
            format!(
                "find the policy that limits the request queue (message-ttl, delivery-limit): {POLICIES}"
            ),
        ),
    }
}

/// Where a canary without an answer was last seen, and what to do.
async fn explain_silence(
    connection: &Connection,
    topology: &Topology,
    way: Way,
    limit: Duration,
) -> (String, String) {
    let limit = humantime::format_duration(limit);
    let (_, _, queue) = way.route(topology);
    let requests = topology.requests();
    let look = Duration::from_secs(5);
    let seen = async { (state(connection, &requests).await, state(connection, &queue).await) };
    let (at_requests, at_queue) = timeout(look, seen).await.unwrap_or_default();
    match (way, at_requests, at_queue) {
        (_, Some(QueueState { consumers: 0, messages }), _) => (
            format!(
                "no answer within {limit}, and no worker consumes {requests} any more ({messages} waiting)"
            ),
            "`unlocker status --ops URL` says why a worker is paused; the next worker drops the canary"
                .to_owned(),
        ),
        (Way::Retry, _, Some(QueueState { messages: 1.., .. })) => (
            format!("no answer within {limit}: it may still be in {queue}, which RabbitMQ does not empty"),
            "see RabbitMQ's log, and the state of this queue".to_owned(),
        ),
        (_, Some(QueueState { messages: messages @ 1.., .. }), _) => (
            format!("no answer within {limit}: {messages} messages wait in {requests}"),
            "workers are behind: wait, or start more; a longer --timeout waits for the canary".to_owned(),
        ),
        (Way::Retry, ..) => (
            format!("it left {queue}, but did not come to {requests} within {limit}"),
            format!(
                "if the canary through {requests} got no answer either, mend that first; else compare the dead-letter \
                 exchange and key of {queue} with {} and {REQUEST_KEY}, and look for another consumer of {requests}",
                topology.exchange()
            ),
        ),
        (Way::Requests, ..) => (
            format!("it left {requests}, but no answer came within {limit}"),
            "the worker's user needs write on amq.default; a consumer that is no worker may have taken it"
                .to_owned(),
        ),
    }
}
