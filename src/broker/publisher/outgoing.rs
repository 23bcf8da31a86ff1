//! What is published, and how.

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
    /// A message that reaches no queue was not published. Has a channel of the lane to itself.
    Required(Lane),
    /// A message that reaches no queue was published all the same, and the caller learns of it.
    /// Shares one channel with all others of its kind.
    Reported,
    /// RabbitMQ is not asked: 4.0 calls a direct reply unroutable that it delivered.
    Off,
}

/// Channels that only publishes of one kind use, so that no kind can use up those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Outcomes that a queue must receive, and replies.
    Outcomes,
    /// Requests: retries and replays.
    Requests,
    DeadLetters,
}

/// Where a message is published to. One allocation: every publish has one.
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
