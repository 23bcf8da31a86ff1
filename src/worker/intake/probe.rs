//! One probe after the other, while calls are paused: whether Trackfinity serves again.

use std::time::Duration;

use lapin::{Channel, message::Delivery};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout_at},
};

use super::{Intake, Turn};
use crate::{
    breaker::ProbeStep,
    broker::Consumer,
    policy::Judgement,
    worker::{CallKind, ProbedCall, letter::Letter, loss::Loss},
};

/// How long a probe waits for another request: as long as the shortest tier lasts, in which those that
/// were taken when the breaker opened wait.
const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);
/// Requests that have just failed are passed over, but no more than this many: they may be all there is,
/// under one id.
const MAX_PASSED_OVER: usize = 50;

/// What a probe may try next.
enum Candidate {
    Request(Box<Letter>),
    /// No other request waits.
    NoOther,
    /// The worker stops.
    Stop,
}

impl Intake<'_> {
    /// Waits for the next probe's time, and makes the probe.
    pub(super) async fn probe(&mut self, channel: &Channel) -> Result<Turn, Loss> {
        self.publishing.status.consuming();
        let turn = match self.wait_for_probe_time(channel).await {
            Ok(true) => self.try_requests(channel).await,
            Ok(false) => Ok(Turn::Stop),
            Err(loss) => Err(loss),
        };
        // If the probe did not finish, as when the worker stops or the session is lost.
        self.way.breaker.abandon_probe();
        turn
    }

    /// `false`: the worker stops.
    async fn wait_for_probe_time(&mut self, channel: &Channel) -> Result<bool, Loss> {
        let client = self.way.client.clone();
        let mut credentials = client.credentials_version();
        while let Some(due) = self.next_probe_at() {
            let wait = async {
                tokio::select! {
                    () = sleep_until(due) => None,
                    version = client.credentials_changed(credentials) => Some(version),
                }
            };
            match self.attend(channel, wait).await? {
                None => return Ok(false),
                Some(None) => {}
                Some(Some(version)) => {
                    credentials = version;
                    self.way.breaker.probe_now();
                }
            }
        }
        Ok(true)
    }

    fn next_probe_at(&self) -> Option<Instant> {
        let pause = self.way.breaker.pause()?;
        pause.probe_at.filter(|due| *due > Instant::now())
    }

    /// Tries requests one after the other until the breaker has learned enough. What failed is settled
    /// only then, as only then is it known whose fault it was.
    async fn try_requests(&mut self, channel: &Channel) -> Result<Turn, Loss> {
        let mut tried: Vec<oneshot::Sender<Judgement>> = Vec::new();
        let mut has_begun = false;
        let step = loop {
            let letter = match self.candidate(channel, has_begun, tried.len()).await? {
                Candidate::Request(letter) => letter,
                Candidate::NoOther => break self.way.breaker.probe_exhausted(),
                Candidate::Stop => return Ok(Turn::Stop),
            };
            if !has_begun {
                if self.next_probe_at().is_some() {
                    // A late answer to another call asked for a longer wait; this one goes to a tier.
                    self.spawn_letter(*letter, CallKind::Ordinary);
                    return Ok(Turn::Paused);
                }
                self.way.client.refresh_secrets().await;
                self.way.breaker.begin_probe();
                has_begun = true;
            }
            let request_id = letter.envelope.request_id.clone();
            let (answered, answer) = oneshot::channel();
            let (judge, judgement) = oneshot::channel();
            self.spawn_letter(*letter, CallKind::Probe(ProbedCall { answered, judgement }));
            let (started, result) = match self.attend(channel, answer).await? {
                None => return Ok(Turn::Stop),
                Some(Ok(answer)) => answer,
                // It came to no call.
                Some(Err(_dropped)) => continue,
            };
            tried.push(judge);
            match self.way.breaker.probe_answered(&request_id, started, result) {
                ProbeStep::TryAnother => {}
                step => break step,
            }
        };
        let judgement = match step {
            ProbeStep::Over(judgement) => judgement,
            ProbeStep::TryAnother | ProbeStep::Ping => {
                let way = self.way.clone();
                let Some(success) = self.attend(channel, way.is_trackfinity_well()).await? else {
                    return Ok(Turn::Stop);
                };
                self.way.breaker.ping_answered(success)
            }
        };
        for judge in tried {
            // A task that is gone has lost its session.
            judge.send(judgement).ok();
        }
        Ok(Turn::Paused)
    }

    /// The next request that a probe may try: the first one is waited for as long as it takes, another
    /// one for a moment. Invalid requests and pending outcomes need no call: they are processed beside the
    /// probe.
    ///
    /// `tried`: requests that this probe has tried. They wait for its end, so they take up no place.
    async fn candidate(
        &mut self,
        channel: &Channel,
        has_begun: bool,
        tried: usize,
    ) -> Result<Candidate, Loss> {
        // For all that is taken in vain: a request that has just failed comes back sooner than this, and
        // would keep the probe going on for ever.
        let deadline = has_begun.then(|| Instant::now() + NEXT_REQUEST_TIMEOUT);
        let mut passed_over = 0;
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Candidate::NoOther);
            }
            if !self.has_room_beside(tried) {
                // A task that ends is seen to meanwhile, and makes room.
                let wait = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline).await,
                        None => std::future::pending().await,
                    }
                };
                let Some(()) = self.attend_once(channel, wait).await? else {
                    return Ok(Candidate::Stop);
                };
                continue;
            }
            let Some(taken) = self.take_one(channel, deadline).await? else {
                return Ok(Candidate::Stop);
            };
            let Some(delivery) = taken else {
                return Ok(Candidate::NoOther);
            };
            let letter = self.open_letter(delivery);
            if letter.pending.is_some() || letter.envelope.request.is_err() {
                self.spawn_letter(letter, CallKind::Ordinary);
                continue;
            }
            let has_just_failed = self.way.breaker.has_just_failed(&letter.envelope.request_id);
            let others_wait = passed_over < MAX_PASSED_OVER
                && (has_begun || Consumer::message_count(channel, &self.queue).await? > 0);
            if has_just_failed && has_begun && !others_wait {
                self.spawn_letter(letter, CallKind::Ordinary);
                return Ok(Candidate::NoOther);
            }
            if has_just_failed && others_wait {
                passed_over += 1;
                // While calls are paused it goes to the shortest tier, untried, and so behind the others.
                self.spawn_letter(letter, CallKind::Ordinary);
                continue;
            }
            return Ok(Candidate::Request(Box::new(letter)));
        }
    }

    /// Takes one request from the queue; `Some(None)` if none came in time, `None` if the worker stops.
    async fn take_one(
        &mut self,
        channel: &Channel,
        deadline: Option<Instant>,
    ) -> Result<Option<Option<Delivery>>, Loss> {
        let mut consumer = self.consume(channel, 1).await?;
        let next = async {
            match deadline {
                Some(deadline) => timeout_at(deadline, consumer.next()).await.ok(),
                None => Some(consumer.next().await),
            }
        };
        let Some(next) = self.attend(channel, next).await? else {
            // What it may have been delivered goes back to the queue when the channel is closed.
            consumer.cancel_in_time().await;
            return Ok(None);
        };
        let delivery = match next {
            Some(delivery) => Some(delivery.ok_or(Loss::Cancelled)??),
            None => None,
        };
        // Before it is settled, so that no second one is delivered.
        consumer.cancel().await?;
        match delivery {
            Some(delivery) => Ok(Some(Some(delivery))),
            // It may have come while it was cancelled.
            None => Ok(Some(consumer.next().await.transpose()?)),
        }
    }
}
