//! The exchanges, queues and bindings in RabbitMQ, and how they are declared and checked.

use std::{collections::BTreeMap, time::Duration};

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::AMQPSoftError,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::errors::soft_error;
use crate::{
    policy::Tier,
    settings::{History, TopologyPrefix},
};

/// The routing key of requests on the exchange for requests.
pub const REQUEST_KEY: &str = "request";
/// The routing key, on the same exchange, of requests that RabbitMQ gave up.
pub const UNDELIVERABLE_KEY: &str = "undeliverable";
/// The binding key that matches every outcome.
pub const EVERY_OUTCOME: &str = "unlock.#";
/// A stream gives up whole segments, so that one must be small beside `history.max_bytes`.
const SEGMENT_BYTES: i64 = 10_000_000;
/// Of the Bloom filter in front of each chunk. With RabbitMQ's own 16 bytes, every second chunk of 64 outcomes would look
/// as if it could have the identifier.
const FILTER_BYTES: i64 = 64;
/// RabbitMQ gives up a poison message, which crashes its worker, after this many redeliveries.
const DELIVERY_LIMIT: i64 = 20;
/// RabbitMQ must never drop a dead letter because it was browsed often, nor dead-letter one that it has removed already:
/// it forwards no message to a queue that it took it from. RabbitMQ 4.x has a limit of 20 if none is given. -1 means no
/// limit on 4.x, but makes 3.10 delete at the first redelivery.
const NO_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// The names of all exchanges and queues, by their common prefix.
#[derive(Clone, Debug)]
pub struct Topology {
    prefix: String,
    /// How outcomes are kept, if they are.
    kept: Option<History>,
}

/// What is wrong with the topology, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error(
        "{kind} {name} exists with other arguments: {broker}. This program never changes or deletes \
         it: move its messages and delete it, and it is declared again; or choose another \
         topology.prefix"
    )]
    Differs { kind: Kind, name: String, broker: String },
    #[error(
        "{kind} {name} does not exist: declare it, or set broker.declare = true, so that `unlocker run` \
             declares it"
    )]
    Missing { kind: Kind, name: String },
    #[error("{kind} {name}: RabbitMQ refuses access: {broker}. {advice}")]
    Refused { kind: Kind, name: String, broker: String, advice: &'static str },
    #[error("{kind} {name}: {source}")]
    Failed { kind: Kind, name: String, source: lapin::Error },
    #[error("no channel could be opened: {0}")]
    NoChannel(#[source] lapin::Error),
}

impl TopologyError {
    /// Whether the connection failed, not the topology.
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::NoChannel(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Exchange,
    Queue,
    Binding,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exchange => "exchange",
            Self::Queue => "queue",
            Self::Binding => "the binding of queue",
        })
    }
}

/// One exchange, queue or binding, as it should be.
#[derive(Clone, Debug)]
pub enum Entity {
    Exchange { name: String, kind: ExchangeKind },
    Queue { name: String, arguments: FieldTable },
    Stream { name: String, arguments: FieldTable },
    Binding { queue: String, exchange: String, routing_key: String },
}

impl Entity {
    fn kind(&self) -> Kind {
        match self {
            Self::Exchange { .. } => Kind::Exchange,
            Self::Queue { .. } | Self::Stream { .. } => Kind::Queue,
            Self::Binding { .. } => Kind::Binding,
        }
    }

    /// The name of the exchange, the queue, or the queue that is bound.
    pub fn name(&self) -> &str {
        match self {
            Self::Exchange { name, .. } | Self::Queue { name, .. } | Self::Stream { name, .. } => name,
            Self::Binding { queue, .. } => queue,
        }
    }

    /// Declares it. `passive`: only checks that it exists, without its arguments; AMQP cannot check
    /// a binding.
    async fn declare(&self, channel: &Channel, passive: bool) -> lapin::Result<()> {
        match self {
            Self::Exchange { name, kind } => {
                let options = ExchangeDeclareOptions { durable: true, passive, ..Default::default() };
                let name = name.as_str().into();
                channel.exchange_declare(name, kind.clone(), options, FieldTable::default()).await
            }
            Self::Queue { name, arguments } | Self::Stream { name, arguments } => {
                let options = QueueDeclareOptions { durable: true, passive, ..Default::default() };
                let name = name.as_str().into();
                channel.queue_declare(name, options, arguments.clone()).await.map(|_queue| ())
            }
            Self::Binding { .. } if passive => Ok(()),
            Self::Binding { queue, exchange, routing_key } => {
                let (queue, exchange) = (queue.as_str().into(), exchange.as_str().into());
                let (options, key) = (QueueBindOptions::default(), routing_key.as_str().into());
                channel.queue_bind(queue, exchange, key, options, FieldTable::default()).await
            }
        }
    }

    fn fault(&self, error: lapin::Error, declared: bool) -> TopologyError {
        let (kind, name) = (self.kind(), self.name().to_owned());
        match soft_error(&error) {
            Some((AMQPSoftError::PRECONDITIONFAILED, broker)) => {
                TopologyError::Differs { kind, name, broker: without_code(broker) }
            }
            Some((AMQPSoftError::NOTFOUND, _)) => TopologyError::Missing { kind, name },
            Some((AMQPSoftError::ACCESSREFUSED, broker)) => TopologyError::Refused {
                kind,
                name,
                broker: without_code(broker),
                advice: match self {
                    Self::Binding { .. } => {
                        "Grant the user write on the queue and read on the exchange, or declare \
                         the topology otherwise and set broker.declare = false"
                    }
                    // RabbitMQ 4.2.7 and 4.3.1 accept any permission for a passive declare.
                    _ if !declared => "Grant the user read on it",
                    _ => {
                        "Grant the user configure on it, or declare the topology otherwise and set \
                         broker.declare = false"
                    }
                },
            },
            _ => TopologyError::Failed { kind, name, source: error },
        }
    }
}

/// RabbitMQ's words without the name of the code before them.
fn without_code(broker: String) -> String {
    broker.split_once(" - ").map(|(_code, words)| words.to_owned()).unwrap_or(broker)
}

impl std::fmt::Display for Entity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

impl Topology {
    pub fn new(prefix: &TopologyPrefix) -> Self {
        Self { prefix: prefix.as_str().to_owned(), kept: None }
    }

    /// With the stream of outcomes, if the settings ask for it.
    #[must_use]
    pub fn with_history(self, history: &History) -> Self {
        Self { kept: Some(history.clone()).filter(|history| history.enabled), ..self }
    }

    /// Whether outcomes are kept.
    pub fn keeps_history(&self) -> bool {
        self.kept.is_some()
    }

    /// The exchange producers publish requests to.
    pub fn exchange(&self) -> &str {
        &self.prefix
    }

    /// The queue from which the worker consumes requests.
    pub fn requests(&self) -> String {
        format!("{}.requests", self.prefix)
    }

    /// The queue of messages that RabbitMQ gave up: requests that were delivered too often or expired,
    /// and dead letters that were dropped by a policy's delivery limit.
    pub fn undeliverable(&self) -> String {
        format!("{}.undeliverable", self.prefix)
    }

    /// The exchange to which the worker publishes retries. The routing key is the tier's name.
    pub fn retry(&self) -> String {
        format!("{}.retry", self.prefix)
    }

    /// The queue in which requests wait for the duration of a tier.
    pub fn retry_queue(&self, tier: Tier) -> String {
        format!("{}.retry.{tier}", self.prefix)
    }

    /// The exchange to which outcomes are published.
    pub fn results(&self) -> String {
        format!("{}.results", self.prefix)
    }

    /// The stream that keeps the outcomes.
    pub fn history(&self) -> String {
        format!("{}.history", self.prefix)
    }

    /// The exchange and the queue of dead letters.
    pub fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// The exclusive queue that locks the dead letters: one connection at a time browses them.
    pub fn dead_letter_lock(&self) -> String {
        format!("{}.dead.lock", self.prefix)
    }

    /// The exclusive queue that a connection locks while it replays or discards.
    pub fn dead_letter_change_lock(&self) -> String {
        format!("{}.change", self.dead_letter_lock())
    }

    /// The queue in which plans for dead letters are stored until they are confirmed.
    pub fn dead_letter_plans(&self) -> String {
        format!("{}.dead.plans", self.prefix)
    }

    /// The stream in which consoles keep what they have done, for each other.
    pub fn console_log(&self) -> String {
        format!("{}.console", self.prefix)
    }

    /// All exchanges, queues and bindings, in the order in which they can be declared: a target of
    /// dead-lettering before its source.
    pub fn entities(&self) -> Vec<Entity> {
        let exchange = |name: &str, kind| Entity::Exchange { name: name.to_owned(), kind };
        let binding = |queue: String, exchange: &str, key: &str| Entity::Binding {
            queue,
            exchange: exchange.to_owned(),
            routing_key: key.to_owned(),
        };
        let mut entities = vec![
            exchange(self.exchange(), ExchangeKind::Direct),
            exchange(&self.retry(), ExchangeKind::Direct),
            exchange(&self.results(), ExchangeKind::Topic),
            exchange(&self.dead(), ExchangeKind::Fanout),
            Entity::Queue {
                name: self.undeliverable(),
                arguments: dead_lettering(&self.dead(), [("x-delivery-limit", integer(NO_DELIVERY_LIMIT))]),
            },
            binding(self.undeliverable(), self.exchange(), UNDELIVERABLE_KEY),
            Entity::Queue {
                name: self.dead(),
                arguments: self.giving_up([("x-delivery-limit", integer(NO_DELIVERY_LIMIT))]),
            },
            binding(self.dead(), &self.dead(), ""),
            Entity::Queue {
                name: self.requests(),
                arguments: self.giving_up([("x-delivery-limit", integer(DELIVERY_LIMIT))]),
            },
            binding(self.requests(), self.exchange(), REQUEST_KEY),
        ];
        for tier in Tier::ALL {
            let wait = i64::try_from(tier.duration().as_millis()).unwrap_or(i64::MAX);
            entities.push(Entity::Queue {
                name: self.retry_queue(tier),
                arguments: dead_lettering(
                    self.exchange(),
                    [("x-dead-letter-routing-key", text(REQUEST_KEY)), ("x-message-ttl", integer(wait))],
                ),
            });
            entities.push(binding(self.retry_queue(tier), &self.retry(), &tier.to_string()));
        }
        if let Some(history) = &self.kept {
            entities.push(Entity::Stream { name: self.history(), arguments: stream(history) });
            entities.push(binding(self.history(), &self.results(), EVERY_OUTCOME));
        }
        entities
    }

    /// Arguments of a queue that dead-letters to [`undeliverable`](Self::undeliverable).
    fn giving_up<const N: usize>(&self, more: [(&str, AMQPValue); N]) -> FieldTable {
        let mut arguments = dead_lettering(self.exchange(), more);
        arguments.insert("x-dead-letter-routing-key".into(), text(UNDELIVERABLE_KEY));
        arguments
    }

    /// Declares everything. What already exists with the same arguments is not changed.
    ///
    /// # Errors
    /// At the first entity that differs, is refused or fails.
    pub async fn declare(&self, connection: &Connection) -> Result<(), TopologyError> {
        self.declare_all(connection, false).await
    }

    /// Checks that everything exists, without writing.
    ///
    /// # Errors
    /// At the first entity that is missing, is refused or fails.
    pub async fn check(&self, connection: &Connection) -> Result<(), TopologyError> {
        self.declare_all(connection, true).await
    }

    async fn declare_all(&self, connection: &Connection, passive: bool) -> Result<(), TopologyError> {
        let channel = connection.create_channel().await.map_err(TopologyError::NoChannel)?;
        for entity in self.entities() {
            if !passive && matches!(entity, Entity::Stream { .. }) {
                Self::declare_missing(connection, &entity).await?;
                continue;
            }
            entity.declare(&channel, passive).await.map_err(|error| entity.fault(error, !passive))?;
        }
        close(&channel).await;
        Ok(())
    }

    /// Declares a stream that does not exist. One that exists is left as it is: how long it keeps outcomes
    /// can be changed by a policy alone, and must not stop a worker.
    async fn declare_missing(connection: &Connection, stream: &Entity) -> Result<(), TopologyError> {
        for passive in [true, false] {
            // A refusal closes its channel.
            let channel = connection.create_channel().await.map_err(TopologyError::NoChannel)?;
            let declared = stream.declare(&channel, passive).await;
            close(&channel).await;
            match declared.map_err(|error| stream.fault(error, !passive)) {
                Err(TopologyError::Missing { .. }) if passive => {}
                result => return result,
            }
        }
        Ok(())
    }

    /// The stream of outcomes, whatever its arguments.
    pub fn history_entity(&self) -> Entity {
        Entity::Stream { name: self.history(), arguments: FieldTable::default() }
    }

    /// Whether the stream of outcomes exists.
    ///
    /// # Errors
    /// If that cannot be seen.
    pub async fn has_history(&self, connection: &Connection) -> Result<bool, TopologyError> {
        let stream = self.history_entity();
        let channel = connection.create_channel().await.map_err(TopologyError::NoChannel)?;
        let declared = stream.declare(&channel, true).await;
        close(&channel).await;
        match declared.map_err(|error| stream.fault(error, false)) {
            Ok(()) => Ok(true),
            Err(TopologyError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Compares entities with what exists, without changing anything. With `declare`, it declares each
    /// existing entity again, which RabbitMQ refuses if the arguments differ. Returns one result per
    /// entity.
    ///
    /// # Errors
    /// If no channel can be opened.
    pub async fn compare(
        connection: &Connection,
        entities: Vec<Entity>,
        declare: bool,
    ) -> Result<Vec<(Entity, Result<(), TopologyError>)>, TopologyError> {
        let mut results = Vec::new();
        for entity in entities {
            // A refusal closes its channel, so each entity has one of its own.
            let channel = connection.create_channel().await.map_err(TopologyError::NoChannel)?;
            let mut result = entity.declare(&channel, true).await;
            if declare && result.is_ok() && !matches!(entity, Entity::Binding { .. }) {
                result = entity.declare(&channel, false).await;
            }
            close(&channel).await;
            let result = result.map_err(|error| entity.fault(error, declare));
            results.push((entity, result));
        }
        Ok(results)
    }
}

/// Closes a channel; it may be closed already.
pub(super) async fn close(channel: &Channel) {
    if let Err(error) = channel.close(200, "done".into()).await {
        tracing::debug!(%error, "channel was closed already");
    }
}

fn quorum<const N: usize>(more: [(&str, AMQPValue); N]) -> FieldTable {
    let arguments = [("x-queue-type", text("quorum"))].into_iter().chain(more);
    let arguments = arguments.map(|(name, value)| (ShortString::from(name), value));
    FieldTable::from(arguments.collect::<BTreeMap<_, _>>())
}

/// Arguments of the stream of outcomes.
fn stream(history: &History) -> FieldTable {
    let arguments = [
        ("x-queue-type", text("stream")),
        ("x-max-age", text(&stream_age(history.max_age))),
        ("x-max-length-bytes", integer(history.max_bytes)),
        ("x-stream-max-segment-size-bytes", integer(SEGMENT_BYTES)),
        ("x-stream-filter-size-bytes", integer(FILTER_BYTES)),
    ];
    arguments
        .map(|(name, value)| (ShortString::from(name), value))
        .into_iter()
        .collect::<BTreeMap<_, _>>()
        .into()
}

/// A duration as RabbitMQ writes it: in days where it can be.
fn stream_age(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [(86_400, 'D'), (3_600, 'h'), (60, 'm')];
    let whole = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds}s"), |(unit, letter)| format!("{}{letter}", seconds / unit))
}

/// Arguments of a queue that dead-letters at least once. That needs both the strategy and the overflow
/// argument; otherwise RabbitMQ silently dead-letters at most once (RabbitMQ docs, "Quorum queues").
fn dead_lettering<const N: usize>(exchange: &str, more: [(&str, AMQPValue); N]) -> FieldTable {
    let mut arguments = quorum(more);
    for (name, value) in [
        ("x-dead-letter-exchange", exchange),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),
    ] {
        arguments.insert(name.into(), text(value));
    }
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn integer(value: i64) -> AMQPValue {
    AMQPValue::LongLongInt(value)
}
