//! Messages whose AMQP properties lapin cannot read: the first one ends the connection that it is
//! delivered on. The next session takes it out of the queue by a reader of our own before it consumes,
//! gives those around it back, and ends it as `invalid`, `unreadable` while others go on.

use std::{sync::Arc, time::Duration};

use lapin::types::AMQPValue;
use tokio::sync::oneshot;

use super::{
    Unsettled, Way, letter::Letter, publish_health::PublishKind, publishing::Publishing,
    undeliverable::GivenUp,
};
use crate::{
    broker::{
        Backoff, ConnectError, Connector, PublishError,
        browse::{Bounds, BrowsedMessage, QueueBrowser},
        wire::{Confirm, WireConnection, WireError},
    },
    message::{
        Fault, Outcome, Status, headers,
        raw_properties::{Properties, RawProperties},
    },
};

/// How long others wait until the messages that cannot be read are out of their way.
const ISOLATION_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one browse for them may take.
const BROWSE_TIMEOUT: Duration = Duration::from_millis(700);
/// RabbitMQ requeues what a lost connection held a moment after it: it is browsed again this often.
const BROWSES: usize = 3;
const BROWSE_INTERVAL: Duration = Duration::from_millis(100);

/// Takes messages that cannot be read out of the queues.
pub(super) struct Unreadable {
    pub(super) connector: Connector,
    pub(super) way: Arc<Way>,
    pub(super) publishing: Arc<Publishing>,
    /// Messages at the head of a queue that are looked through: all that the last session held are there.
    pub(super) window: usize,
}

/// Why a message could not be taken out.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Unsettled(#[from] Unsettled),
}

impl Unreadable {
    /// Returns when the messages are held aside, or after 2 s. They are ended in the background, for as
    /// long as the session lives.
    pub(super) async fn isolate(self) {
        let (isolated, is_isolated) = oneshot::channel();
        let (over, background) = (self.publishing.over.clone(), self.publishing.background.clone());
        background.spawn(async move {
            if let Some(Err(error)) = over.run_until_cancelled(self.take_out(isolated)).await {
                tracing::warn!(%error, "messages that cannot be read stay in their queue for now");
            }
        });
        // Dropped where it failed; then the session begins, and may end as the last one did.
        if tokio::time::timeout(ISOLATION_TIMEOUT, is_isolated).await.is_err() {
            tracing::warn!("messages that cannot be read were not found in time");
        }
    }

    async fn take_out(&self, isolated: oneshot::Sender<()>) -> Result<(), Stuck> {
        let connection = self.connector.connect_wire("takes out what cannot be read").await?;
        let mut found = Vec::new();
        for browse in 0..BROWSES {
            if browse > 0 {
                tokio::time::sleep(BROWSE_INTERVAL).await;
            }
            for queue in [self.publishing.queue().as_ref(), self.publishing.undeliverable()] {
                let (browser, messages) = self.browse(&connection, queue).await?;
                if !messages.is_empty() {
                    found.push((browser, messages));
                }
            }
            if !found.is_empty() {
                break;
            }
        }
        // Nobody waits any more if it took too long.
        isolated.send(()).ok();
        for (mut browser, messages) in found {
            for BrowsedMessage { delivery, tag } in messages {
                if let Properties::Unreadable(raw) = &delivery.properties {
                    let queue = browser.queue().to_owned();
                    self.end(&connection, raw, delivery.body, &queue).await?;
                    browser.acknowledge(tag).await?;
                }
            }
            browser.release().await?;
        }
        connection.close().await;
        Ok(())
    }

    /// Holds the messages at the head of a queue that cannot be read; the others go back.
    async fn browse<'a>(
        &self,
        connection: &'a WireConnection,
        queue: &str,
    ) -> Result<(QueueBrowser<'a>, Vec<BrowsedMessage>), WireError> {
        let bounds = Bounds { messages: self.window, time: BROWSE_TIMEOUT };
        let mut browser = QueueBrowser::open(connection, queue, bounds).await?;
        let (mut unreadable, mut others) = (Vec::new(), Vec::new());
        while let Some(message) = browser.next().await? {
            match message.delivery.properties {
                Properties::Unreadable(_) => unreadable.push(message),
                Properties::Readable(_) => others.push(message.tag),
            }
        }
        browser.requeue(others).await?;
        Ok((browser, unreadable))
    }

    /// Publishes the dead letter, and then the outcome, of one message.
    async fn end(
        &self,
        connection: &WireConnection,
        raw: &RawProperties,
        body: Vec<u8>,
        queue: &str,
    ) -> Result<(), Stuck> {
        let is_given_up = queue == self.publishing.undeliverable();
        let given_up = is_given_up.then(|| self.publishing.given_up(raw.lossy().headers().as_ref()));
        if given_up == Some(GivenUp::DeadLetter) {
            return self.publish_dead_letter(connection, raw, &own_headers(raw), &body).await;
        }
        let expired = match given_up {
            Some(GivenUp::Request(Some(death))) => death.reason == "expired",
            _ => false,
        };
        let detail = format!("the message's AMQP properties cannot be read: {}", raw.flaw());
        let traces = &self.way.telemetry.traces;
        let letter = Letter::unreadable(raw.readable(), body, queue, traces, detail.clone());
        let request = letter.envelope.request.as_ref().err().and_then(|fault: &Fault| fault.readable.clone());
        let attempts = letter.envelope.attempts;
        let outcome = match expired {
            true => Outcome {
                request,
                reason: Some("expired".to_owned()),
                detail: Some("it expired while it waited in the queue".to_owned()),
                ..letter.blank_outcome(Status::Abandoned, attempts)
            },
            false => Outcome {
                request,
                reason: Some("unreadable".to_owned()),
                detail: Some(detail),
                ..letter.blank_outcome(Status::Invalid, attempts)
            },
        };
        let death = super::death_of(&outcome, None);
        let added = death.headers(&letter.envelope, letter.new_trace());
        self.publish_dead_letter(connection, raw, &added, &letter.envelope.body).await?;
        self.way.telemetry.metrics.dead_lettered(outcome.status.as_str());
        Ok(self.publishing.outcome(&outcome, &letter, 0).await?)
    }

    /// Publishes until it is confirmed. Ends with the session, or after RabbitMQ's `consumer_timeout`.
    async fn publish_dead_letter(
        &self,
        connection: &WireConnection,
        raw: &RawProperties,
        added: &[(&str, AMQPValue)],
        body: &[u8],
    ) -> Result<(), Stuck> {
        let max_len = self.publishing.publisher().max_properties_len();
        let properties = raw.copy(added, max_len);
        let exchange = self.publishing.dead();
        let mut backoff = Backoff::new();
        let mut channel = connection.open_channel().await?;
        loop {
            let error = match channel.publish(exchange, "", &properties, body).await? {
                Confirm::Published => {
                    self.publishing.targets.health.published(PublishKind::DeadLetter);
                    channel.close().await?;
                    return Ok(());
                }
                Confirm::Refused => PublishError::Refused { exchange: exchange.to_owned() },
                Confirm::Returned => {
                    PublishError::Unroutable { exchange: exchange.to_owned(), routing_key: String::new() }
                }
            };
            self.publishing.overcome(error, PublishKind::DeadLetter, &mut backoff).await?;
        }
    }
}

/// The headers that a worker wrote.
fn own_headers(raw: &RawProperties) -> Vec<(&str, AMQPValue)> {
    let headers = raw.lossy().headers().iter().flatten();
    let own = headers.filter(|(name, _)| headers::is_own(name.as_str()));
    own.map(|(name, value)| (name.as_str(), value.clone())).collect()
}
