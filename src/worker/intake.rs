//! What is taken from the queue, and when: everything while calls flow, one request at a time while
//! they are paused, nothing while the worker stops.

mod probe;

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use lapin::{Channel, message::Delivery, options::BasicAckOptions};
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    CallKind, Done, Unsettled, Way,
    calls::CallGauge,
    concurrency::Limit,
    letter::Letter,
    loss::{End, Loss},
    publishing::Publishing,
    settlement::Settlement,
};
use crate::{
    breaker::Cause,
    broker::{
        ConsumeError, Consumer,
        session::{SessionEvent, SessionEvents},
    },
    message::headers,
};

/// A request that came back to the queue this often may be what takes its workers down. It is decoded
/// and called for alone, so that its neighbours are not counted as failed along with it (poison-message
/// isolation). The broker gives one up after twenty.
const SUSPECT_AFTER_DELIVERIES: u32 = 3;

/// 32 acknowledgements may be on their way to a quorum queue at once; RabbitMQ's channel keeps back
/// the rest, and forgets them if it is closed: so often it is asked something first.
const ROUND_TRIPS: usize = 10;
const ROUND_TRIP_INTERVAL: Duration = Duration::from_millis(10);
/// How long all that may take, if the broker does not answer.
const ROUND_TRIPS_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes requests in one session and sees each through.
pub(super) struct Intake<'a> {
    pub(super) way: Arc<Way>,
    pub(super) publishing: Arc<Publishing>,
    pub(super) queue: String,
    /// Requests under way at once, at most. Nobody else has it.
    pub(super) limit: &'a mut Limit,
    pub(super) drain_timeout: Duration,
    pub(super) stop: CancellationToken,
    pub(super) events: SessionEvents,
    pub(super) tasks: Tasks,
    /// Requests that are being decoded or called for.
    pub(super) in_call: CallGauge,
    pub(super) settlement: Settlement,
    /// Requests settled in this session.
    pub(super) settled: u64,
}

/// Requests under way.
type Tasks = JoinSet<Result<Done, Unsettled>>;

/// How many requests are taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Until one comes that has not come back again and again.
    Singly,
    Usual,
}

/// What interrupts taking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Stop,
    Paused,
    Pace(Pace),
    /// Another prefetch is called for.
    Prefetch,
}

/// What a task has come to.
type Finished = Result<Result<Done, Unsettled>, JoinError>;

impl Intake<'_> {
    /// Takes until the worker stops or the session is lost. Also tells how many were settled.
    pub(super) async fn run(mut self) -> (End, u64) {
        self.limit.begin(Instant::now());
        let connection = self.publishing.session.consuming();
        // Dropping the channel closes it, and with it every acknowledgement still to come.
        let end = match Consumer::channel(connection, &self.queue).await {
            Ok(channel) => match self.take(&channel).await {
                Ok(()) => {
                    let end = self.drain(&channel).await;
                    self.let_acknowledgements_arrive(&channel).await;
                    end
                }
                Err(loss) => {
                    self.save_settled(&channel).await;
                    End::Lost(loss)
                }
            },
            Err(error) => End::Lost(error.into()),
        };
        self.tasks.shutdown().await;
        (end, self.settled)
    }

    /// What is settled by now need not come again, if the broker still hears of it.
    async fn save_settled(&mut self, channel: &Channel) {
        self.collect(channel);
        if channel.status().connected() {
            self.let_acknowledgements_arrive(channel).await;
        }
    }

    /// Acknowledges for the tasks that have ended well by now.
    fn collect(&mut self, channel: &Channel) {
        while let Some(finished) = self.tasks.try_join_next() {
            if let Ok(Ok(done)) = finished {
                self.settle(done);
            }
        }
        self.acknowledge(channel);
    }

    /// Takes until the worker stops.
    async fn take(&mut self, channel: &Channel) -> Result<(), Loss> {
        let mut pace = Pace::Singly;
        let mut cause = None;
        loop {
            let cause_before = std::mem::replace(&mut cause, self.way.breaker.cause());
            if let (Some(before), None) = (cause_before, cause)
                // A wrong key says nothing about how many calls Trackfinity serves at once.
                && !matches!(before, Cause::EndpointFault(_))
            {
                self.limit.resume(self.tasks.len(), Instant::now());
            }
            let turn = match cause {
                Some(_) => self.probe(channel).await?,
                None => self.flow(channel, pace).await?,
            };
            match turn {
                Turn::Stop => return Ok(()),
                Turn::Paused | Turn::Prefetch => {}
                Turn::Pace(next) => pace = next,
            }
        }
    }

    /// Takes everything, until calls are paused or another pace or prefetch is called for.
    async fn flow(&mut self, channel: &Channel, pace: Pace) -> Result<Turn, Loss> {
        self.show_limit();
        let prefetch = self.prefetch(pace);
        let in_call = self.in_call.clone();
        let mut causes = self.way.breaker.subscribe();
        let mut consumer = self.consume(channel, prefetch).await?;
        tracing::info!(queue = self.queue, prefetch, "consuming");
        let mut has_suspect = false;
        let turn = loop {
            let is_alone = self.in_call.count() == 0;
            if has_suspect && is_alone {
                // It was decoded and called for without crashing the worker. A new consumer goes on while it
                // is published, however long that takes.
                break Turn::Pace(Pace::Singly);
            }
            let room = self.has_room() && (pace == Pace::Usual || is_alone);
            let waits_for_calls = !room && (pace == Pace::Singly || self.is_ramping());
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break Turn::Stop,
                finished = watch(&mut self.events, &mut self.tasks, &self.publishing) => {
                    self.take_in(channel, finished?)?;
                    if self.prefetch(pace) != prefetch {
                        break Turn::Prefetch;
                    }
                }
                _cause = causes.wait_for(Option::is_some) => break Turn::Paused,
                () = in_call.fell(), if waits_for_calls => {}
                delivery = consumer.next(), if room => {
                    let delivery = delivery.ok_or(Loss::Cancelled)??;
                    let next = if is_suspect(&delivery) { Pace::Singly } else { Pace::Usual };
                    self.spawn(delivery);
                    has_suspect = next == Pace::Singly;
                    if next != pace {
                        break Turn::Pace(next);
                    }
                }
            }
        };
        if turn == Turn::Stop {
            // What was delivered and not begun stays in the queue, whether or not the broker hears.
            consumer.cancel_in_time().await;
            return Ok(turn);
        }
        consumer.cancel().await?;
        self.take_the_rest(channel, &mut consumer, turn).await
    }

    /// Takes what a cancelled consumer was delivered: as there is room; while calls are paused, at
    /// once, to wait outside.
    async fn take_the_rest(
        &mut self,
        channel: &Channel,
        consumer: &mut Consumer,
        mut turn: Turn,
    ) -> Result<Turn, Loss> {
        let mut causes = self.way.breaker.subscribe();
        let in_call = self.in_call.clone();
        loop {
            let held = self.way.breaker.cause().is_none() && !self.has_room();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Turn::Stop),
                finished = watch(&mut self.events, &mut self.tasks, &self.publishing) => self.take_in(channel, finished?)?,
                _cause = causes.wait_for(Option::is_some), if held => {}
                () = in_call.fell(), if held && self.is_ramping() => {}
                delivery = consumer.next(), if !held => match delivery {
                    Some(delivery) => {
                        let delivery = delivery?;
                        if is_suspect(&delivery) {
                            turn = Turn::Pace(Pace::Singly);
                        }
                        self.spawn(delivery);
                    }
                    None => return Ok(turn),
                },
            }
        }
    }

    async fn consume(&mut self, channel: &Channel, prefetch: u16) -> Result<Consumer, ConsumeError> {
        let consumer = Consumer::start(channel, &self.queue, prefetch).await?;
        self.publishing.status.consuming();
        Ok(consumer)
    }

    fn prefetch(&mut self, pace: Pace) -> u16 {
        match pace {
            Pace::Singly => 1,
            // Not fewer while calls come back after a pause: what is only published would use them up.
            Pace::Usual => self.limit.prefetch(Instant::now()),
        }
    }

    /// Whether another request may be taken: after a pause there are fewer calls at first, and what is
    /// only published does not count among them.
    fn has_room(&self) -> bool {
        let ramp = usize::try_from(self.way.breaker.ramp()).unwrap_or(usize::MAX);
        self.has_room_beside(0) && self.in_call.count() < ramp
    }

    /// The same but for the ramp, without counting this many tasks.
    fn has_room_beside(&self, uncounted: usize) -> bool {
        self.tasks.len().saturating_sub(uncounted) < usize::from(self.limit.current())
    }

    fn is_ramping(&self) -> bool {
        self.way.breaker.ramp() != u32::MAX
    }

    /// Waits for a future, and sees meanwhile to what happens in the session; `None` when the worker
    /// stops.
    async fn attend<T>(
        &mut self,
        channel: &Channel,
        future: impl Future<Output = T>,
    ) -> Result<Option<T>, Loss> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(None),
                finished = watch(&mut self.events, &mut self.tasks, &self.publishing) => self.take_in(channel, finished?)?,
                value = &mut future => return Ok(Some(value)),
            }
        }
    }

    /// Waits until anything happens: the future, a task's end, or an event of the session.
    async fn attend_once(
        &mut self,
        channel: &Channel,
        future: impl Future<Output = ()>,
    ) -> Result<Option<()>, Loss> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(None),
            finished = watch(&mut self.events, &mut self.tasks, &self.publishing) => self.take_in(channel, finished?)?,
            () = future => {}
        }
        Ok(Some(()))
    }

    /// Takes in what this and all other finished tasks have come to, and acknowledges for them.
    fn take_in(&mut self, channel: &Channel, finished: Option<Finished>) -> Result<(), Loss> {
        let mut finished = finished.or_else(|| self.tasks.try_join_next());
        while let Some(result) = finished {
            match result {
                Ok(Ok(done)) => self.settle(done),
                Ok(Err(Unsettled::Stopping)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(error) => return Err(error.into()),
            }
            finished = self.tasks.try_join_next();
        }
        self.acknowledge(channel);
        Ok(())
    }

    fn settle(&mut self, done: Done) {
        self.settlement.settle(done.delivery_tag);
        self.settled += 1;
        // While calls are paused, those that end tell of the time before.
        let Some(call) = done.call.filter(|_| self.way.breaker.cause().is_none()) else {
            return;
        };
        let before = self.limit.current();
        self.limit.finished(call, self.tasks.len() + 1, Instant::now());
        let limit = self.limit.current();
        if limit != before {
            tracing::debug!(limit, before, "another limit of requests under way");
            self.show_limit();
        }
    }

    /// Sends the acknowledgements that are due. They are on their way once asked for; if the channel
    /// is gone, the session ends by that, and their deliveries come again.
    fn acknowledge(&mut self, channel: &Channel) {
        while let Some(acknowledgement) = self.settlement.next() {
            let options = BasicAckOptions { multiple: acknowledgement.multiple };
            let sent = channel.basic_ack(acknowledgement.delivery_tag, options).now_or_never();
            if let Some(Err(error)) = sent {
                tracing::debug!(%error, "an acknowledgement could not be sent");
            }
        }
    }

    fn show_limit(&self) {
        self.publishing.places.set_total(self.limit.current().into());
        self.way.telemetry.metrics.concurrency_limit(self.limit.current());
    }

    fn spawn(&mut self, delivery: Delivery) {
        let (way, publishing) = (Arc::clone(&self.way), Arc::clone(&self.publishing));
        let in_call = self.in_call.enter();
        self.tasks.spawn(async move {
            let letter = Letter::open(delivery, publishing.queue(), &way.telemetry.traces, &way.client);
            way.go(letter, CallKind::Ordinary, in_call, &publishing).await
        });
    }

    fn open_letter(&self, delivery: Delivery) -> Letter {
        Letter::open(delivery, self.publishing.queue(), &self.way.telemetry.traces, &self.way.client)
    }

    fn spawn_letter(&mut self, letter: Letter, kind: CallKind) {
        let (way, publishing) = (Arc::clone(&self.way), Arc::clone(&self.publishing));
        let in_call = self.in_call.enter();
        self.tasks.spawn(async move { way.go(letter, kind, in_call, &publishing).await });
    }

    /// Asks the broker about the queue some times: with each answer, the channel has sent on some of
    /// the acknowledgements that it had kept back. What still ends meanwhile is acknowledged, too.
    async fn let_acknowledgements_arrive(&mut self, channel: &Channel) {
        let ask = async {
            for _ in 0..ROUND_TRIPS {
                Consumer::message_count(channel, &self.queue).await?;
                tokio::time::sleep(ROUND_TRIP_INTERVAL).await;
                self.collect(channel);
            }
            Ok::<_, ConsumeError>(())
        };
        match tokio::time::timeout(ROUND_TRIPS_TIMEOUT, ask).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the last acknowledgements may not have arrived"),
            Err(_elapsed) => tracing::debug!("the last acknowledgements may not have arrived in time"),
        }
    }

    /// Lets what is under way finish, for as long as it may.
    async fn drain(&mut self, channel: &Channel) -> End {
        let under_way = self.tasks.len();
        tracing::info!(under_way, "stopping: no more requests are taken");
        let deadline = Instant::now() + self.drain_timeout;
        while let Ok(Some(finished)) = tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
            match finished {
                Ok(Ok(done)) => self.settle(done),
                Ok(Err(Unsettled::Stopping)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a request stays in the queue"),
                Err(error) => tracing::error!(%error, "a task panicked"),
            }
            self.acknowledge(channel);
        }
        if !self.tasks.is_empty() {
            let unfinished = self.tasks.len();
            tracing::warn!(unfinished, "worker.drain_timeout is over: the rest stays in the queue");
        }
        End::Stopped
    }
}

/// Whether a request has come back to the queue again and again. On a redelivery the count is
/// RabbitMQ's own; else it is whatever the sender wrote, or a shovel copied.
fn is_suspect(delivery: &Delivery) -> bool {
    if !delivery.redelivered {
        return false;
    }
    let headers = delivery.properties.headers().as_ref();
    let count = headers.and_then(|headers| headers.inner().get("x-delivery-count")).and_then(headers::count);
    count.is_some_and(|count| count >= SUSPECT_AFTER_DELIVERIES)
}

/// Waits for the next finished task, or an event of the session, which is seen to here.
async fn watch(
    events: &mut SessionEvents,
    tasks: &mut Tasks,
    publishing: &Publishing,
) -> Result<Option<Finished>, Loss> {
    tokio::select! {
        biased;
        event = events.next() => match event {
            Some(SessionEvent::Lost(error)) => Err(error.into()),
            Some(SessionEvent::Blocked(reason)) => {
                tracing::warn!(reason, "RabbitMQ takes no messages for now: what is in flight is held");
                publishing.status.blocked(Some(reason));
                Ok(None)
            }
            Some(SessionEvent::Unblocked) => {
                tracing::info!("RabbitMQ takes messages again");
                publishing.status.blocked(None);
                Ok(None)
            }
            None => Err(Loss::Cancelled),
        },
        Some(finished) = tasks.join_next() => Ok(Some(finished)),
    }
}
