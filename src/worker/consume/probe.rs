//! Probes, one after the other while calls are paused: does Trackfinity serve again?

use std::time::Duration;

use lapin::{Channel, message::Delivery};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout_at},
};

use super::{ConsumeLoop, Interrupt, look_ahead::LOOK_AHEAD_INTERVAL};
use crate::{
    breaker::{CallResult, ProbeStep},
    broker::Consumer,
    message::Timestamp,
    policy::Judgement,
    telemetry::logs::millis,
    worker::{
        handler::{CallKind, ProbedCall},
        incoming::Incoming,
        session_end::SessionError,
    },
};

/// How long a probe waits for another request: a bit longer than the shortest tier, in which the
/// requests wait that were delivered when the breaker opened.
const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);
/// Requests that have just failed are skipped, but no more than this many: all messages in the
/// queue may have one and the same id.
const MAX_SKIPPED: usize = 50;

/// What a probe may try next.
enum Candidate {
    Request(Box<Incoming>),
    /// No other request waits.
    NoOther,
    /// The worker stops.
    Stop,
}

impl ConsumeLoop<'_> {
    /// Waits until the next probe is due, and makes it.
    pub(super) async fn probe(&mut self, channel: &Channel) -> Result<Interrupt, SessionError> {
        self.publisher.status.set_consuming();
        let interrupt = match self.wait_for_probe_time(channel).await {
            Ok(true) => self.try_requests(channel).await,
            Ok(false) => Ok(Interrupt::Stop),
            Err(error) => Err(error),
        };
        // Has no effect on a finished probe. The worker may be stopping, or the session may have
        // failed.
        self.handler.breaker.abandon_probe();
        interrupt
    }

    /// Returns `false` when the worker stops.
    async fn wait_for_probe_time(&mut self, channel: &Channel) -> Result<bool, SessionError> {
        let client = self.handler.client.clone();
        let mut credentials = client.credentials_version();
        while let Some(due) = self.next_probe_at() {
            if self.settle_without_calls(channel, due).await?.is_none() {
                return Ok(false);
            }
            let wake = due.min(Instant::now() + LOOK_AHEAD_INTERVAL);
            let wait = async {
                tokio::select! {
                    () = sleep_until(wake) => None,
                    version = client.credentials_changed(credentials) => Some(version),
                }
            };
            match self.handle_events_until(channel, wait).await? {
                None => return Ok(false),
                Some(None) => {}
                Some(Some(version)) => {
                    credentials = version;
                    self.handler.breaker.probe_now();
                }
            }
        }
        Ok(true)
    }

    fn next_probe_at(&self) -> Option<Instant> {
        let pause = self.handler.breaker.pause()?;
        pause.probe_at.filter(|due| *due > Instant::now())
    }

    /// Tries requests one after the other until the breaker has learned enough. Requests that
    /// failed are settled only then: before, it is not known whether the fault is theirs.
    async fn try_requests(&mut self, channel: &Channel) -> Result<Interrupt, SessionError> {
        let mut tried: Vec<oneshot::Sender<Judgement>> = Vec::new();
        let mut last_call = None;
        let mut has_begun = false;
        let step = loop {
            let incoming = match self.candidate(channel, has_begun, tried.len()).await? {
                Candidate::Request(incoming) => incoming,
                Candidate::NoOther => break self.handler.breaker.probe_exhausted(),
                Candidate::Stop => return Ok(Interrupt::Stop),
            };
            if !has_begun {
                if self.next_probe_at().is_some() {
                    // A late answer to another call asked for a longer wait. This request goes to a
                    // tier.
                    self.spawn_decoded(*incoming, CallKind::Ordinary);
                    return Ok(Interrupt::Paused);
                }
                self.handler.client.refresh_secrets().await;
                self.handler.breaker.begin_probe();
                has_begun = true;
            }
            let request_id = incoming.envelope.request_id.clone();
            let logged_id = incoming.logged_id().into_owned();
            let (answered, answer) = oneshot::channel();
            let (judge, judgement) = oneshot::channel();
            self.spawn_decoded(*incoming, CallKind::Probe(ProbedCall { answered, judgement }));
            let (started, result) = match self.handle_events_until(channel, answer).await? {
                None => return Ok(Interrupt::Stop),
                Some(Ok(answer)) => answer,
                // The request was not called for.
                Some(Err(_dropped)) => continue,
            };
            tried.push(judge);
            last_call = Some((logged_id, result));
            match self.handler.breaker.probe_answered(&request_id, started, result) {
                ProbeStep::TryAnother => {}
                step => break step,
            }
        };
        let mut ping = None;
        let judgement = match step {
            ProbeStep::Over(judgement) => judgement,
            ProbeStep::TryAnother | ProbeStep::Ping => {
                let handler = self.handler.clone();
                let Some(success) = self.handle_events_until(channel, handler.is_trackfinity_well()).await?
                else {
                    return Ok(Interrupt::Stop);
                };
                ping = Some(success);
                self.handler.breaker.ping_answered(success)
            }
        };
        if let Some((request_id, result)) = last_call {
            self.log_probe(tried.len(), &request_id, result, ping);
        }
        for judge in tried {
            // If the task has ended, no one needs the judgement.
            judge.send(judgement).ok();
        }
        Ok(Interrupt::Paused)
    }

    /// Logs a probe: the last request that it tried, the result, and when the next probe comes.
    fn log_probe(&self, tried: usize, request_id: &str, result: CallResult, ping: Option<bool>) {
        let pause = self.handler.breaker.pause();
        let next_probe_in = |at: Instant| millis(at.saturating_duration_since(Instant::now()));
        tracing::info!(
            event = "probe",
            tried,
            request_id,
            result = &*result.code(),
            ping = ping.map(|success| if success { "answered" } else { "failed" }),
            next_probe_in_ms = pause.and_then(|pause| pause.probe_at).map(next_probe_in),
            "{}",
            match pause {
                Some(_) => "probe of Trackfinity: calls stay paused",
                None => "probe of Trackfinity: it serves requests again",
            }
        );
    }

    /// The next request that a probe may try. Waits for the first request without a limit, for
    /// another one up to [`NEXT_REQUEST_TIMEOUT`]. Invalid and expired requests and pending outcomes
    /// need no call: their tasks start beside the probe.
    ///
    /// `tried`: how many requests this probe has tried. They wait for its end, so they do not count
    /// towards the concurrency limit.
    async fn candidate(
        &mut self,
        channel: &Channel,
        has_begun: bool,
        tried: usize,
    ) -> Result<Candidate, SessionError> {
        // One deadline for all requests that are skipped: a request that has just failed comes back
        // sooner than this, and with a deadline each the probe would never end.
        let deadline = has_begun.then(|| Instant::now() + NEXT_REQUEST_TIMEOUT);
        let mut skipped = 0;
        if !has_begun && Consumer::message_count(channel, &self.queue).await? == 0 {
            tracing::info!(
                event = "probe_waits",
                queue = self.queue,
                "a probe of Trackfinity is due, and waits for a request: none is in the queue"
            );
        }
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Candidate::NoOther);
            }
            if !self.has_capacity_without(tried) {
                // A task that ends meanwhile frees capacity.
                let wait = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline).await,
                        None => std::future::pending().await,
                    }
                };
                let Some(()) = self.handle_one_event_or(channel, wait).await? else {
                    return Ok(Candidate::Stop);
                };
                continue;
            }
            let Some(consumed) = self.consume_one(channel, deadline).await? else {
                return Ok(Candidate::Stop);
            };
            let Some(delivery) = consumed else {
                return Ok(Candidate::NoOther);
            };
            let incoming = self.handler.decode(delivery, &self.publisher);
            if incoming.needs_no_call(Timestamp::now()) {
                self.spawn_decoded(incoming, CallKind::Ordinary);
                continue;
            }
            let has_just_failed = self.handler.breaker.has_just_failed(&incoming.envelope.request_id);
            let others_wait = skipped < MAX_SKIPPED
                && (has_begun || Consumer::message_count(channel, &self.queue).await? > 0);
            if has_just_failed && has_begun && !others_wait {
                self.spawn_decoded(incoming, CallKind::Ordinary);
                return Ok(Candidate::NoOther);
            }
            if has_just_failed && others_wait {
                skipped += 1;
                // While calls are paused it goes to the shortest tier without a call, and so comes
                // back behind the others.
                self.spawn_decoded(incoming, CallKind::Ordinary);
                continue;
            }
            return Ok(Candidate::Request(Box::new(incoming)));
        }
    }

    /// Consumes one request; `Some(None)` if none came in time, `None` if the worker stops.
    async fn consume_one(
        &mut self,
        channel: &Channel,
        deadline: Option<Instant>,
    ) -> Result<Option<Option<Delivery>>, SessionError> {
        let deliveries = self.consume_up_to(1, channel, deadline).await?;
        Ok(deliveries.map(|mut deliveries| deliveries.pop()))
    }

    /// Consumes this many requests, or fewer if no more came in time; `None` if the worker stops.
    pub(super) async fn consume_up_to(
        &mut self,
        count: u16,
        channel: &Channel,
        deadline: Option<Instant>,
    ) -> Result<Option<Vec<Delivery>>, SessionError> {
        let mut consumer = self.start_consumer(channel, count).await?;
        let mut deliveries = Vec::new();
        let all = async {
            while deliveries.len() < usize::from(count) {
                let next = match deadline {
                    Some(deadline) => timeout_at(deadline, consumer.next()).await.ok(),
                    None => Some(consumer.next().await),
                };
                let Some(next) = next else { break };
                deliveries.push(next.ok_or(SessionError::Cancelled)??);
            }
            Ok::<_, SessionError>(())
        };
        let Some(received) = self.handle_events_until(channel, all).await? else {
            // Requests that it may have received are requeued when the channel closes.
            consumer.cancel_in_time().await;
            return Ok(None);
        };
        received?;
        // Before the requests are settled, so that RabbitMQ delivers no others.
        consumer.cancel().await?;
        // Others may have come while the consumer was cancelled.
        while deliveries.len() < usize::from(count) {
            let Some(delivery) = consumer.next().await else { break };
            deliveries.push(delivery?);
        }
        Ok(Some(deliveries))
    }
}
