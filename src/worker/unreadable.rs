//! Messages whose AMQP properties lapin cannot read: the first one closes the connection that it is
//! delivered on. The next session, before it consumes, takes them out of the queue with this
//! project's own AMQP reader, and requeues the messages around them. It settles them as `invalid`,
//! `unreadable` while it already consumes.

use std::{pin::pin, sync::Arc, time::Duration};

use lapin::types::AMQPValue;
use tokio::sync::oneshot;

use super::{
    given_up::{GivenUp, Interrupted},
    handler::Handler,
    incoming::Incoming,
    publish::{MessagePublisher, SessionPublisher, health::PublishKind},
    session_end::FINISH_TIMEOUT,
};
use crate::{
    broker::{
        Backoff, Connector, PublishError,
        browse::{Bounds, BrowsedMessage, QueueBrowser},
        wire::{Confirm, WireConnection, WireError},
    },
    message::{
        Timestamp, headers,
        raw_properties::{Properties, RawProperties},
    },
    settle::{self, Publication},
};

/// How long the start of consuming waits until the messages that cannot be read are out of the
/// queue.
const ISOLATION_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one browse for them may take.
const BROWSE_TIMEOUT: Duration = Duration::from_millis(700);
/// How often to browse: RabbitMQ requeues the deliveries of a lost connection with a delay.
const BROWSES: usize = 3;
const BROWSE_INTERVAL: Duration = Duration::from_millis(100);

/// Takes messages that cannot be read out of the queues.
pub(super) struct Unreadable {
    pub(super) connector: Connector,
    pub(super) handler: Arc<Handler>,
    pub(super) publisher: Arc<SessionPublisher>,
    /// How many messages at the head of the queue are browsed. All deliveries of the last session
    /// are there.
    pub(super) window: usize,
}

impl Unreadable {
    /// Returns when the messages are out of the queue, or after 2 s. A background task settles them
    /// until the session ends. Then it first finishes the message it is settling: otherwise the
    /// next session would dead-letter that message a second time.
    pub(super) async fn isolate(self) {
        let (isolated, is_isolated) = oneshot::channel();
        let publisher = Arc::clone(&self.publisher);
        let (session_over, background) = (publisher.session_over.clone(), publisher.background.clone());
        background.spawn(async move {
            let mut taking_out = pin!(self.take_out(isolated));
            let taken_out = match session_over.run_until_cancelled(&mut taking_out).await {
                Some(taken_out) => Some(taken_out),
                None => tokio::time::timeout(FINISH_TIMEOUT, taking_out).await.ok(),
            };
            if let Some(Err(error)) = taken_out
                && let Some(left_out) =
                    publisher.config.throttle.due(&("unreadable_failed", error.to_string()))
            {
                tracing::warn!(
                    event = "unreadable_failed",
                    %error,
                    left_out,
                    "messages whose AMQP properties cannot be read stay in the queue, and are tried again"
                );
            }
        });
        // On a failure the sender is dropped, and this ends at once. Then the session may fail like
        // the last one.
        if tokio::time::timeout(ISOLATION_TIMEOUT, is_isolated).await.is_err() {
            tracing::debug!("messages that cannot be read were not found in time");
        }
    }

    async fn take_out(&self, isolated: oneshot::Sender<()>) -> Result<(), Interrupted> {
        let connection = self.connector.connect_wire("takes out what cannot be read").await?;
        let mut found = None;
        for browse in 0..BROWSES {
            if browse > 0 {
                tokio::time::sleep(BROWSE_INTERVAL).await;
            }
            let (browser, messages) = self.browse(&connection).await?;
            if !messages.is_empty() {
                found = Some((browser, messages));
                break;
            }
        }
        // No one waits any more if this took too long.
        isolated.send(()).ok();
        if let Some((mut browser, messages)) = found {
            for BrowsedMessage { delivery, tag } in messages {
                if self.publisher.session_over.is_cancelled() {
                    break;
                }
                if let Properties::Unreadable(raw) = &delivery.properties {
                    settle(raw, delivery.body, None, &connection, &self.handler, &self.publisher).await?;
                    browser.acknowledge(tag).await?;
                }
            }
            browser.release(&connection).await?;
        }
        connection.close().await;
        Ok(())
    }

    /// Keeps the messages at the head of the queue that cannot be read, unacknowledged; requeues
    /// the others.
    async fn browse(
        &self,
        connection: &WireConnection,
    ) -> Result<(QueueBrowser, Vec<BrowsedMessage>), WireError> {
        let bounds = Bounds { messages: self.window, time: BROWSE_TIMEOUT };
        let mut browser = QueueBrowser::open(connection, self.publisher.queue(), bounds).await?;
        let (mut unreadable, mut others) = (Vec::new(), Vec::new());
        while let Some(message) = browser.next().await? {
            match message.delivery.properties {
                Properties::Unreadable(_) => unreadable.push(message),
                Properties::Readable(_) => others.push(message.tag),
            }
        }
        browser.requeue(&others).await?;
        Ok((browser, unreadable))
    }
}

/// Publishes the dead letter, and then the outcome, of one message that cannot be read. `given_up`:
/// if the message comes from the queue of what RabbitMQ gave up, what it is.
pub(super) async fn settle(
    raw: &RawProperties,
    body: Vec<u8>,
    given_up: Option<GivenUp>,
    connection: &WireConnection,
    handler: &Handler,
    publisher: &SessionPublisher,
) -> Result<(), Interrupted> {
    let death = match given_up {
        Some(GivenUp::DeadLetter) => {
            publish_dead_letter(raw, &own_headers(raw), &body, connection, publisher).await?;
            publisher.warn_restored();
            return Ok(());
        }
        Some(GivenUp::Request(death)) => death,
        None => None,
    };
    let detail = format!("the message's AMQP properties cannot be read: {}", raw.flaw());
    let traces = &handler.telemetry.traces;
    let incoming = Incoming::unreadable(raw.readable(), body, publisher.queue(), traces, detail);
    let now = Timestamp::now();
    let is_expired = death.as_ref().is_some_and(|death| death.reason == "expired");
    let publications = match &incoming.envelope.request {
        Err(fault) if !is_expired => settle::rejected(fault, &incoming.envelope, now),
        _ => settle::given_up(death.as_ref(), &incoming.envelope, now),
    };
    for publication in &publications {
        match publication {
            Publication::DeadLetter(info) => {
                let added = info.headers(&incoming.envelope, incoming.new_trace());
                publish_dead_letter(raw, &added, &incoming.envelope.body, connection, publisher).await?;
                handler.telemetry.metrics.dead_lettered(info.status.as_str());
            }
            other => MessagePublisher::new(publisher, &incoming).publish(other).await?,
        }
    }
    Ok(())
}

/// Publishes until it is confirmed. Ends with the session, or after RabbitMQ's `consumer_timeout`.
async fn publish_dead_letter(
    raw: &RawProperties,
    added: &[(&str, AMQPValue)],
    body: &[u8],
    connection: &WireConnection,
    publisher: &SessionPublisher,
) -> Result<(), Interrupted> {
    let properties = raw.copy(added, publisher.max_properties_len());
    let exchange = publisher.dead();
    let mut backoff = Backoff::new();
    let mut channel = connection.open_channel().await?;
    loop {
        let error = match channel.publish(exchange, "", &properties, body).await? {
            Confirm::Published => {
                publisher.config.health.published(PublishKind::DeadLetter);
                channel.close().await?;
                return Ok(());
            }
            Confirm::Refused => PublishError::Refused { exchange: exchange.to_owned() },
            Confirm::Returned => {
                PublishError::Unroutable { exchange: exchange.to_owned(), routing_key: String::new() }
            }
        };
        publisher.back_off(error, PublishKind::DeadLetter, &mut backoff).await?;
    }
}

/// The headers that a worker wrote.
fn own_headers(raw: &RawProperties) -> Vec<(&str, AMQPValue)> {
    let headers = raw.lossy().headers().iter().flatten();
    let own = headers.filter(|(name, _)| headers::is_own(name.as_str()));
    own.map(|(name, value)| (name.as_str(), value.clone())).collect()
}
