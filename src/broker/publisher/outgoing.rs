//! A message to publish, and whether it must reach a queue.

use lapin::BasicProperties;

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    pub exchange: &'a str,
    pub routing_key: &'a str,
    pub properties: BasicProperties,
    pub body: &'a [u8],
}

/// Whether a message must reach a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mandatory {
    /// It is an error if the message reaches no queue. Uses an exclusive channel of the lane.
    Required(Lane),
    /// The result says whether the message reached a queue. All these messages share one channel.
    Reported,
    /// Not asked: RabbitMQ 4.0 returns a direct reply as unroutable although it delivers it.
    Off,
}

/// A separate set of channels for one kind of message, so that no kind can block another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Outcomes that a queue must receive, and replies.
    Outcomes,
    /// Requests: retries and replays.
    Requests,
    DeadLetters,
}

/// Exchange and routing key in one allocation, because every publish has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Route {
    text: Box<str>,
    exchange_len: usize,
}

impl Route {
    pub(super) fn new(exchange: &str, routing_key: &str) -> Self {
        let text = [exchange, routing_key].concat().into_boxed_str();
        Self { text, exchange_len: exchange.len() }
    }

    pub(super) fn exchange(&self) -> String {
        self.text.get(..self.exchange_len).unwrap_or_default().to_owned()
    }

    pub(super) fn routing_key(&self) -> String {
        self.text.get(self.exchange_len..).unwrap_or_default().to_owned()
    }
}
