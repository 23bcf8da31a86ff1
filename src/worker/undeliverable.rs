//! What RabbitMQ itself gave up: requests that were delivered too often or expired, and dead letters
//! that it removed from their queue because of a policy's delivery limit. Requests get a dead letter and
//! an outcome here, without decoding a body or calling Trackfinity, as either may be what crashed the
//! workers.
//!
//! A channel and a prefetch of their own: whatever holds them up, requests go on.

use std::{sync::Arc, time::Duration};

use lapin::{Channel, message::Delivery, options::BasicAckOptions, types::FieldTable};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Unsettled, Way, letter::Letter, publishing::Publishing};
use crate::{
    broker::{Backoff, ConsumeError, Consumer},
    message::{Outcome, Status, x_death, x_death::XDeath},
};

/// Messages that are ended at once, at most.
const PREFETCH: u16 = 16;
/// How long the last acknowledgements may take to arrive.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Ends what RabbitMQ gave up, for one session.
pub(super) struct Undeliverable {
    pub(super) way: Arc<Way>,
    pub(super) publishing: Arc<Publishing>,
    pub(super) stop: CancellationToken,
}

/// Why consuming has to begin anew.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    #[error("RabbitMQ cancelled the consumer")]
    Cancelled,
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
    #[error("a message could not be ended: {0}")]
    Unsettled(#[from] Unsettled),
    #[error("a task panicked: {0}")]
    Panic(#[from] tokio::task::JoinError),
}

impl Undeliverable {
    /// Runs until the session is over; whatever goes wrong here is tried again, and ends no session.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::new();
        let over = self.publishing.over.clone();
        loop {
            let began = Instant::now();
            let error = match over.run_until_cancelled(self.consume()).await {
                None | Some(Ok(())) => return,
                Some(Err(error)) => error,
            };
            if began.elapsed() > Duration::from_secs(60) {
                backoff.reset();
            }
            let wait = backoff.next(fastrand::f64());
            // If the connection is lost, the session ends and logs that.
            if over.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            tracing::warn!(queue = self.queue(), %error, "what RabbitMQ gave up is not ended for now");
            // Somebody may have deleted the queue.
            if over.run_until_cancelled(self.publishing.mend()).await.is_none() {
                return;
            }
        }
    }

    fn queue(&self) -> &str {
        self.publishing.undeliverable()
    }

    /// `Ok` when the worker stops and all that was begun has ended.
    async fn consume(&self) -> Result<(), Interrupted> {
        let channel = Consumer::channel(self.publishing.session.consuming(), self.queue()).await?;
        let mut consumer = Consumer::start(&channel, self.queue(), PREFETCH).await?;
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(ended) = tasks.join_next() => acknowledge(&channel, ended??).await?,
                delivery = consumer.next() => {
                    let delivery = delivery.ok_or(Interrupted::Cancelled)??;
                    let (way, publishing) = (Arc::clone(&self.way), Arc::clone(&self.publishing));
                    tasks.spawn(async move { end(delivery, &way, &publishing).await });
                }
            }
        }
        // Ends with the session, after worker.drain_timeout at most.
        while let Some(ended) = tasks.join_next().await {
            acknowledge(&channel, ended??).await?;
        }
        let arrived = Consumer::message_count(&channel, self.queue());
        if tokio::time::timeout(FLUSH_TIMEOUT, arrived).await.is_err() {
            tracing::debug!("the last acknowledgements may not have arrived in time");
        }
        Ok(())
    }
}

async fn acknowledge(channel: &Channel, delivery_tag: u64) -> Result<(), lapin::Error> {
    channel.basic_ack(delivery_tag, BasicAckOptions::default()).await
}

/// Ends one message; returns what to acknowledge.
async fn end(delivery: Delivery, way: &Way, publishing: &Publishing) -> Result<u64, Unsettled> {
    let delivery_tag = delivery.delivery_tag;
    let mut letter = Letter::undecoded(delivery, publishing.undeliverable(), &way.telemetry.traces);
    let ended = match publishing.given_up(letter.envelope.properties.headers().as_ref()) {
        GivenUp::DeadLetter => publishing.put_back(&letter).await,
        GivenUp::Request(death) => way.give_up(death.as_ref(), &mut letter, publishing).await,
    };
    if ended.is_err() {
        letter.span.fail("unsettled");
    }
    ended.map(|()| delivery_tag)
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
