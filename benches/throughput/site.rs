//! The broker and its queues: the contract's topology, once with quorum and once with classic queues.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use kit::{Amqp, FieldTable, NodeOptions, Properties, RabbitNode, Vhost};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    QueuePurgeOptions,
};
use lapin::types::AMQPValue;
use lapin::{Channel, Confirmation};
use trackfinity_unlocker::broker::Topology;
use trackfinity_unlocker::broker::topology::Entity;
use trackfinity_unlocker::settings::{History, TopologyPrefix};

pub const EXCHANGE: &str = "trackfinity.unlock";
pub const REQUESTS: &str = "trackfinity.unlock.requests";
pub const RESULTS: &str = "trackfinity.unlock.results";
const HISTORY: &str = "trackfinity.unlock.history";
/// The queue in which outcomes are counted.
const OUTCOMES: &str = "bench.outcomes";
/// Publishes in flight while a queue is filled.
const WINDOW: usize = 1000;

/// One broker for all turns.
pub struct Site {
    broker: Arc<RabbitNode>,
}

impl Site {
    pub async fn start() -> Self {
        // With a backlog of a million the default limits would block the publisher.
        let options = NodeOptions::default().conf("vm_memory_high_watermark.relative = 0.7");
        Self { broker: Arc::new(RabbitNode::start_own(options).await) }
    }

    pub fn description(&self) -> String {
        self.broker.description()
    }

    pub async fn queues(&self, kind: Kind) -> Queues {
        let vhost = self.broker.vhost().await;
        let amqp = Amqp::connect(vhost.amqp_url()).await;
        let channel = amqp.channel().await;
        let broker = Arc::clone(&self.broker);
        let queues = Queues { kind, broker, vhost, amqp, channel };
        queues.declare().await;
        queues
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Quorum queues, declared by the worker.
    Quorum,
    /// Quorum queues and the stream of the history, declared by the worker.
    History,
    /// Classic queues with the same names and bindings; the worker does not declare.
    Classic,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::History => "history",
            Self::Classic => "classic",
        }
    }
}

/// The topology in its own virtual host.
pub struct Queues {
    pub kind: Kind,
    broker: Arc<RabbitNode>,
    vhost: Vhost,
    amqp: Amqp,
    channel: Channel,
}

impl Queues {
    pub fn amqp_url(&self) -> &str {
        self.vhost.amqp_url()
    }

    pub fn amqp(&self) -> &Amqp {
        &self.amqp
    }

    /// The broker's CPU time so far, if it can be measured.
    pub fn broker_cpu(&self) -> Option<Duration> {
        self.broker.cpu_time()
    }

    async fn declare(&self) {
        let mut topology = topology();
        if self.kind == Kind::History {
            let day = Duration::from_secs(86_400);
            let history = History { enabled: true, max_age: day, max_bytes: 5_000_000_000 };
            topology = topology.with_history(&history);
        }
        match self.kind {
            Kind::Quorum | Kind::History => {
                topology.declare(self.amqp.connection()).await.expect("declared");
            }
            Kind::Classic => {
                for entity in topology.entities() {
                    self.declare_classic(entity).await;
                }
            }
        }
        let mut arguments = BTreeMap::new();
        if self.kind != Kind::Classic {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        }
        self.amqp.declare_queue(OUTCOMES, arguments.into()).await;
        self.bind(OUTCOMES, RESULTS, "unlock.#").await;
    }

    async fn declare_classic(&self, entity: Entity) {
        match entity {
            Entity::Exchange { name, kind } => {
                let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
                let none = FieldTable::default();
                self.channel
                    .exchange_declare(name.as_str().into(), kind, options, none)
                    .await
                    .expect("declared");
            }
            Entity::Queue { name, arguments } => {
                let of_all_kinds = |name: &str| {
                    matches!(name, "x-dead-letter-exchange" | "x-dead-letter-routing-key" | "x-message-ttl")
                };
                let mut arguments = arguments.inner().clone();
                arguments.retain(|name, _| of_all_kinds(name.as_str()));
                self.amqp.declare_queue(&name, arguments.into()).await;
            }
            Entity::Stream { name, arguments } => self.amqp.declare_queue(&name, arguments).await,
            Entity::Binding { queue, exchange, routing_key } => {
                self.bind(&queue, &exchange, &routing_key).await;
            }
        }
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        self.channel
            .queue_bind(queue.into(), exchange.into(), key.into(), options, none)
            .await
            .expect("bound");
    }

    /// Publishes this many requests with confirms. Their ids start at `first`.
    pub async fn fill(&self, first: usize, count: usize) {
        let channel = self.amqp.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let publishes = (first..first + count).map(|n| publish(&channel, n));
        let mut confirms = stream::iter(publishes).buffered(WINDOW);
        while let Some(confirmed) = confirms.next().await {
            assert!(confirmed, "not confirmed");
        }
        drop(confirms);
        channel.close(200, "done".into()).await.expect("closed");
    }

    /// Outcomes so far.
    pub async fn outcomes(&self) -> usize {
        self.ready(OUTCOMES).await
    }

    /// Entries of the stream, as RabbitMQ counts them.
    pub async fn kept(&self) -> usize {
        self.ready(HISTORY).await
    }

    /// Requests that are ready in the queue.
    pub async fn waiting(&self) -> usize {
        self.ready(REQUESTS).await
    }

    async fn ready(&self, queue: &str) -> usize {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        queue.expect("the queue is there").message_count() as usize
    }

    /// Empties all queues. Retry queues first, because their messages come back.
    pub async fn purge(&self) {
        let queues = topology().entities().into_iter().filter_map(|entity| match entity {
            Entity::Queue { name, .. } => Some(name),
            Entity::Exchange { .. } | Entity::Stream { .. } | Entity::Binding { .. } => None,
        });
        let (requests, mut queues): (Vec<_>, Vec<_>) = queues.partition(|queue| queue == REQUESTS);
        queues.extend(requests);
        queues.push(OUTCOMES.to_owned());
        for queue in queues {
            let queue = queue.as_str().into();
            self.channel.queue_purge(queue, QueuePurgeOptions::default()).await.expect("purged");
        }
        // With a million messages, the broker reports zero before they are deleted.
        kit::eventually("the queues are empty", Duration::from_secs(60), async || {
            self.outcomes().await + self.waiting().await == 0
        })
        .await;
    }
}

fn topology() -> Topology {
    Topology::new(&TopologyPrefix::parse(EXCHANGE).expect("a prefix"))
}

/// What identifies a request in a bench.
pub fn request(n: usize) -> (Properties, Vec<u8>) {
    let properties = Properties::default()
        .with_message_id(format!("request-{n}").into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2);
    (properties, format!(r#"{{"customer_id":"{n}"}}"#).into_bytes())
}

async fn publish(channel: &Channel, n: usize) -> bool {
    let (properties, body) = request(n);
    let options = BasicPublishOptions::default();
    let publish = channel.basic_publish(EXCHANGE.into(), "request".into(), options, &body, properties);
    let confirm = publish.await.expect("published").await.expect("confirmed");
    matches!(confirm, Confirmation::Ack(None))
}
