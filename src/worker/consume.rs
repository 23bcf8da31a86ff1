//! Consumes requests in one session, starts a task for each, and acknowledges what the tasks have
//! settled. While calls are paused, takes one request at a time for a probe; while the worker is
//! stopping, none.

mod finished;
mod look_ahead;
mod probe;

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{Channel, message::Delivery};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    acks::AckTracker,
    calls::CallGauge,
    concurrency::ConcurrencyLimit,
    handler::{CallKind, Handler},
    incoming::Incoming,
    publish::SessionPublisher,
    session_end::{SessionEnd, SessionError},
    suspect::suspect_redeliveries,
    tasks::{self, Finished, Tasks},
};
use crate::{
    breaker::Cause,
    broker::{
        ConsumeError, Consumer,
        session::{SessionEvent, SessionEvents},
    },
};

/// Consumes requests in one session, and owns the tasks that handle them.
pub(super) struct ConsumeLoop<'a> {
    pub(super) handler: Arc<Handler>,
    pub(super) publisher: Arc<SessionPublisher>,
    pub(super) queue: String,
    /// Requests in flight at once, at most. Only this loop changes it.
    pub(super) limit: &'a mut ConcurrencyLimit,
    pub(super) drain_timeout: Duration,
    pub(super) stop: CancellationToken,
    pub(super) events: SessionEvents,
    pub(super) tasks: Tasks,
    /// Requests that are being decoded or called for.
    pub(super) in_call: CallGauge,
    pub(super) acks: AckTracker,
    /// How many requests were settled in this session.
    pub(super) settled_count: u64,
}

/// How many requests RabbitMQ delivers at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefetch {
    /// One, until a request comes that was not redelivered often.
    One,
    Normal,
}

/// Why a consumer is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interrupt {
    Stop,
    Paused,
    SwitchTo(Prefetch),
    /// The concurrency limit asks for another prefetch count.
    Resize,
}

impl ConsumeLoop<'_> {
    /// Consumes until the worker stops or the session fails. Also returns how many requests were
    /// settled.
    pub(super) async fn run(mut self) -> (SessionEnd, u64) {
        self.limit.start_session(Instant::now());
        let connection = self.publisher.session.consuming();
        // Dropping the channel closes it: nothing can be acknowledged after that.
        let end = match Consumer::channel(connection, &self.queue).await {
            Ok(channel) => match self.run_until_ended(&channel).await {
                Ok(()) => {
                    let end = self.drain(&channel).await;
                    self.flush_acks(&channel).await;
                    end
                }
                Err(error) => {
                    self.save_settled(&channel).await;
                    SessionEnd::Failed(error)
                }
            },
            Err(error) => SessionEnd::Failed(error.into()),
        };
        tasks::abort(&mut self.tasks, &self.publisher.config.throttle).await;
        (end, self.settled_count)
    }

    /// Consumes until the worker stops, or until the session or the repair of the topology fails.
    async fn run_until_ended(&mut self, channel: &Channel) -> Result<(), SessionError> {
        let publisher = Arc::clone(&self.publisher);
        tokio::select! {
            stopped = self.run_until_stopped(channel) => stopped,
            error = publisher.recheck_topology() => Err(error.into()),
        }
    }

    /// Consumes, or probes while calls are paused, until the worker stops.
    async fn run_until_stopped(&mut self, channel: &Channel) -> Result<(), SessionError> {
        let mut prefetch = Prefetch::One;
        let mut cause = None;
        loop {
            let cause_before = std::mem::replace(&mut cause, self.handler.breaker.cause());
            if let (Some(before), None) = (cause_before, cause)
                // A wrong key says nothing about how many calls Trackfinity can serve at once.
                && !matches!(before, Cause::EndpointFault(_))
            {
                self.limit.resume(self.tasks.len(), Instant::now());
            }
            let interrupt = match cause {
                Some(_) => self.probe(channel).await?,
                None => self.consume(channel, prefetch).await?,
            };
            match interrupt {
                Interrupt::Stop => return Ok(()),
                Interrupt::Paused | Interrupt::Resize => {}
                Interrupt::SwitchTo(next) => prefetch = next,
            }
        }
    }

    /// Consumes until calls are paused, or until another prefetch is needed.
    async fn consume(&mut self, channel: &Channel, prefetch: Prefetch) -> Result<Interrupt, SessionError> {
        self.report_limit();
        let count = self.prefetch_count(prefetch);
        let in_call = self.in_call.clone();
        let mut causes = self.handler.breaker.subscribe();
        let mut consumer = self.start_consumer(channel, count).await?;
        tracing::info!(event = "consuming", queue = self.queue, prefetch = count, "consuming");
        let mut has_suspect = false;
        let interrupt = loop {
            let is_alone = self.in_call.count() == 0;
            if has_suspect && is_alone {
                // It was decoded and called for without crashing the worker. A new consumer
                // continues while it is published, however long that takes.
                break Interrupt::SwitchTo(Prefetch::One);
            }
            let has_capacity = self.has_capacity() && (prefetch == Prefetch::Normal || is_alone);
            let waits_for_calls = !has_capacity && (prefetch == Prefetch::One || self.is_ramping());
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break Interrupt::Stop,
                finished = next_event(&mut self.events, &mut self.tasks, &self.publisher) => {
                    self.collect_finished(channel, finished?)?;
                    if self.prefetch_count(prefetch) != count {
                        break Interrupt::Resize;
                    }
                }
                _cause = causes.wait_for(Option::is_some) => break Interrupt::Paused,
                () = in_call.fell(), if waits_for_calls => {}
                delivery = consumer.next(), if has_capacity => {
                    let delivery = delivery.ok_or(SessionError::Cancelled)??;
                    has_suspect = suspect_redeliveries(&delivery).is_some();
                    let next = if has_suspect { Prefetch::One } else { Prefetch::Normal };
                    self.spawn(delivery);
                    if next != prefetch {
                        break Interrupt::SwitchTo(next);
                    }
                }
            }
        };
        if interrupt == Interrupt::Stop {
            // Deliveries without a task stay in the queue, even if RabbitMQ does not receive the
            // cancel.
            consumer.cancel_in_time().await;
            return Ok(interrupt);
        }
        consumer.cancel().await?;
        self.drain_cancelled_consumer(channel, &mut consumer, interrupt).await
    }

    /// Starts tasks for the deliveries that a cancelled consumer still has: as capacity allows; at
    /// once while calls are paused, as each then only goes to a retry queue.
    async fn drain_cancelled_consumer(
        &mut self,
        channel: &Channel,
        consumer: &mut Consumer,
        mut interrupt: Interrupt,
    ) -> Result<Interrupt, SessionError> {
        let mut causes = self.handler.breaker.subscribe();
        let in_call = self.in_call.clone();
        loop {
            let is_full = self.handler.breaker.cause().is_none() && !self.has_capacity();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Interrupt::Stop),
                finished = next_event(&mut self.events, &mut self.tasks, &self.publisher) => {
                    self.collect_finished(channel, finished?)?;
                }
                _cause = causes.wait_for(Option::is_some), if is_full => {}
                () = in_call.fell(), if is_full && self.is_ramping() => {}
                delivery = consumer.next(), if !is_full => match delivery {
                    Some(delivery) => {
                        let delivery = delivery?;
                        if suspect_redeliveries(&delivery).is_some() {
                            interrupt = Interrupt::SwitchTo(Prefetch::One);
                        }
                        self.spawn(delivery);
                    }
                    None => return Ok(interrupt),
                },
            }
        }
    }

    async fn start_consumer(&mut self, channel: &Channel, prefetch: u16) -> Result<Consumer, ConsumeError> {
        let consumer = Consumer::start(channel, &self.queue, prefetch).await?;
        self.publisher.status.set_consuming();
        Ok(consumer)
    }

    fn prefetch_count(&mut self, prefetch: Prefetch) -> u16 {
        match prefetch {
            Prefetch::One => 1,
            // Not fewer during the ramp after a pause: deliveries that are only published would use
            // them up.
            Prefetch::Normal => self.limit.prefetch(Instant::now()),
        }
    }

    /// Whether another task may start. After a pause the ramp allows fewer calls at first; tasks
    /// that only publish do not count towards the ramp.
    fn has_capacity(&self) -> bool {
        let ramp = usize::try_from(self.handler.breaker.ramp()).unwrap_or(usize::MAX);
        self.has_capacity_without(0) && self.in_call.count() < ramp
    }

    /// Whether another task may start, leaving out the ramp and this many tasks.
    fn has_capacity_without(&self, uncounted: usize) -> bool {
        self.tasks.len().saturating_sub(uncounted) < usize::from(self.limit.current())
    }

    fn is_ramping(&self) -> bool {
        self.handler.breaker.ramp() != u32::MAX
    }

    /// Waits for a future, and handles the events of the session meanwhile; `None` when the worker
    /// stops.
    async fn handle_events_until<T>(
        &mut self,
        channel: &Channel,
        future: impl Future<Output = T>,
    ) -> Result<Option<T>, SessionError> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(None),
                finished = next_event(&mut self.events, &mut self.tasks, &self.publisher) => {
                    self.collect_finished(channel, finished?)?;
                }
                value = &mut future => return Ok(Some(value)),
            }
        }
    }

    /// Waits for a future or for one event of the session, which is handled; `None` when the worker
    /// stops.
    async fn handle_one_event_or(
        &mut self,
        channel: &Channel,
        future: impl Future<Output = ()>,
    ) -> Result<Option<()>, SessionError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(None),
            finished = next_event(&mut self.events, &mut self.tasks, &self.publisher) => {
                self.collect_finished(channel, finished?)?;
            }
            () = future => {}
        }
        Ok(Some(()))
    }

    fn report_limit(&self) {
        self.publisher.slots.set_total(self.limit.current().into());
        self.handler.telemetry.metrics.concurrency_limit(self.limit.current());
    }

    fn spawn(&mut self, delivery: Delivery) {
        let (handler, publisher) = (Arc::clone(&self.handler), Arc::clone(&self.publisher));
        let in_call = self.in_call.enter();
        self.tasks.spawn(async move {
            let incoming = handler.decode(delivery, &publisher);
            handler.handle(incoming, CallKind::Ordinary, in_call, &publisher).await
        });
    }

    fn spawn_decoded(&mut self, incoming: Incoming, kind: CallKind) {
        let (handler, publisher) = (Arc::clone(&self.handler), Arc::clone(&self.publisher));
        let in_call = self.in_call.enter();
        self.tasks.spawn(async move { handler.handle(incoming, kind, in_call, &publisher).await });
    }
}

/// Waits for the next finished task, or handles the next event of the session.
async fn next_event(
    events: &mut SessionEvents,
    tasks: &mut Tasks,
    publisher: &SessionPublisher,
) -> Result<Option<Finished>, SessionError> {
    tokio::select! {
        biased;
        event = events.next() => match event {
            Some(SessionEvent::Lost(error)) => Err(error.into()),
            Some(SessionEvent::Blocked(reason)) => {
                tracing::warn!(
                    event = "publishing_blocked",
                    reason,
                    "RabbitMQ blocks publishing, as it is short of memory or disk: requests in flight wait"
                );
                publisher.status.set_blocked(Some(reason));
                Ok(None)
            }
            Some(SessionEvent::Unblocked) => {
                tracing::info!(event = "publishing_unblocked", "RabbitMQ takes messages again");
                publisher.status.set_blocked(None);
                Ok(None)
            }
            None => Err(SessionError::Cancelled),
        },
        Some(finished) = tasks.join_next() => Ok(Some(finished)),
    }
}
