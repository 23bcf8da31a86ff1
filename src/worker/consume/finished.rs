//! Acknowledges for the tasks that have settled their message.

use std::time::Duration;

use futures_util::FutureExt;
use lapin::{Channel, options::BasicAckOptions};
use tokio::time::Instant;

use super::ConsumeLoop;
use crate::{
    broker::{ConsumeError, Consumer},
    worker::{
        handler::Settled,
        session_end::{SessionEnd, SessionError},
        tasks::{Finished, settled_or_log},
        unsettled::Unsettled,
    },
};

/// RabbitMQ's channel forwards at most 32 acknowledgements to a quorum queue at once. It keeps the
/// others back, and drops them when the channel closes. So before closing, the worker makes this
/// many round trips.
const FLUSH_ROUND_TRIPS: usize = 10;
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);
/// How long all round trips may take together, if RabbitMQ does not answer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

impl ConsumeLoop<'_> {
    /// Acknowledges what is settled by now, so that it is not redelivered, if the channel is still
    /// open.
    pub(super) async fn save_settled(&mut self, channel: &Channel) {
        self.acknowledge_settled(channel);
        if channel.status().connected() {
            self.flush_acks(channel).await;
        }
    }

    /// Acknowledges for the tasks that have settled their message by now.
    fn acknowledge_settled(&mut self, channel: &Channel) {
        while let Some(finished) = self.tasks.try_join_next() {
            if let Some(settled) = settled_or_log(finished, &self.publisher.config.throttle) {
                self.record_settled(settled);
            }
        }
        self.acknowledge(channel);
    }

    /// Takes the results of this and of all other finished tasks, and acknowledges for them.
    pub(super) fn collect_finished(
        &mut self,
        channel: &Channel,
        finished: Option<Finished>,
    ) -> Result<(), SessionError> {
        let mut finished = finished.or_else(|| self.tasks.try_join_next());
        while let Some(result) = finished {
            match result {
                Ok(Ok(settled)) => self.record_settled(settled),
                Ok(Err(Unsettled::Stopping)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(error) => return Err(error.into()),
            }
            finished = self.tasks.try_join_next();
        }
        self.acknowledge(channel);
        Ok(())
    }

    fn record_settled(&mut self, settled: Settled) {
        self.acks.settle(settled.delivery_tag);
        self.settled_count += 1;
        // While calls are paused, the calls that end are older than the pause and say nothing about
        // now.
        let Some(call) = settled.call.filter(|_| self.handler.breaker.cause().is_none()) else {
            return;
        };
        let before = self.limit.current();
        self.limit.record(call, self.tasks.len() + 1, Instant::now());
        let limit = self.limit.current();
        if limit != before {
            tracing::debug!(limit, before, "the concurrency limit has changed");
            self.report_limit();
        }
    }

    /// Sends the acknowledgements that are due, and does not wait: lapin has queued each one at the
    /// first poll. If the channel is closed, the session ends, and RabbitMQ redelivers.
    fn acknowledge(&mut self, channel: &Channel) {
        while let Some(acknowledgement) = self.acks.next() {
            let options = BasicAckOptions { multiple: acknowledgement.multiple };
            let sent = channel.basic_ack(acknowledgement.delivery_tag, options).now_or_never();
            if let Some(Err(error)) = sent {
                tracing::debug!(%error, "an acknowledgement could not be sent");
            }
        }
    }

    /// Makes some round trips to RabbitMQ: before each answer, its channel forwards
    /// acknowledgements that it had kept back. Tasks that end meanwhile are acknowledged, too.
    pub(super) async fn flush_acks(&mut self, channel: &Channel) {
        let round_trips = async {
            for _ in 0..FLUSH_ROUND_TRIPS {
                Consumer::message_count(channel, &self.queue).await?;
                tokio::time::sleep(FLUSH_INTERVAL).await;
                self.acknowledge_settled(channel);
            }
            Ok::<_, ConsumeError>(())
        };
        match tokio::time::timeout(FLUSH_TIMEOUT, round_trips).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the last acknowledgements may not have arrived"),
            Err(_elapsed) => tracing::debug!("the last acknowledgements may not have arrived in time"),
        }
    }

    /// Waits for the requests in flight, for `worker.drain_timeout` at most.
    pub(super) async fn drain(&mut self, channel: &Channel) -> SessionEnd {
        let in_flight = self.tasks.len();
        tracing::info!(event = "stopping", in_flight, "stopping: no more requests are consumed");
        let deadline = Instant::now() + self.drain_timeout;
        while let Ok(Some(finished)) = tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
            if let Some(settled) = settled_or_log(finished, &self.publisher.config.throttle) {
                self.record_settled(settled);
            }
            self.acknowledge(channel);
        }
        if !self.tasks.is_empty() {
            let unfinished = self.tasks.len();
            tracing::warn!(
                event = "drain_timeout",
                unfinished,
                "worker.drain_timeout is over: the unfinished requests stay in the queue"
            );
        }
        SessionEnd::Stopped
    }
}
