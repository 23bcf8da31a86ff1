//! What RabbitMQ itself gave up: requests that were delivered too often or expired, and dead letters
//! that it removed from their queue because of a policy's delivery limit. Requests get a dead letter and
//! an outcome here, without decoding a body or calling Trackfinity, as either may be what crashed the
//! workers.
//!
//! They are read by our own reader, on a connection that is opened when there are any: what cannot be
//! read, or holds its place for long, costs requests nothing.

use std::{sync::Arc, time::Duration};

use lapin::{Channel, types::FieldTable};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Unsettled, Way, letter::Letter, publishing::Publishing, unreadable};
use crate::{
    broker::{
        Backoff, ConnectError, Connector, ConsumeError, Consumer,
        wire::{WireConnection, WireDelivery, WireError},
    },
    message::{Outcome, Status, raw_properties::Properties, x_death, x_death::XDeath},
};

/// How often the queue is asked whether it holds any.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Messages that are ended at once, at most.
const PREFETCH: u16 = 16;
/// The consumer's tag; it is the only one on its channel.
const CONSUMER_TAG: &str = "undeliverable";
/// The connection is closed when none has come for this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Ends what RabbitMQ gave up, for one session.
pub(super) struct Undeliverable {
    pub(super) connector: Connector,
    pub(super) way: Arc<Way>,
    pub(super) publishing: Arc<Publishing>,
    pub(super) stop: CancellationToken,
}

/// Why it has to begin anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interrupted {
    #[error(transparent)]
    Count(#[from] ConsumeError),
    #[error("RabbitMQ cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("RabbitMQ cancelled the consumer")]
    Cancelled,
    #[error("a message could not be ended: {0}")]
    Unsettled(#[from] Unsettled),
    #[error("a task panicked: {0}")]
    Panic(#[from] tokio::task::JoinError),
}

impl Undeliverable {
    /// Runs until the worker stops or the session is over; whatever goes wrong here is tried again, and
    /// ends no session.
    pub(super) async fn run(self) {
        let over = self.publishing.over.clone();
        over.run_until_cancelled(self.poll()).await;
    }

    async fn poll(&self) {
        let mut backoff = Backoff::new();
        let mut channel = None;
        while !self.stop.is_cancelled() {
            let wait = match self.look(&mut channel).await {
                Ok(()) => {
                    backoff.reset();
                    POLL_INTERVAL
                }
                Err(error) => {
                    channel = None;
                    let wait = backoff.next(fastrand::f64());
                    tokio::time::sleep(wait).await;
                    // If the connection is lost, the session has ended by now, and logs that.
                    tracing::warn!(queue = self.queue(), %error, "what RabbitMQ gave up is not ended for now");
                    // Somebody may have deleted the queue. At the session's end this ends as well.
                    self.publishing.mend().await.ok();
                    Duration::ZERO
                }
            };
            self.stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    fn queue(&self) -> &str {
        self.publishing.undeliverable()
    }

    async fn look(&self, channel: &mut Option<Channel>) -> Result<(), Interrupted> {
        let open = match channel {
            Some(channel) => channel,
            None => {
                let opened = Consumer::channel(self.publishing.session.consuming(), self.queue()).await?;
                channel.insert(opened)
            }
        };
        if Consumer::message_count(open, self.queue()).await? > 0 {
            self.consume().await?;
        }
        Ok(())
    }

    /// Ends messages until none comes any more, or the worker stops and all that was begun has ended.
    async fn consume(&self) -> Result<(), Interrupted> {
        let connection = Arc::new(self.connector.connect_wire("ends what RabbitMQ gave up").await?);
        let mut channel = connection.open_channel().await?;
        channel.qos(PREFETCH).await?;
        channel.consume(self.queue(), CONSUMER_TAG).await?;
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(ended) = tasks.join_next() => channel.acknowledge(ended??).await?,
                delivery = timeout(IDLE_TIMEOUT, channel.next()) => match delivery {
                    Ok(delivery) => {
                        let delivery = delivery?.ok_or(Interrupted::Cancelled)?;
                        let (way, publishing) = (Arc::clone(&self.way), Arc::clone(&self.publishing));
                        let connection = Arc::clone(&connection);
                        tasks.spawn(async move { end(delivery, &connection, &way, &publishing).await });
                    }
                    Err(_elapsed) if tasks.is_empty() => break,
                    Err(_elapsed) => {}
                }
            }
        }
        // Nothing is begun any more. Ends with the session, after worker.drain_timeout at most.
        channel.cancel(CONSUMER_TAG).await?;
        while let Some(ended) = tasks.join_next().await {
            channel.acknowledge(ended??).await?;
        }
        // What came while it was cancelled goes back.
        channel.close().await?;
        if let Some(connection) = Arc::into_inner(connection) {
            connection.close().await;
        }
        Ok(())
    }
}

/// Ends one message; returns what to acknowledge.
async fn end(
    delivery: WireDelivery,
    connection: &WireConnection,
    way: &Way,
    publishing: &Publishing,
) -> Result<u64, Interrupted> {
    let WireDelivery { delivery_tag, properties, body, .. } = delivery;
    let given_up = publishing.given_up(properties.lossy().headers().as_ref());
    let properties = match properties {
        Properties::Readable(properties) => properties,
        Properties::Unreadable(raw) => {
            unreadable::end(&raw, body, Some(given_up), connection, way, publishing).await?;
            return Ok(delivery_tag);
        }
    };
    let queue = publishing.undeliverable();
    let mut letter = Letter::undecoded((properties, body, delivery_tag), queue, &way.telemetry.traces);
    let ended = match given_up {
        GivenUp::DeadLetter => publishing.put_back(&letter).await,
        GivenUp::Request(death) => way.give_up(death.as_ref(), &mut letter, publishing).await,
    };
    if ended.is_err() {
        letter.span.set_error("unsettled");
    }
    Ok(ended.map(|()| delivery_tag)?)
}

/// What RabbitMQ gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// A dead letter, which has its outcome.
    DeadLetter,
    /// A request, which has none; and why, if RabbitMQ says.
    Request(Option<XDeath>),
}

impl Publishing {
    /// Decides by `x-death`, which RabbitMQ writes. Workers remove `x-death` from all they publish, so in
    /// a dead letter it can only name the queue of dead letters.
    pub(super) fn given_up(&self, headers: Option<&FieldTable>) -> GivenUp {
        let topology = self.targets.topology();
        let deaths = headers.map(x_death::all).unwrap_or_default();
        let of_request =
            |death: &&XDeath| [topology.requests(), topology.undeliverable()].contains(&death.queue);
        match deaths.iter().find(of_request) {
            Some(death) => GivenUp::Request(Some(death.clone())),
            None if deaths.first().is_some_and(|death| death.queue == topology.dead()) => GivenUp::DeadLetter,
            None => GivenUp::Request(None),
        }
    }
}

impl Way {
    /// Ends a request that RabbitMQ gave up.
    async fn give_up(
        &self,
        death: Option<&XDeath>,
        letter: &mut Letter,
        publishing: &Publishing,
    ) -> Result<(), Unsettled> {
        let (reason, detail) = match death.map(|death| death.reason.as_str()) {
            Some("delivery_limit") => (
                "delivery_limit",
                "RabbitMQ delivered it too often: it was never settled, usually because it crashes the \
                 worker (a poison message)"
                    .to_owned(),
            ),
            Some("expired") => ("expired", "it expired while it waited in the queue".to_owned()),
            Some(other) => (other, format!("RabbitMQ dropped it from the queue: {other}")),
            None => ("undeliverable", "RabbitMQ gave it up, and does not say why".to_owned()),
        };
        let attempts = letter.envelope.attempts;
        let outcome = Outcome {
            reason: Some(reason.to_owned()),
            detail: Some(detail),
            ..letter.blank_outcome(Status::Abandoned, attempts)
        };
        publishing.dead_letter(&super::death_of(&outcome, None), letter).await?;
        // The dead letter has the body: it must not come before a decoder again.
        letter.envelope.body.clear();
        publishing.outcome(&outcome, letter, 0).await
    }
}
