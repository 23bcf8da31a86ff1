//! What RabbitMQ itself gave up: requests that were delivered too often (poison messages) or
//! expired, and dead letters that it removed from their queue because of a policy's delivery limit.
//! Requests get a dead letter and an outcome here. Their bodies are not decoded and Trackfinity is
//! not called, because either may have crashed the workers (decision 59). Only `x-death` shows what
//! was given up, because a sender can forge the other headers (decision 60).
//!
//! They are read with this project's own AMQP reader, on a connection of its own that is opened
//! when there are any: so a message that cannot be read, or that takes long to settle, does not
//! delay requests.

use std::{sync::Arc, time::Duration};

use lapin::Channel;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    canary::Canary,
    given_up::{GivenUp, Interrupted},
    handler::Handler,
    incoming::Incoming,
    publish::{MessagePublisher, SessionPublisher},
    session_end::FINISH_TIMEOUT,
    unreadable,
    unsettled::Unsettled,
};
use crate::{
    broker::{
        Backoff, Connector, Consumer,
        wire::{WireChannel, WireConnection, WireDelivery, WireError},
    },
    message::{Timestamp, raw_properties::Properties, x_death::XDeath},
    settle::{self, Publication},
    telemetry::TraceContext,
};

/// How often the messages in the queue are counted.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Messages that are settled at once, at most (decision 63).
const PREFETCH: u16 = 16;
/// The consumer's tag; it is the only one on its channel.
const CONSUMER_TAG: &str = "undeliverable";
/// The connection is closed when no message has come for this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A request that was redelivered this often, and never settled, is set aside (decision 63). RabbitMQ from 4.0 on goes on
/// counting, so that a request may come with 21 redeliveries from the queue of requests.
const SET_ASIDE_AFTER: u32 = 50;
/// And a request that was redelivered this often, without an outcome.
const GIVE_UP_AFTER: u32 = 100;
/// And a dead letter that a policy removed. It may come with as many redeliveries as the policy allows.
const GIVE_UP_DEAD_LETTER_AFTER: u32 = 1000;

/// What is done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    /// What it is due is published, and it is acknowledged.
    Settle,
    /// Its outcome is published, and RabbitMQ moves it to the dead letters. Its body stays unread.
    SetAside,
    /// RabbitMQ moves it to the dead letters. Nothing else, because nothing else has worked.
    GiveUp,
}

/// The answer to RabbitMQ about a delivery, by its tag.
#[derive(Clone, Copy, Debug)]
enum Settled {
    Acknowledge(u64),
    /// RabbitMQ moves it to the dead letters.
    Reject(u64),
}

/// Messages that are being settled.
type Tasks = JoinSet<Result<Settled, Interrupted>>;

/// Settles what RabbitMQ gave up, in one session.
pub(super) struct Undeliverable {
    pub(super) connector: Connector,
    pub(super) handler: Arc<Handler>,
    pub(super) publisher: Arc<SessionPublisher>,
    pub(super) stop: CancellationToken,
}

impl Undeliverable {
    /// Runs until the worker stops or the session has ended. A failure here is tried again, and
    /// ends no session.
    pub(super) async fn run(self) {
        let session_over = self.publisher.session_over.clone();
        session_over.run_until_cancelled(self.poll()).await;
    }

    async fn poll(&self) {
        let mut backoff = Backoff::new();
        let mut channel = None;
        while !self.stop.is_cancelled() {
            let wait = match self.settle_waiting(&mut channel).await {
                Ok(()) => {
                    backoff.reset();
                    POLL_INTERVAL
                }
                Err(error) => {
                    channel = None;
                    let wait = backoff.next(fastrand::f64());
                    tokio::time::sleep(wait).await;
                    // If the connection is lost, the session has ended by now, and logs that.
                    self.log_failure(&error);
                    // The queue may have been deleted. The error is that the session has ended,
                    // which ends this as well.
                    self.publisher.repair_topology().await.ok();
                    Duration::ZERO
                }
            };
            self.stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    fn queue(&self) -> &str {
        self.publisher.undeliverable()
    }

    /// Settles the messages in the queue, if there are any.
    async fn settle_waiting(&self, channel: &mut Option<Channel>) -> Result<(), Interrupted> {
        let open = match channel {
            Some(channel) => channel,
            None => {
                let opened = Consumer::channel(self.publisher.session.consuming(), self.queue()).await?;
                channel.insert(opened)
            }
        };
        if Consumer::message_count(open, self.queue()).await? > 0 {
            self.consume().await?;
        }
        Ok(())
    }

    /// Settles messages until none comes any more, or until the worker stops and those begun are
    /// settled.
    async fn consume(&self) -> Result<(), Interrupted> {
        let connection = Arc::new(self.connector.connect_wire("settles what RabbitMQ gave up").await?);
        let mut channel = connection.open_channel().await?;
        channel.qos(PREFETCH).await?;
        // The body may be what takes down the workers.
        let publisher = Arc::clone(&self.publisher);
        channel.leave_bodies(move |delivery| {
            let given_up = publisher.given_up(delivery.properties.lossy().headers().as_ref());
            treatment(&given_up, delivery.redeliveries()) != Treatment::Settle
        });
        channel.consume(self.queue(), CONSUMER_TAG).await?;
        let mut tasks = JoinSet::new();
        if let Err(error) = self.settle_delivered(&mut channel, &connection, &mut tasks).await {
            self.finish(&mut channel, &mut tasks).await;
            return Err(error);
        }
        // Closing requeues what was delivered while the consumer was cancelled.
        channel.close().await?;
        if let Some(connection) = Arc::into_inner(connection) {
            connection.close().await;
        }
        Ok(())
    }

    /// Starts a task for each message, and acknowledges what the tasks have settled, until no message
    /// comes any more or the worker stops.
    async fn settle_delivered(
        &self,
        channel: &mut WireChannel,
        connection: &Arc<WireConnection>,
        tasks: &mut Tasks,
    ) -> Result<(), Interrupted> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(settled) = tasks.join_next() => answer(channel, settled??).await?,
                delivery = timeout(IDLE_TIMEOUT, channel.next()) => match delivery {
                    Ok(delivery) => {
                        let delivery = delivery?.ok_or(Interrupted::Cancelled)?;
                        let (handler, publisher) = (Arc::clone(&self.handler), Arc::clone(&self.publisher));
                        let connection = Arc::clone(connection);
                        tasks.spawn(async move { settle(delivery, &connection, &handler, &publisher).await });
                    }
                    Err(_elapsed) if tasks.is_empty() => break,
                    Err(_elapsed) => {}
                }
            }
        }
        // No further message is begun. This wait ends with the session, after worker.drain_timeout
        // at most.
        channel.cancel(CONSUMER_TAG).await?;
        while let Some(settled) = tasks.join_next().await {
            answer(channel, settled??).await?;
        }
        Ok(())
    }

    /// After a failure: gives the other tasks a short time to settle their messages, so that these are
    /// not dead-lettered a second time, and logs what happened to the rest.
    async fn finish(&self, channel: &mut WireChannel, tasks: &mut Tasks) {
        let deadline = Instant::now() + FINISH_TIMEOUT;
        while let Ok(Some(settled)) = timeout_at(deadline, tasks.join_next()).await {
            let acknowledged = match settled {
                Ok(Ok(settled)) => answer(channel, settled).await.map_err(Interrupted::from),
                Ok(Err(error)) => Err(error),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = acknowledged {
                self.log_failure(&error);
            }
        }
        if !tasks.is_empty() {
            tracing::warn!(
                event = "undeliverable_unfinished",
                queue = self.queue(),
                unfinished = tasks.len(),
                "messages that RabbitMQ gave up were not settled in time after a failure: they stay in their queue \
                 and are settled again"
            );
        }
    }

    fn log_failure(&self, error: &Interrupted) {
        if let Some(left_out) =
            self.publisher.config.throttle.due(&("undeliverable_failed", error.to_string()))
        {
            tracing::warn!(
                event = "undeliverable_failed",
                queue = self.queue(),
                %error,
                left_out,
                "a message that RabbitMQ gave up (expired, or delivered too often) could not be settled: it stays \
                 in its queue and is tried again"
            );
        }
    }
}

async fn answer(channel: &mut WireChannel, settled: Settled) -> Result<(), WireError> {
    match settled {
        Settled::Acknowledge(delivery_tag) => channel.acknowledge(delivery_tag).await,
        Settled::Reject(delivery_tag) => channel.reject(delivery_tag).await,
    }
}

fn treatment(given_up: &GivenUp, redeliveries: u32) -> Treatment {
    match given_up {
        GivenUp::DeadLetter if redeliveries >= GIVE_UP_DEAD_LETTER_AFTER => Treatment::GiveUp,
        GivenUp::DeadLetter => Treatment::Settle,
        GivenUp::Request(_) if redeliveries >= GIVE_UP_AFTER => Treatment::GiveUp,
        GivenUp::Request(_) if redeliveries >= SET_ASIDE_AFTER => Treatment::SetAside,
        GivenUp::Request(_) => Treatment::Settle,
    }
}

/// Settles one message; returns what to answer RabbitMQ.
async fn settle(
    delivery: WireDelivery,
    connection: &WireConnection,
    handler: &Handler,
    publisher: &SessionPublisher,
) -> Result<Settled, Interrupted> {
    let given_up = publisher.given_up(delivery.properties.lossy().headers().as_ref());
    let treatment = treatment(&given_up, delivery.redeliveries());
    if treatment != Treatment::Settle {
        log_set_aside(&delivery, treatment, publisher);
    }
    if treatment == Treatment::GiveUp {
        return Ok(Settled::Reject(delivery.delivery_tag));
    }
    let WireDelivery { delivery_tag, properties, body, .. } = delivery;
    let properties = match properties {
        Properties::Readable(properties) => properties,
        Properties::Unreadable(raw) if treatment == Treatment::SetAside => raw.readable(),
        Properties::Unreadable(raw) => {
            unreadable::settle(&raw, body, Some(given_up), connection, handler, publisher).await?;
            return Ok(Settled::Acknowledge(delivery_tag));
        }
    };
    let queue = publisher.undeliverable();
    if let (GivenUp::Request(death), Some(canary)) = (&given_up, Canary::read(&properties, &body)) {
        canary.answer(queue, death.as_ref().map(|death| death.reason.as_str()), publisher).await;
        return Ok(Settled::Acknowledge(delivery_tag));
    }
    let mut incoming =
        Incoming::undecoded((properties, body, delivery_tag), queue, &handler.telemetry.traces);
    let settled = match &given_up {
        GivenUp::DeadLetter => MessagePublisher::new(publisher, &incoming).republish_dead_letter().await,
        GivenUp::Request(death) => abandon(death.as_ref(), treatment, &mut incoming, publisher).await,
    };
    if settled.is_err() {
        incoming.span.set_error("unsettled");
    }
    settled?;
    Ok(match treatment {
        Treatment::Settle => Settled::Acknowledge(delivery_tag),
        Treatment::SetAside | Treatment::GiveUp => Settled::Reject(delivery_tag),
    })
}

/// Logs a message that is set aside before anything else is done with it.
fn log_set_aside(delivery: &WireDelivery, treatment: Treatment, publisher: &SessionPublisher) {
    let fate = match treatment {
        Treatment::GiveUp => "without an outcome if it has none yet",
        Treatment::SetAside | Treatment::Settle => "after its outcome",
    };
    let lossy = delivery.properties.lossy();
    let trace = TraceContext::from_headers(lossy.headers().as_ref());
    tracing::warn!(
        event = "undeliverable_set_aside",
        queue = publisher.undeliverable(),
        request_id = lossy.message_id().as_ref().map(|id| id.as_str()).filter(|id| !id.is_empty()),
        trace_id = trace.as_ref().map(TraceContext::trace_id),
        redeliveries = delivery.redeliveries(),
        "a message that RabbitMQ gave up was delivered again and again and never settled, because workers crashed or \
         lost their connection. RabbitMQ moves it to the dead letters as it is, {fate}"
    );
}

/// Publishes the dead letter and the outcome of a request that RabbitMQ gave up; only the outcome if RabbitMQ makes the
/// dead letter itself.
async fn abandon(
    death: Option<&XDeath>,
    treatment: Treatment,
    incoming: &mut Incoming,
    publisher: &SessionPublisher,
) -> Result<(), Unsettled> {
    for publication in settle::given_up(death, &incoming.envelope, Timestamp::now()) {
        let is_dead_letter = matches!(publication, Publication::DeadLetter(_));
        if is_dead_letter && treatment != Treatment::Settle {
            continue;
        }
        MessagePublisher::new(publisher, incoming).publish(&publication).await?;
        if is_dead_letter {
            // The dead letter has the body. It must not be decoded again: that may crash the worker.
            incoming.envelope.body.clear();
        }
    }
    Ok(())
}
