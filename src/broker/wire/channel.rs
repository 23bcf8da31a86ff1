use std::{collections::VecDeque, sync::Arc};

use lapin::{
    protocol::{
        AMQPClass,
        basic::{self, AMQPMethod as Basic},
        channel::{self, AMQPMethod as ChannelMethod},
        confirm::{self, AMQPMethod as ConfirmMethod},
        queue::{self, AMQPMethod as QueueMethod},
    },
    types::ShortString,
};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::{
    WireDelivery, WireError,
    error::ANSWER_TIMEOUT,
    frame::{Event, encode_content, encode_method},
    io::Shared,
};

/// The result of publishing a mandatory message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// It is in all queues that it was routed to.
    Published,
    /// No queue receives it.
    Returned,
    /// A queue refused it.
    Refused,
}

/// A channel, which does one operation at a time. When it is closed or dropped, RabbitMQ requeues what
/// was not acknowledged.
#[derive(Debug)]
pub struct WireChannel {
    shared: Arc<Shared>,
    id: u16,
    events: UnboundedReceiver<Result<Event, WireError>>,
    /// Deliveries that arrived while the channel waited for something else.
    deliveries: VecDeque<WireDelivery>,
    /// Whether RabbitMQ has cancelled a consumer, for example because its queue was deleted.
    cancelled: bool,
    prefetch: u16,
    /// Whether publishes are confirmed.
    confirms: bool,
}

impl WireChannel {
    pub(super) async fn open(shared: Arc<Shared>) -> Result<Self, WireError> {
        let (sender, events) = mpsc::unbounded_channel();
        let id = shared.add_channel(sender)?;
        let mut opened = Self {
            shared,
            id,
            events,
            deliveries: VecDeque::new(),
            cancelled: false,
            prefetch: 0,
            confirms: false,
        };
        let open = AMQPClass::Channel(ChannelMethod::Open(channel::Open {}));
        opened.call(&open, |answer| matches!(answer, AMQPClass::Channel(ChannelMethod::OpenOk(_)))).await?;
        Ok(opened)
    }

    /// How many messages are ready in a queue at this moment.
    ///
    /// # Errors
    /// If the queue does not exist, or the channel or the connection is lost.
    pub async fn message_count(&mut self, queue: &str) -> Result<usize, WireError> {
        let declare = queue::Declare { queue: short(queue)?, passive: true, ..Default::default() };
        let declare = AMQPClass::Queue(QueueMethod::Declare(declare));
        let mut count = 0;
        let is_answer = |answer: &AMQPClass| match answer {
            AMQPClass::Queue(QueueMethod::DeclareOk(declared)) => {
                count = declared.message_count;
                true
            }
            _ => false,
        };
        self.call(&declare, is_answer).await?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Sets the prefetch of consumers that are started later.
    ///
    /// # Errors
    /// If the channel or the connection is lost.
    pub async fn qos(&mut self, prefetch: u16) -> Result<(), WireError> {
        self.prefetch = prefetch;
        self.round_trip().await
    }

    /// Starts a consumer. Its tag must be unique on the channel.
    ///
    /// # Errors
    /// If the queue does not exist or may not be read, or the connection is lost.
    pub async fn consume(&mut self, queue: &str, tag: &str) -> Result<(), WireError> {
        let consume =
            basic::Consume { queue: short(queue)?, consumer_tag: short(tag)?, ..Default::default() };
        let consume = AMQPClass::Basic(Basic::Consume(consume));
        self.call(&consume, |answer| matches!(answer, AMQPClass::Basic(Basic::ConsumeOk(_)))).await
    }

    /// From now on deliveries for which this holds come without their bodies, which are not kept in memory.
    pub fn leave_bodies(&self, leaves: impl Fn(&WireDelivery) -> bool + Send + 'static) {
        self.shared.leave_bodies(self.id, Box::new(leaves));
    }

    /// Cancels a consumer. [`next`](Self::next) still returns what was delivered before.
    ///
    /// # Errors
    /// If the channel or the connection is lost.
    pub async fn cancel(&mut self, tag: &str) -> Result<(), WireError> {
        let cancel = basic::Cancel { consumer_tag: short(tag)?, nowait: false };
        let cancel = AMQPClass::Basic(Basic::Cancel(cancel));
        self.call(&cancel, |answer| matches!(answer, AMQPClass::Basic(Basic::CancelOk(_)))).await
    }

    /// Waits for the next delivery while the connection is open; `None` when RabbitMQ has cancelled the
    /// consumer. Cancel safe.
    ///
    /// # Errors
    /// If the channel or the connection is lost.
    pub async fn next(&mut self) -> Result<Option<WireDelivery>, WireError> {
        loop {
            if let Some(delivery) = self.buffered() {
                return Ok(Some(delivery));
            }
            if self.cancelled {
                return Ok(None);
            }
            let event = self.event().await?;
            self.record(event);
        }
    }

    /// A delivery that has already arrived.
    pub fn buffered(&mut self) -> Option<WireDelivery> {
        self.deliveries.pop_front()
    }

    /// Acknowledges a delivery, and waits until RabbitMQ's channel has received that.
    ///
    /// # Errors
    /// If the channel or the connection is lost. Then it may or may not have been acknowledged.
    pub async fn acknowledge(&mut self, delivery_tag: u64) -> Result<(), WireError> {
        let ack = basic::Ack { delivery_tag, multiple: false };
        self.send(&AMQPClass::Basic(Basic::Ack(ack)))?;
        // RabbitMQ processes a channel's methods in their order, and this one needs no permission.
        self.round_trip().await
    }

    /// Requeues deliveries one by one, in this order, and waits until RabbitMQ has processed that.
    ///
    /// # Errors
    /// If the channel or the connection is lost. Then RabbitMQ requeues all of them.
    pub async fn requeue(&mut self, delivery_tags: impl Iterator<Item = u64>) -> Result<(), WireError> {
        let mut bytes = Vec::new();
        for delivery_tag in delivery_tags {
            let nack = basic::Nack { delivery_tag, multiple: false, requeue: true };
            bytes.extend(encode_method(self.id, &AMQPClass::Basic(Basic::Nack(nack)))?);
        }
        self.shared.send(bytes)?;
        self.round_trip().await
    }

    /// Rejects a delivery, which RabbitMQ dead-letters, and waits until RabbitMQ's channel has received that.
    ///
    /// # Errors
    /// If the channel or the connection is lost. Then it may or may not have been rejected.
    pub async fn reject(&mut self, delivery_tag: u64) -> Result<(), WireError> {
        let reject = basic::Reject { delivery_tag, requeue: false };
        self.send(&AMQPClass::Basic(Basic::Reject(reject)))?;
        self.round_trip().await
    }

    /// Publishes a mandatory message with these property bytes, and waits for its confirm. Properties
    /// that are larger than a frame end the connection.
    ///
    /// # Errors
    /// If it is unknown whether the message was published.
    pub async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &str,
        properties: &[u8],
        body: &[u8],
    ) -> Result<Confirm, WireError> {
        if !self.confirms {
            let select = AMQPClass::Confirm(ConfirmMethod::Select(confirm::Select { nowait: false }));
            self.call(&select, |answer| matches!(answer, AMQPClass::Confirm(ConfirmMethod::SelectOk(_))))
                .await?;
            self.confirms = true;
        }
        let publish = basic::Publish {
            exchange: short(exchange)?,
            routing_key: short(routing_key)?,
            mandatory: true,
            immediate: false,
        };
        let mut bytes = encode_method(self.id, &AMQPClass::Basic(Basic::Publish(publish)))?;
        let frame_max = usize::try_from(self.shared.limits.frame_max).unwrap_or(usize::MAX);
        bytes.extend(encode_content(self.id, properties, body, frame_max));
        self.shared.send(bytes)?;
        let mut returned = false;
        loop {
            // No time limit while the connection is open: publishing again would make a copy.
            match self.event().await? {
                Event::Returned => returned = true,
                Event::Method(AMQPClass::Basic(Basic::Ack(_))) if returned => return Ok(Confirm::Returned),
                Event::Method(AMQPClass::Basic(Basic::Ack(_))) => return Ok(Confirm::Published),
                Event::Method(AMQPClass::Basic(Basic::Nack(_))) => return Ok(Confirm::Refused),
                event => self.record(event),
            }
        }
    }

    /// Closes the channel. RabbitMQ requeues what was not acknowledged, a quorum queue some time after this returns.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn close(mut self) -> Result<(), WireError> {
        let close = close();
        self.call(&close, |answer| matches!(answer, AMQPClass::Channel(ChannelMethod::CloseOk(_)))).await
    }

    async fn round_trip(&mut self) -> Result<(), WireError> {
        let qos = basic::Qos { prefetch_count: self.prefetch, global: false };
        let qos = AMQPClass::Basic(Basic::Qos(qos));
        self.call(&qos, |answer| matches!(answer, AMQPClass::Basic(Basic::QosOk(_)))).await
    }

    fn send(&self, method: &AMQPClass) -> Result<(), WireError> {
        self.shared.send(encode_method(self.id, method)?)
    }

    /// Sends a method and waits for its answer.
    async fn call(
        &mut self,
        method: &AMQPClass,
        mut is_answer: impl FnMut(&AMQPClass) -> bool,
    ) -> Result<(), WireError> {
        self.send(method)?;
        loop {
            match self.answer().await? {
                Event::Method(method) if is_answer(&method) => return Ok(()),
                event => self.record(event),
            }
        }
    }

    /// The next event, within `ANSWER_TIMEOUT`. Without a limit while RabbitMQ blocks the connection,
    /// because it then answers nothing.
    async fn answer(&mut self) -> Result<Event, WireError> {
        loop {
            match tokio::time::timeout(ANSWER_TIMEOUT, self.events.recv()).await {
                Ok(Some(event)) => return event,
                Ok(None) => return Err(self.shared.end()),
                Err(_elapsed) if self.shared.is_blocked() => {}
                Err(_elapsed) => return Err(WireError::Timeout),
            }
        }
    }

    async fn event(&mut self) -> Result<Event, WireError> {
        match self.events.recv().await {
            Some(event) => event,
            None => Err(self.shared.end()),
        }
    }

    fn record(&mut self, event: Event) {
        match event {
            Event::Delivery(delivery) => self.deliveries.push_back(*delivery),
            Event::Method(AMQPClass::Basic(Basic::Cancel(_))) => self.cancelled = true,
            Event::Method(_) | Event::Returned => {}
        }
    }
}

impl Drop for WireChannel {
    fn drop(&mut self) {
        if self.shared.release_channel(self.id) {
            // If the connection is lost, so is the channel.
            self.send(&close()).ok();
        }
    }
}

fn close() -> AMQPClass {
    let close = channel::Close { reply_code: 200, reply_text: "done".into(), class_id: 0, method_id: 0 };
    AMQPClass::Channel(ChannelMethod::Close(close))
}

fn short(text: &str) -> Result<ShortString, WireError> {
    ShortString::try_new(text).map_err(|_| WireError::Lost("a name is longer than 255 bytes".to_owned()))
}
