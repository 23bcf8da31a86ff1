//! Whether a right is granted: a trial that changes nothing.
//!
//! RabbitMQ checks the permission before the rest of a method. So each trial sends a method with an
//! error in it, which has no effect: RabbitMQ refuses it either for the missing permission or for the
//! error. Only the routing key of an outcome must be the right one: it is published in a transaction
//! that is never committed (decision 91).

use std::collections::BTreeMap;

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ErrorKind, Event, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueDeclareOptions,
    },
    protocol::AMQPSoftError,
    types::{AMQPValue, FieldTable},
};

use super::{DEFAULT_EXCHANGE, NO_KEY, Permission, Right};
use crate::broker::{
    errors::soft_error,
    topology::{Kind, Topology},
};

impl Right {
    /// Whether the channel's user has this right. The channel can't be used afterwards.
    pub(super) async fn is_granted(
        &self,
        connection: &Connection,
        channel: &Channel,
        topology: &Topology,
    ) -> lapin::Result<bool> {
        let answer = match (self.permission, self.kind) {
            (Permission::Configure, Kind::Exchange) => self.configure_exchange(channel).await,
            (Permission::Configure, _) => {
                let options = QueueDeclareOptions { durable: true, ..Default::default() };
                let queue = channel.queue_declare(self.name(), options, wrong("x-expires")).await;
                queue.map(|_queue| ())
            }
            (Permission::Read, Kind::Queue) => {
                let options = BasicConsumeOptions::default();
                let consumer =
                    channel.basic_consume(self.name(), "".into(), options, wrong("x-priority")).await;
                consumer.map(|_consumer| ())
            }
            (Permission::Write, Kind::Exchange) => match self.routing_key {
                Some(key) => self.publish_and_forget(connection, channel, key).await,
                None => self.publish_wrong(channel).await,
            },
            (Permission::Write, _) => {
                // Unbinding needs write on the queue and read on the exchange. RabbitMQ names which one
                // is missing.
                self.unbind(channel, &self.name, topology.exchange()).await
            }
            (Permission::Read, _) => {
                // A queue on which those who need this right may write: a worker, or an operator.
                let queue = match self.name == topology.results() {
                    true => format!("{}.replays.{NO_KEY}", topology.dead()),
                    false => topology.dead(),
                };
                self.unbind(channel, &queue, &self.name).await
            }
        };
        match answer {
            Ok(()) => Ok(true),
            Err(error) => match soft_error(&error) {
                Some((AMQPSoftError::ACCESSREFUSED, text)) => Ok(!text.contains(&self.refused())),
                Some(_) => Ok(true),
                None => Err(error),
            },
        }
    }

    fn name(&self) -> lapin::types::ShortString {
        self.name.as_str().into()
    }

    /// What RabbitMQ says where this very right is missing.
    fn refused(&self) -> String {
        match (self.routing_key, self.kind) {
            (Some(key), _) => format!("to topic '{key}' in exchange '{}'", self.name),
            (None, Kind::Exchange) => format!("to exchange '{}'", self.name),
            (None, _) => format!("to queue '{}'", self.name),
        }
    }

    async fn configure_exchange(&self, channel: &Channel) -> lapin::Result<()> {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let number = AMQPValue::LongInt(0);
        let arguments = FieldTable::from(BTreeMap::from([("alternate-exchange".into(), number)]));
        channel.exchange_declare(self.name(), ExchangeKind::Direct, options, arguments).await
    }

    /// Publishes a message with an expiration that is none.
    async fn publish_wrong(&self, channel: &Channel) -> lapin::Result<()> {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let exchange = if self.name == DEFAULT_EXCHANGE { "".into() } else { self.name() };
        let properties = BasicProperties::default().with_expiration(NO_KEY.into());
        let options = BasicPublishOptions::default();
        let confirmation = channel.basic_publish(exchange, NO_KEY.into(), options, b"", properties).await?;
        confirmation.await.map(|_confirmation| ())
    }

    /// Publishes a message in a transaction that ends with the channel: no queue receives it. RabbitMQ
    /// checks a message's routing key after all else, so no fault in it would do.
    async fn publish_and_forget(
        &self,
        connection: &Connection,
        channel: &Channel,
        key: &str,
    ) -> lapin::Result<()> {
        let mut events = connection.events_listener();
        channel.tx_select().await?;
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        channel.basic_publish(self.name(), key.into(), options, b"", properties).await?;
        // A publish has no answer of its own, this has.
        let answer = channel.basic_qos(1, BasicQosOptions::default()).await;
        let Err(error) = &answer else { return Ok(()) };
        if !matches!(error.kind(), ErrorKind::InvalidChannel(_) | ErrorKind::InvalidChannelState(..)) {
            return answer;
        }
        // RabbitMQ closed the channel before this was sent. Why, is an event; `check` limits the wait for it.
        while let Some(event) = events.next().await {
            if let Event::Error(error) = event {
                return Err(error);
            }
        }
        answer
    }

    /// Ends a binding that does not exist: none has this argument.
    async fn unbind(&self, channel: &Channel, queue: &str, exchange: &str) -> lapin::Result<()> {
        let key = self.routing_key.unwrap_or(NO_KEY);
        channel.queue_unbind(queue.into(), exchange.into(), key.into(), wrong(NO_KEY)).await
    }
}

/// An argument with a value that is none.
fn wrong(argument: &str) -> FieldTable {
    let value = AMQPValue::LongString(NO_KEY.into());
    FieldTable::from(BTreeMap::from([(argument.into(), value)]))
}
