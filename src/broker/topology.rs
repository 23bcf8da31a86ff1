//! The exchanges, queues and bindings in RabbitMQ, and how they are declared or checked.

use std::collections::BTreeMap;

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{policy::Tier, settings::TopologyPrefix};

/// The routing key of a request on the exchange of requests.
pub const REQUEST_KEY: &str = "request";
/// The routing key, on the exchange of requests, of what RabbitMQ itself gave up.
pub const UNDELIVERABLE_KEY: &str = "undeliverable";
/// A request that takes its worker down with it is given up by RabbitMQ after this many returns to the
/// queue.
const DELIVERY_LIMIT: i64 = 20;
/// No number of browses may make RabbitMQ throw a dead letter out. RabbitMQ 4.x sets a limit of 20 where
/// none is given, and -1, which 4.x reads as none, makes 3.10 delete at the first return.
const NO_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// The names of all exchanges and queues, by their common prefix.
#[derive(Clone, Debug)]
pub struct Topology {
    prefix: String,
}

/// What is wrong with the topology, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error(
        "{kind} {name} exists with other arguments: {broker}. It is never changed or deleted from \
         here: move what it holds, delete it, and it is declared anew; or choose another \
         topology.prefix"
    )]
    Differs { kind: Kind, name: String, broker: String },
    #[error("{kind} {name} does not exist: declare it, or set broker.declare = true")]
    Missing { kind: Kind, name: String },
    #[error("{kind} {name}: RabbitMQ refuses access: {broker}. {advice}")]
    Refused { kind: Kind, name: String, broker: String, advice: &'static str },
    #[error("{kind} {name}: {source}")]
    Failed { kind: Kind, name: String, source: lapin::Error },
    #[error("no channel could be opened: {0}")]
    NoChannel(#[source] lapin::Error),
}

impl TopologyError {
    /// Whether the connection failed, rather than the topology.
    #[must_use]
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
pub enum Part {
    Exchange { name: String, kind: ExchangeKind },
    Queue { name: String, arguments: FieldTable },
    Binding { queue: String, exchange: String, routing_key: String },
}

impl Part {
    fn kind(&self) -> Kind {
        match self {
            Self::Exchange { .. } => Kind::Exchange,
            Self::Queue { .. } => Kind::Queue,
            Self::Binding { .. } => Kind::Binding,
        }
    }

    /// The name of the exchange, the queue, or the queue that is bound.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Exchange { name, .. } | Self::Queue { name, .. } => name,
            Self::Binding { queue, .. } => queue,
        }
    }

    async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        match self {
            Self::Exchange { name, kind } => {
                let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
                let name = name.as_str().into();
                channel.exchange_declare(name, kind.clone(), options, FieldTable::default()).await
            }
            Self::Queue { name, arguments } => {
                let options = QueueDeclareOptions { durable: true, ..Default::default() };
                let name = name.as_str().into();
                channel.queue_declare(name, options, arguments.clone()).await.map(|_queue| ())
            }
            Self::Binding { queue, exchange, routing_key } => {
                let (queue, exchange) = (queue.as_str().into(), exchange.as_str().into());
                let (options, key) = (QueueBindOptions::default(), routing_key.as_str().into());
                channel.queue_bind(queue, exchange, key, options, FieldTable::default()).await
            }
        }
    }

    /// Asks whether it exists, without writing. A binding can't be asked for in AMQP.
    async fn look_up(&self, channel: &Channel) -> lapin::Result<()> {
        match self {
            Self::Exchange { name, kind } => {
                let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
                let name = name.as_str().into();
                channel.exchange_declare(name, kind.clone(), options, FieldTable::default()).await
            }
            Self::Queue { name, .. } => {
                let options = QueueDeclareOptions { passive: true, ..Default::default() };
                let name = name.as_str().into();
                channel.queue_declare(name, options, FieldTable::default()).await.map(|_queue| ())
            }
            Self::Binding { .. } => Ok(()),
        }
    }

    fn fault(&self, error: lapin::Error, declared: bool) -> TopologyError {
        let (kind, name) = (self.kind(), self.name().to_owned());
        match soft_error(&error) {
            Some((AMQPSoftError::PRECONDITIONFAILED, broker)) => {
                TopologyError::Differs { kind, name, broker }
            }
            Some((AMQPSoftError::NOTFOUND, _)) => TopologyError::Missing { kind, name },
            Some((AMQPSoftError::ACCESSREFUSED, broker)) => TopologyError::Refused {
                kind,
                name,
                broker,
                advice: match self {
                    Self::Binding { .. } => {
                        "Grant the user write on the queue and read on the exchange, or declare \
                         the topology otherwise and set broker.declare = false"
                    }
                    // RabbitMQ 4.2.7 and 4.3.1 take any right for a look.
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

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// The error that closed a channel, if the broker closed it, with the broker's words.
#[must_use]
pub fn soft_error(error: &lapin::Error) -> Option<(AMQPSoftError, String)> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some((soft.clone(), error.get_message().to_string())),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

impl Topology {
    #[must_use]
    pub fn new(prefix: &TopologyPrefix) -> Self {
        Self { prefix: prefix.as_str().to_owned() }
    }

    /// The exchange producers publish requests to.
    #[must_use]
    pub fn exchange(&self) -> &str {
        &self.prefix
    }

    /// The queue the worker takes requests from.
    #[must_use]
    pub fn requests(&self) -> String {
        format!("{}.requests", self.prefix)
    }

    /// The queue of what RabbitMQ gave up: requests that were delivered too often or expired, and dead
    /// letters that a policy's delivery limit threw out.
    #[must_use]
    pub fn undeliverable(&self) -> String {
        format!("{}.undeliverable", self.prefix)
    }

    /// The exchange the worker parks requests through, with a tier's name as routing key.
    #[must_use]
    pub fn retry(&self) -> String {
        format!("{}.retry", self.prefix)
    }

    /// The queue in which requests wait for a tier's time.
    #[must_use]
    pub fn retry_queue(&self, tier: Tier) -> String {
        format!("{}.retry.{tier}", self.prefix)
    }

    /// The exchange outcomes are published to.
    #[must_use]
    pub fn results(&self) -> String {
        format!("{}.results", self.prefix)
    }

    /// The exchange and the queue of dead letters.
    #[must_use]
    pub fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// The exclusive queue by which one connection at a time takes dead letters.
    #[must_use]
    pub fn dead_lock(&self) -> String {
        format!("{}.dead.lock", self.prefix)
    }

    /// The exclusive queue that one connection at a time holds while it replays or discards.
    #[must_use]
    pub fn dead_change_lock(&self) -> String {
        format!("{}.change", self.dead_lock())
    }

    /// The queue in which plans for dead letters wait to be confirmed.
    #[must_use]
    pub fn dead_plans(&self) -> String {
        format!("{}.dead.plans", self.prefix)
    }

    /// Everything, in the order in which it can be declared: what a message is dead-lettered to
    /// stands before what it comes from.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let exchange = |name: &str, kind| Part::Exchange { name: name.to_owned(), kind };
        let binding = |queue: String, exchange: &str, key: &str| Part::Binding {
            queue,
            exchange: exchange.to_owned(),
            routing_key: key.to_owned(),
        };
        let mut parts = vec![
            exchange(self.exchange(), ExchangeKind::Direct),
            exchange(&self.retry(), ExchangeKind::Direct),
            exchange(&self.results(), ExchangeKind::Topic),
            exchange(&self.dead(), ExchangeKind::Fanout),
            Part::Queue {
                name: self.undeliverable(),
                arguments: dead_lettering(&self.dead(), [("x-delivery-limit", integer(DELIVERY_LIMIT))]),
            },
            binding(self.undeliverable(), self.exchange(), UNDELIVERABLE_KEY),
            Part::Queue {
                name: self.dead(),
                arguments: self.giving_up([("x-delivery-limit", integer(NO_DELIVERY_LIMIT))]),
            },
            binding(self.dead(), &self.dead(), ""),
            Part::Queue {
                name: self.requests(),
                arguments: self.giving_up([("x-delivery-limit", integer(DELIVERY_LIMIT))]),
            },
            binding(self.requests(), self.exchange(), REQUEST_KEY),
        ];
        for tier in Tier::ALL {
            let wait = i64::try_from(tier.duration().as_millis()).unwrap_or(i64::MAX);
            parts.push(Part::Queue {
                name: self.retry_queue(tier),
                arguments: dead_lettering(
                    self.exchange(),
                    [("x-dead-letter-routing-key", text(REQUEST_KEY)), ("x-message-ttl", integer(wait))],
                ),
            });
            parts.push(binding(self.retry_queue(tier), &self.retry(), &tier.to_string()));
        }
        parts
    }

    /// Arguments of a queue that dead-letters to [`undeliverable`](Self::undeliverable).
    fn giving_up<const N: usize>(&self, more: [(&str, AMQPValue); N]) -> FieldTable {
        let mut arguments = dead_lettering(self.exchange(), more);
        arguments.insert("x-dead-letter-routing-key".into(), text(UNDELIVERABLE_KEY));
        arguments
    }

    /// Declares everything; what exists alike stays as it is.
    ///
    /// # Errors
    /// At the first part that differs, is refused or fails.
    pub async fn declare(&self, connection: &Connection) -> Result<(), TopologyError> {
        let channel = connection.create_channel().await.map_err(TopologyError::NoChannel)?;
        for part in self.parts() {
            part.declare(&channel).await.map_err(|error| part.fault(error, true))?;
        }
        close(&channel).await;
        Ok(())
    }

    /// Checks that everything exists, without writing.
    ///
    /// # Errors
    /// At the first part that is missing, is refused or fails.
    pub async fn check(&self, connection: &Connection) -> Result<(), TopologyError> {
        let channel = connection.create_channel().await.map_err(TopologyError::NoChannel)?;
        for part in self.parts() {
            part.look_up(&channel).await.map_err(|error| part.fault(error, false))?;
        }
        close(&channel).await;
        Ok(())
    }

    /// Compares every part with what exists, without writing: with `declare`, a part that exists is
    /// declared once more, which the broker refuses if its arguments differ. Returns one result a
    /// part.
    ///
    /// # Errors
    /// If no channel can be opened.
    pub async fn compare(
        &self,
        connection: &Connection,
        declare: bool,
    ) -> Result<Vec<(Part, Result<(), TopologyError>)>, TopologyError> {
        let mut results = Vec::new();
        for part in self.parts() {
            // A refusal closes its channel, so each part has one of its own.
            let channel = connection.create_channel().await.map_err(TopologyError::NoChannel)?;
            let mut result = part.look_up(&channel).await;
            if declare && result.is_ok() && !matches!(part, Part::Binding { .. }) {
                result = part.declare(&channel).await;
            }
            close(&channel).await;
            let result = result.map_err(|error| part.fault(error, declare));
            results.push((part, result));
        }
        Ok(results)
    }
}

/// Gives a channel back. One that is broken already needs no closing.
async fn close(channel: &Channel) {
    if let Err(error) = channel.close(200, "done".into()).await {
        tracing::debug!(%error, "channel was closed already");
    }
}

fn quorum<const N: usize>(more: [(&str, AMQPValue); N]) -> FieldTable {
    let arguments = [("x-queue-type", text("quorum"))].into_iter().chain(more);
    let arguments = arguments.map(|(name, value)| (ShortString::from(name), value));
    FieldTable::from(arguments.collect::<BTreeMap<_, _>>())
}

/// Arguments of a queue that dead-letters at least once, which takes both the strategy and the
/// overflow; else it silently is at most once (RabbitMQ docs, "Quorum queues").
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
