//! Messages whose AMQP properties lapin cannot read: the first one ends the connection that it is
//! delivered on. The next session takes it out of the queue by a reader of our own before it consumes,
//! gives those around it back, and ends it as `invalid`, `unreadable` while others go on.

use std::{pin::pin, sync::Arc, time::Duration};

use lapin::types::AMQPValue;
use tokio::sync::oneshot;

use super::{
    Way,
    letter::Letter,
    publish_health::PublishKind,
    publishing::Publishing,
    supervisor::FINISH_TIMEOUT,
    undeliverable::{GivenUp, Interrupted},
};
use crate::{
    broker::{
        Backoff, Connector, PublishError,
        browse::{Bounds, BrowsedMessage, QueueBrowser},
        wire::{Confirm, WireConnection, WireError},
    },
    message::{
        Outcome, Status, headers,
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

impl Unreadable {
    /// Returns when the messages are held aside, or after 2 s. They are ended in the background, for as
    /// long as the session lives. When it is over, the message being ended is finished first: the next
    /// session would otherwise dead-letter it a second time.
    pub(super) async fn isolate(self) {
        let (isolated, is_isolated) = oneshot::channel();
        let (over, background) = (self.publishing.over.clone(), self.publishing.background.clone());
        background.spawn(async move {
            let mut taking_out = pin!(self.take_out(isolated));
            let taken_out = match over.run_until_cancelled(&mut taking_out).await {
                Some(taken_out) => Some(taken_out),
                None => tokio::time::timeout(FINISH_TIMEOUT, taking_out).await.ok(),
            };
            if let Some(Err(error)) = taken_out {
                tracing::warn!(%error, "messages that cannot be read stay in their queue for now");
            }
        });
        // Dropped where it failed; then the session begins, and may end as the last one did.
        if tokio::time::timeout(ISOLATION_TIMEOUT, is_isolated).await.is_err() {
            tracing::warn!("messages that cannot be read were not found in time");
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
        // Nobody waits any more if it took too long.
        isolated.send(()).ok();
        if let Some((mut browser, messages)) = found {
            for BrowsedMessage { delivery, tag } in messages {
                if self.publishing.over.is_cancelled() {
                    break;
                }
                if let Properties::Unreadable(raw) = &delivery.properties {
                    end(raw, delivery.body, None, &connection, &self.way, &self.publishing).await?;
                    browser.acknowledge(tag).await?;
                }
            }
            browser.release().await?;
        }
        connection.close().await;
        Ok(())
    }

    /// Holds the messages at the head of the queue that cannot be read; the others go back.
    async fn browse<'a>(
        &self,
        connection: &'a WireConnection,
    ) -> Result<(QueueBrowser<'a>, Vec<BrowsedMessage>), WireError> {
        let bounds = Bounds { messages: self.window, time: BROWSE_TIMEOUT };
        let mut browser = QueueBrowser::open(connection, self.publishing.queue(), bounds).await?;
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
}

/// Publishes the dead letter, and then the outcome, of one message that cannot be read. `given_up`: what
/// RabbitMQ gave up, if it comes from there.
pub(super) async fn end(
    raw: &RawProperties,
    body: Vec<u8>,
    given_up: Option<GivenUp>,
    connection: &WireConnection,
    way: &Way,
    publishing: &Publishing,
) -> Result<(), Interrupted> {
    let death = match given_up {
        Some(GivenUp::DeadLetter) => {
            return publish_dead_letter(raw, &own_headers(raw), &body, connection, publishing).await;
        }
        Some(GivenUp::Request(death)) => death,
        None => None,
    };
    let detail = format!("the message's AMQP properties cannot be read: {}", raw.flaw());
    let (status, reason, detail) = match death {
        Some(death) if death.reason == "expired" => {
            (Status::Abandoned, "expired", "it expired while it waited in the queue".to_owned())
        }
        _ => (Status::Invalid, "unreadable", detail),
    };
    let traces = &way.telemetry.traces;
    let letter = Letter::unreadable(raw.readable(), body, publishing.queue(), traces, detail.clone());
    let outcome = Outcome {
        request: letter.envelope.request.as_ref().err().and_then(|fault| fault.readable.clone()),
        reason: Some(reason.to_owned()),
        detail: Some(detail),
        ..letter.blank_outcome(status, letter.envelope.attempts)
    };
    let added = super::death_of(&outcome, None).headers(&letter.envelope, letter.new_trace());
    publish_dead_letter(raw, &added, &letter.envelope.body, connection, publishing).await?;
    way.telemetry.metrics.dead_lettered(outcome.status.as_str());
    Ok(publishing.outcome(&outcome, &letter, 0).await?)
}

/// Publishes until it is confirmed. Ends with the session, or after RabbitMQ's `consumer_timeout`.
async fn publish_dead_letter(
    raw: &RawProperties,
    added: &[(&str, AMQPValue)],
    body: &[u8],
    connection: &WireConnection,
    publishing: &Publishing,
) -> Result<(), Interrupted> {
    let properties = raw.copy(added, publishing.publisher().max_properties_len());
    let exchange = publishing.dead();
    let mut backoff = Backoff::new();
    let mut channel = connection.open_channel().await?;
    loop {
        let error = match channel.publish(exchange, "", &properties, body).await? {
            Confirm::Published => {
                publishing.targets.health.published(PublishKind::DeadLetter);
                channel.close().await?;
                return Ok(());
            }
            Confirm::Refused => PublishError::Refused { exchange: exchange.to_owned() },
            Confirm::Returned => {
                PublishError::Unroutable { exchange: exchange.to_owned(), routing_key: String::new() }
            }
        };
        publishing.overcome(error, PublishKind::DeadLetter, &mut backoff).await?;
    }
}

/// The headers that a worker wrote.
fn own_headers(raw: &RawProperties) -> Vec<(&str, AMQPValue)> {
    let headers = raw.lossy().headers().iter().flatten();
    let own = headers.filter(|(name, _)| headers::is_own(name.as_str()));
    own.map(|(name, value)| (name.as_str(), value.clone())).collect()
}
