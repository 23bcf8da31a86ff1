//! The broker, and its stream full of outcomes.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use kit::{Amqp, FieldTable, NodeOptions, RabbitNode, Vhost};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::AMQPValue;
use lapin::{Channel, Confirmation};
use tokio::time::Instant;
use trackfinity_unlocker::broker::Topology;
use trackfinity_unlocker::history::CLOCK_SKEW;
use trackfinity_unlocker::message::{Outcome, Status, Timestamp, request};
use trackfinity_unlocker::settings::{History, TopologyPrefix};

use crate::arguments::Options;

const EXCHANGE: &str = "trackfinity.unlock";
const RESULTS: &str = "trackfinity.unlock.results";
/// The share of outcomes that are of the last hour: at an even rate the stream goes back for 20 hours.
const HOURS: usize = 20;
const HOUR_MS: i64 = 3_600_000;
/// Each customer has this many outcomes.
pub const OUTCOMES_EACH: usize = 2;

/// A private broker with the contract's topology, no worker, and the history on.
pub struct Site {
    broker: RabbitNode,
    vhost: Vhost,
    amqp: Amqp,
    version: String,
}

/// The outcomes of the stream.
pub struct Filled {
    pub outcomes: usize,
    /// Outcomes from this one on are of the last hour.
    pub last_hour_from: usize,
    /// When the last hour began.
    pub last_hour: Timestamp,
    /// When the first of all was decided.
    pub begun: Timestamp,
    /// Outcomes per second.
    pub rate: f64,
}

impl Filled {
    pub fn customers(&self) -> usize {
        self.outcomes / OUTCOMES_EACH
    }
}

impl Site {
    pub async fn start() -> Self {
        let broker = RabbitNode::start_own(NodeOptions::default()).await;
        // A node that has just started answers AMQP first.
        let overview = kit::eventually("the management API answers", Duration::from_secs(30), async || {
            broker.management("/").get("/api/overview").await
        })
        .await;
        let version = overview["rabbitmq_version"].as_str().expect("a version").to_owned();
        let vhost = broker.vhost().await;
        let amqp = Amqp::connect(vhost.amqp_url()).await;
        let kept =
            History { enabled: true, max_age: Duration::from_secs(90 * 86_400), max_bytes: 5_000_000_000 };
        let topology = Topology::new(&TopologyPrefix::parse(EXCHANGE).expect("a prefix")).with_history(&kept);
        topology.declare(amqp.connection()).await.expect("declared");
        Self { broker, vhost, amqp, version }
    }

    pub fn description(&self) -> String {
        format!("RabbitMQ {}, {}", self.version, self.broker.description())
    }

    /// Major and minor version of RabbitMQ.
    pub fn version(&self) -> (u32, u32) {
        let mut numbers = self.version.split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    pub fn amqp_url(&self) -> &str {
        self.vhost.amqp_url()
    }

    /// Fills the stream with outcomes of the last twenty hours.
    ///
    /// RabbitMQ itself notes when it gets an outcome, and `--since` goes by that, with an allowance for clocks that
    /// differ. So the outcomes of the last hour are published when this allowance is over.
    pub async fn fill(&self, options: &Options) -> Filled {
        let last_hour_from = options.outcomes - options.outcomes / HOURS;
        let now = Timestamp::now();
        let all_ms = HOUR_MS * i64::try_from(HOURS).expect("few");
        let time = |n: usize| {
            let share = n as f64 / options.outcomes as f64;
            Timestamp::from_millis(now.as_millis() - all_ms + (all_ms as f64 * share) as i64)
        };
        let begun = Instant::now();
        self.publish(
            (0..last_hour_from).map(|n| outcome(n, &number(n), options, time(n))),
            options.in_flight,
        )
        .await;
        let rate = last_hour_from as f64 / begun.elapsed().as_secs_f64();
        tokio::time::sleep(CLOCK_SKEW + Duration::from_secs(2)).await;
        let last_hour = Timestamp::now();
        let latest =
            (last_hour_from..options.outcomes).map(|n| outcome(n, &number(n), options, Timestamp::now()));
        self.publish(latest, options.in_flight).await;
        Filled { outcomes: options.outcomes, last_hour_from, last_hour, begun: time(0), rate }
    }

    /// Publishes one more, of the request with this id.
    pub async fn publish_one(&self, request_id: &str, options: &Options) {
        self.publish(std::iter::once(outcome(0, request_id, options, Timestamp::now())), 1).await;
    }

    async fn publish(&self, outcomes: impl Iterator<Item = Outcome>, in_flight: usize) {
        let channel = self.amqp.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let publishes = outcomes.map(|outcome| publish(&channel, outcome));
        let mut confirms = stream::iter(publishes).buffered(in_flight);
        while let Some(confirmed) = confirms.next().await {
            assert!(confirmed, "not confirmed");
        }
        drop(confirms);
        channel.close(200, "done".into()).await.expect("closed");
    }
}

/// The request's id of an outcome.
pub fn number(n: usize) -> String {
    format!("local/8e03978e-40d5-43d6-a1b4-{n:012}")
}

/// As the worker makes it: 29 of 30 succeeded, one of fifty gives two identifiers.
fn outcome(n: usize, request_id: &str, options: &Options, finished_at: Timestamp) -> Outcome {
    let customer = n % (options.outcomes / OUTCOMES_EACH).max(1);
    let body = match n % 50 {
        7 => format!(r#"{{"customer_id":"{customer}","orderid":"{n}"}}"#),
        _ => format!(r#"{{"customer_id":"{customer}"}}"#),
    };
    let request = request::decode(None, body.as_bytes()).request.expect("a request");
    let is_refused = n % 30 == 13;
    Outcome {
        status: if is_refused { Status::Refused } else { Status::Unlocked },
        request_id: request_id.to_owned(),
        request: Some(request.identifiers().clone()),
        attempts: 1,
        http_status: Some(if is_refused { 404 } else { 200 }),
        reason: is_refused.then(|| "http_404".to_owned()),
        detail: is_refused.then(|| r#"{"error":"no such customer"}"#.to_owned()),
        replays: 0,
        first_received_at: finished_at,
        finished_at,
        requested_by: Some("shop".to_owned()),
    }
}

async fn publish(channel: &Channel, outcome: Outcome) -> bool {
    let mut trace = FieldTable::default();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    trace.insert("traceparent".into(), AMQPValue::LongString(parent.into()));
    let properties = outcome.with_headers(outcome.properties(None), trace, true);
    let body = outcome.encode().expect("encodes");
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let key = outcome.status.routing_key().into();
    let publish = channel.basic_publish(RESULTS.into(), key, options, &body, properties);
    let confirm = publish.await.expect("published").await.expect("confirmed");
    matches!(confirm, Confirmation::Ack(None))
}
