//! Settles the requests that need no call while calls are paused, also those behind others: invalid
//! and expired requests, pending outcomes and canaries.

use std::time::Duration;

use lapin::Channel;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::ConsumeLoop;
use crate::{
    broker::{Consumer, consumer::QueueState},
    message::Timestamp,
    worker::{handler::CallKind, incoming::Incoming, session_end::SessionError},
};

/// How often the worker looks ahead in a long wait for a probe.
pub(super) const LOOK_AHEAD_INTERVAL: Duration = Duration::from_secs(30);
/// Only a queue of at most this many messages is looked through, because all are taken. If some were
/// left, those taken would lose their place in the order (decision 202).
const MAX_MESSAGES: u32 = 200;
/// Messages that are received before they are decoded, at most: some may be large.
const CHUNK: u16 = 50;
/// How long to wait until no consumer and no request in flight is left, and how often to look.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
const IDLE_INTERVAL: Duration = Duration::from_millis(100);
/// How long before a probe the worker does not begin to take messages.
const BEFORE_PROBE: Duration = Duration::from_secs(1);

impl ConsumeLoop<'_> {
    /// Settles the waiting requests that need no call. The others go back to the queue as new copies,
    /// in their order: to requeue them would count as deliveries, of which RabbitMQ allows only
    /// twenty. Does nothing if another worker consumes, or if the probe that is `due` comes too soon.
    /// `None` if the worker stops.
    pub(super) async fn settle_without_calls(
        &mut self,
        channel: &Channel,
        due: Instant,
    ) -> Result<Option<()>, SessionError> {
        let Some(deadline) = due.checked_sub(BEFORE_PROBE).filter(|_| self.publisher.can_requeue()) else {
            return Ok(Some(()));
        };
        let Some(queue) = self.idle_queue(channel, deadline).await? else {
            return Ok((!self.stop.is_cancelled()).then_some(()));
        };
        // The next probe finds a single one anyway.
        if !(2..=MAX_MESSAGES).contains(&queue.messages) {
            return Ok(Some(()));
        }
        // All are taken before the first goes back: RabbitMQ 4 would deliver a copy with a high
        // priority again before the others.
        let mut others = Vec::new();
        let mut remaining = u16::try_from(queue.messages).unwrap_or(u16::MAX);
        while remaining > 0 && Instant::now() < due {
            if !self.has_capacity_without(0) {
                // Invalid requests may be large, and are in memory until they are settled.
                if self.handle_one_event_or(channel, sleep_until(due)).await?.is_none() {
                    return Ok(None);
                }
                continue;
            }
            let count = remaining.min(CHUNK);
            let Some(deliveries) = self.consume_up_to(count, channel, Some(due)).await? else {
                return Ok(None);
            };
            // If there are fewer, another worker took the rest.
            remaining = if deliveries.len() < usize::from(count) { 0 } else { remaining - count };
            for delivery in deliveries {
                let incoming = self.handler.decode(delivery, &self.publisher);
                match incoming.needs_no_call(Timestamp::now()) {
                    true => self.spawn_decoded(incoming, CallKind::Ordinary),
                    false => others.push(incoming),
                }
            }
        }
        let mut turn = None;
        for incoming in others {
            turn = Some(self.spawn_after(turn, incoming));
        }
        Ok(Some(()))
    }

    /// The state of the queue once no one consumes it; `None` if someone does, or if the worker stops.
    async fn idle_queue(
        &mut self,
        channel: &Channel,
        deadline: Instant,
    ) -> Result<Option<QueueState>, SessionError> {
        let deadline = deadline.min(Instant::now() + IDLE_TIMEOUT);
        loop {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            // RabbitMQ counts a cancelled consumer until its deliveries are acknowledged.
            if self.tasks.is_empty() {
                let queue = Consumer::queue_state(channel, &self.queue).await?;
                if queue.consumers == 0 {
                    return Ok(Some(queue));
                }
            }
            let wake = deadline.min(Instant::now() + IDLE_INTERVAL);
            if self.handle_one_event_or(channel, sleep_until(wake)).await?.is_none() {
                return Ok(None);
            }
        }
    }

    /// Starts a task that puts a request back after the task before it has put back its own. Returns
    /// what ends with the new task.
    fn spawn_after(
        &mut self,
        turn: Option<oneshot::Receiver<()>>,
        incoming: Incoming,
    ) -> oneshot::Receiver<()> {
        let (ended, next_turn) = oneshot::channel();
        let (handler, publisher) = (self.handler.clone(), self.publisher.clone());
        let in_call = self.in_call.enter();
        self.tasks.spawn(async move {
            let _ended = ended;
            if let Some(turn) = turn {
                // Its sender is dropped, never used.
                turn.await.ok();
            }
            handler.handle(incoming, CallKind::Requeue, in_call, &publisher).await
        });
        next_turn
    }
}
