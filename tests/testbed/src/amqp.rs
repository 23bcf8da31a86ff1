//! AMQP, over lapin: what fails is a panic.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Queue};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// A message from a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub body: Vec<u8>,
    pub properties: BasicProperties,
    pub exchange: String,
    pub routing_key: String,
    pub redelivered: bool,
}

impl Message {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&lapin::types::AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    /// A header's value if it is a text.
    pub fn text_header(&self, name: &str) -> Option<String> {
        match self.header(name)? {
            lapin::types::AMQPValue::LongString(text) => Some(text.to_string()),
            lapin::types::AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        }
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl From<lapin::message::Delivery> for Message {
    fn from(delivery: lapin::message::Delivery) -> Self {
        Self {
            body: delivery.data,
            properties: delivery.properties,
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            redelivered: delivery.redelivered,
        }
    }
}

/// A connection to one vhost. Every call panics when the broker refuses it or does not answer within 15 s.
pub struct Amqp {
    connection: Connection,
    /// One mandatory publish at a time: with more in flight a return may be attached to the wrong one.
    publishing: tokio::sync::Mutex<Channel>,
}

impl Amqp {
    pub async fn connect(url: &str) -> Self {
        let connection = answered("connect", Connection::connect(url, ConnectionProperties::default())).await;
        let publishing = confirming(&connection).await.into();
        Self { connection, publishing }
    }

    /// The connection itself, for what is not covered here.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A new channel. An error closes a channel, so take one for each thing that may fail.
    pub async fn channel(&self) -> Channel {
        answered("channel.open", self.connection.create_channel()).await
    }

    /// Publishes mandatory and waits for the confirmation.
    ///
    /// # Panics
    /// When no queue got it.
    pub async fn publish(&self, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) {
        let routed = self.try_publish(exchange, routing_key, properties, body).await;
        assert!(routed, "published to {exchange:?} with {routing_key:?}, and no queue got it");
    }

    /// Publishes mandatory and waits for the confirmation; whether a queue got it.
    pub async fn try_publish(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> bool {
        let channel = self.publishing.lock().await;
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let publish = channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties);
        let confirm = answered("basic.publish", publish).await;
        match answered("the confirmation", confirm).await {
            Confirmation::Ack(returned) => returned.is_none(),
            other => panic!("publish to {exchange:?} with {routing_key:?}: {other:?}"),
        }
    }

    /// Publishes many, all in flight at once, and waits for all confirmations.
    ///
    /// # Panics
    /// When one is not confirmed or no queue got it.
    pub async fn publish_all(
        &self,
        exchange: &str,
        routing_key: &str,
        messages: impl IntoIterator<Item = (BasicProperties, Vec<u8>)>,
    ) {
        let channel = confirming(&self.connection).await;
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let mut confirms = Vec::new();
        for (properties, body) in messages {
            let publish =
                channel.basic_publish(exchange.into(), routing_key.into(), options, &body, properties);
            confirms.push(answered("basic.publish", publish).await);
        }
        for confirm in confirms {
            match answered("the confirmation", confirm).await {
                Confirmation::Ack(None) => {}
                other => panic!("publish to {exchange:?} with {routing_key:?}: {other:?}"),
            }
        }
        close(channel).await;
    }

    /// Ready messages of a queue, by passive declaration: true at once, unlike the management API's figures.
    pub async fn ready_count(&self, queue: &str) -> u32 {
        self.declare_passively(queue).await.message_count()
    }

    /// Consumers of a queue, true at once as well.
    pub async fn consumer_count(&self, queue: &str) -> u32 {
        self.declare_passively(queue).await.consumer_count()
    }

    async fn declare_passively(&self, queue: &str) -> Queue {
        let channel = self.channel().await;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared =
            answered(queue, channel.queue_declare(queue.into(), options, FieldTable::default())).await;
        close(channel).await;
        declared
    }

    /// Whether a queue of that name exists.
    pub async fn queue_exists(&self, queue: &str) -> bool {
        let channel = self.channel().await;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await.is_ok();
        if found {
            close(channel).await;
        }
        found
    }

    /// Declares a durable queue.
    pub async fn declare_queue(&self, queue: &str, arguments: FieldTable) {
        let channel = self.channel().await;
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        answered(queue, channel.queue_declare(queue.into(), options, arguments)).await;
        close(channel).await;
    }

    /// Takes all ready messages out of a queue, in order.
    pub async fn drain(&self, queue: &str) -> Vec<Message> {
        let channel = self.channel().await;
        let mut messages = Vec::new();
        while let Some(got) =
            answered(queue, channel.basic_get(queue.into(), BasicGetOptions { no_ack: false })).await
        {
            answered("basic.ack", got.delivery.acker.ack(BasicAckOptions::default())).await;
            messages.push(got.delivery.into());
        }
        close(channel).await;
        messages
    }

    /// Binds a queue to an exchange.
    pub async fn bind(&self, queue: &str, exchange: &str, binding_key: &str) {
        let channel = self.channel().await;
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let bind = channel.queue_bind(queue.into(), exchange.into(), binding_key.into(), options, none);
        answered(queue, bind).await;
        close(channel).await;
    }

    /// Collects everything that `exchange` routes by `binding_key` from now on, in a queue that goes with the inbox.
    pub async fn consume_into(&self, exchange: &str, binding_key: &str) -> Inbox {
        let channel = self.channel().await;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let declared = channel.queue_declare("".into(), options, FieldTable::default());
        let queue = answered("queue.declare", declared).await.name().clone();
        self.bind(queue.as_str(), exchange, binding_key).await;
        Inbox::start(channel, queue.as_str()).await
    }

    /// Collects everything that reaches an existing queue, acknowledged as it comes.
    pub async fn consume_queue(&self, queue: &str) -> Inbox {
        Inbox::start(self.channel().await, queue).await
    }

    /// Closes the connection with AMQP's close.
    pub async fn close(self) {
        answered("connection.close", self.connection.close(200, "done".into())).await;
    }
}

/// What arrived at a queue. Collects until dropped.
pub struct Inbox {
    queue: String,
    messages: watch::Receiver<Vec<Message>>,
    taken: Mutex<usize>,
    collector: JoinHandle<()>,
}

impl Inbox {
    async fn start(channel: Channel, queue: &str) -> Self {
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let consume = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let mut consumer = answered(queue, consume).await;
        let (sender, messages) = watch::channel(Vec::new());
        let collector = tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                sender.send_modify(|messages| messages.push(delivery.into()));
            }
            drop(channel);
        });
        Self { queue: queue.into(), messages, taken: Mutex::new(0), collector }
    }

    /// Its queue's name, for example to be a `reply_to`.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<Message> {
        self.messages.borrow().clone()
    }

    pub fn len(&self) -> usize {
        self.messages.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The oldest message no earlier `next` returned.
    ///
    /// # Panics
    /// When none came within `deadline`.
    pub async fn next(&self, deadline: Duration) -> Message {
        let mine = {
            let mut taken = self.taken.lock().expect("no panic holds it");
            *taken += 1;
            *taken
        };
        self.wait_count(mine, deadline).await[mine - 1].clone()
    }

    /// Waits until at least `count` messages have come, and returns all there are.
    ///
    /// # Panics
    /// When fewer came within `deadline`.
    pub async fn wait_count(&self, count: usize, deadline: Duration) -> Vec<Message> {
        let mut messages = self.messages.clone();
        match timeout_at(Instant::now() + deadline, messages.wait_for(|messages| messages.len() >= count))
            .await
        {
            Ok(Ok(messages)) => messages.clone(),
            Ok(Err(_)) => panic!("the consumer ended after {} of {count} messages", self.len()),
            Err(_) => panic!("{} of {count} messages within {deadline:?}", self.len()),
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.collector.abort();
    }
}

async fn confirming(connection: &Connection) -> Channel {
    let channel = answered("channel.open", connection.create_channel()).await;
    answered("confirm.select", channel.confirm_select(ConfirmSelectOptions::default())).await;
    channel
}

async fn close(channel: Channel) {
    answered("channel.close", channel.close(200, "done".into())).await;
}

async fn answered<T>(what: &str, call: impl Future<Output = Result<T, lapin::Error>>) -> T {
    match timeout(ANSWERED_WITHIN, call).await {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => panic!("AMQP: {what}: {error}"),
        Err(_) => panic!("AMQP: {what}: no answer within {ANSWERED_WITHIN:?}"),
    }
}
