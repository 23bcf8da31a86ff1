//! Carries a plan out: letter by letter, each leaves the queue only after its new copy is confirmed.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Inner,
    audit::{Actor, Deed},
    desk::{Desk, DeskError},
    letter::{Letter, LetterId},
    plan::{Action, Plan},
    replay::Replays,
    round::{Remaining, Round},
};
use crate::{
    broker::{
        Connector, Lane, Mandatory, PublishError, ReplyPublisher, browse::Bounds, publisher::Outgoing,
        replies,
    },
    message::{DeadLetterHeaders, Outcome, Status, Timestamp},
};

/// Letters are held for no longer than this, and then taken anew: RabbitMQ closes the channel of a
/// delivery that is unsettled for 30 minutes.
const ROUND: Duration = Duration::from_secs(600);
/// As many letters are held at once as take this long at the rate that was asked for: others cannot
/// see them meanwhile.
const HOLD: Duration = Duration::from_secs(300);
/// The most letters that are held at once.
const MAX_HELD: f64 = 10_000.0;
/// How often letters that are missing are looked for again, and how long is waited before: a worker
/// may be putting them back, where a policy took them out.
const RECHECKS: u32 = 1;
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a publish that is in flight may take when it was told to stop.
const LAST_CONFIRM: Duration = Duration::from_secs(5);
/// How often it is looked at whether RabbitMQ takes messages again.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(100);

/// How fast, and how far.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Letters a second, at most.
    pub per_second: f64,
    /// How long a replayed request's outcome is waited for.
    pub wait: Duration,
    /// Whether to go on after a letter that failed again.
    pub keep_going: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { per_second: 1.0, wait: Duration::from_secs(60), keep_going: false }
    }
}

/// What became of one letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Step {
    pub id: LetterId,
    pub request_id: Option<String>,
    #[serde(flatten)]
    pub result: StepResult,
}

/// What can become of a letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum StepResult {
    /// Replayed, and Trackfinity answered `true`.
    Unlocked,
    /// Replayed, and it failed again: there is a new letter.
    FailedAgain { status: String, reason: Option<String> },
    /// Replayed, and its outcome has not come in time. It is queued, or waits for a retry.
    Pending,
    /// Given up, and the outcome published. `heard`: whether a queue received it.
    Discarded { heard: bool },
    /// It is no longer in the queue: somebody else has replayed or discarded it.
    Vanished,
    /// It lies behind what can be looked at in one go; it stays.
    OutOfReach,
    /// It could not be published and stays in the queue.
    Kept { why: String },
}

impl StepResult {
    /// Whether it is a reason not to go on.
    fn is_failure(&self) -> bool {
        matches!(self, Self::FailedAgain { .. } | Self::Pending)
    }
}

/// Where it stood at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Finish {
    /// Letters that left the queue.
    pub done: usize,
    /// Letters of the plan of which nothing was said yet.
    pub left: usize,
    pub of: usize,
    pub ended: Ended,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// There was nothing left.
    Complete,
    /// It was told to stop.
    Told,
    /// A letter failed again, or its outcome did not come.
    Failure,
    /// A letter could not be published; nor could the next one.
    Kept,
}

/// What is needed for each letter.
struct Work<'a, P> {
    inner: &'a Inner,
    actor: &'a Actor,
    plan: &'a Plan,
    pace: &'a Pace,
    stop: &'a CancellationToken,
    progress: P,
    /// Letters of which nothing was said yet.
    left: Remaining,
    done: usize,
    next_at: Instant,
    replies: ReplyPublisher,
}

pub(super) async fn carry_out(
    inner: &Inner,
    actor: &Actor,
    plan: &Plan,
    pace: &Pace,
    stop: &CancellationToken,
    progress: impl FnMut(&Step) + Send,
) -> Result<Finish, Error> {
    let begin = Deed::Begin {
        action: plan.action.name(),
        reason: plan.action.reason(),
        plan: &plan.digest,
        letters: plan.ids.len(),
    };
    inner.audit.write(actor, &begin).await?;
    let mut work = Work {
        inner,
        actor,
        plan,
        pace,
        stop,
        progress,
        left: Remaining::new(&plan.ids),
        done: 0,
        next_at: Instant::now(),
        replies: ReplyPublisher::new(Connector::new(&inner.settings.broker)),
    };
    let desk = inner.desk(actor, plan.action.name()).await?;
    let ended = work.rounds(&desk).await;
    desk.close().await;
    work.replies.close().await;
    Ok(Finish { done: work.done, left: work.left.len(), of: plan.ids.len(), ended: ended? })
}

impl<P: FnMut(&Step) + Send> Work<'_, P> {
    async fn rounds(&mut self, desk: &Desk) -> Result<Ended, Error> {
        let _lock = desk.lock_changes().await?;
        let mut replays = match self.plan.action {
            Action::Replay => Some(Replays::listen(desk.publishing(), &self.inner.topology).await?),
            Action::Discard { .. } => None,
        };
        let mut rechecks = 0;
        loop {
            if self.left.is_empty() {
                return Ok(Ended::Complete);
            }
            if self.stop.is_cancelled() {
                return Ok(Ended::Told);
            }
            let most = (self.pace.per_second * HOLD.as_secs_f64()).clamp(1.0, MAX_HELD);
            let mut round = Round::take(desk, &self.left, most as usize, Bounds::default()).await?;
            let found = !round.held.is_empty();
            let (missing, whole) = (std::mem::take(&mut round.missing), round.whole);
            let ended = self.round(desk, &mut round, replays.as_mut()).await;
            let released = round.release(desk).await;
            // What failed first says why.
            let ended = ended?;
            released?;
            if let Some(ended) = ended {
                return Ok(ended);
            }
            if found {
                rechecks = 0;
            } else if rechecks < RECHECKS {
                rechecks += 1;
                self.next_at = self.next_at.max(Instant::now() + RECHECK_INTERVAL);
                if !self.wait(desk, replays.as_mut()).await? {
                    return Ok(Ended::Told);
                }
            } else {
                self.give_up(missing, whole).await?;
            }
        }
    }

    /// Works on the letters that are held, for as long as they may be. `None`: there may be more to
    /// do.
    async fn round(
        &mut self,
        desk: &Desk,
        round: &mut Round<'_>,
        mut replays: Option<&mut Replays>,
    ) -> Result<Option<Ended>, Error> {
        let until = Instant::now() + ROUND;
        while let Some((at, (letter, tag))) = round.held.pop_first() {
            if Instant::now() >= until {
                return Ok(None);
            }
            if !self.wait(desk, replays.as_deref_mut()).await? {
                return Ok(Some(Ended::Told));
            }
            let Some(id) = self.left.remove(at) else {
                continue;
            };
            let request_id = letter.request_id();
            let deed = Deed::Letter {
                action: self.plan.action.name(),
                reason: self.plan.action.reason(),
                plan: &self.plan.digest,
                id: &id,
                request_id: &request_id,
            };
            self.inner.audit.write(self.actor, &deed).await?;
            let routed = match self.publish(desk, &letter).await {
                Ok(routed) => routed,
                Err((why, ended)) => {
                    self.tell(id, Some(request_id), StepResult::Kept { why }).await?;
                    return Ok(Some(ended));
                }
            };
            round.acknowledge(tag).await?;
            desk.set_held(round.held.len());
            self.done += 1;
            let result = match (replays.as_deref_mut(), letter.envelope()) {
                (Some(replays), Some(envelope)) => {
                    replays.outcome_of(&envelope, self.pace.wait, self.stop).await?
                }
                _ => StepResult::Discarded { heard: routed },
            };
            let failed = result.is_failure();
            self.tell(id, Some(request_id), result).await?;
            if failed && !self.pace.keep_going {
                return Ok(Some(Ended::Failure));
            }
        }
        Ok(None)
    }

    /// Waits for the next letter's turn, and until RabbitMQ takes messages. `false`: told to stop.
    async fn wait(&mut self, desk: &Desk, replays: Option<&mut Replays>) -> Result<bool, Error> {
        let wait = async {
            match replays {
                Some(replays) => replays.ignore_until(self.next_at).await?,
                None => tokio::time::sleep_until(self.next_at).await,
            }
            while desk.publishing().status().blocked() {
                tokio::time::sleep(BLOCKED_INTERVAL).await;
            }
            Ok::<_, DeskError>(())
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(false),
            waited = wait => waited?,
        }
        let interval = Duration::try_from_secs_f64(1.0 / self.pace.per_second).unwrap_or(Duration::ZERO);
        self.next_at = Instant::now() + interval;
        Ok(true)
    }

    /// Publishes the request that a letter becomes again, or the outcome of one that is given up;
    /// `true` if a queue received it. Else why not, and why it ends with that.
    async fn publish(&self, desk: &Desk, letter: &Letter) -> Result<bool, (String, Ended)> {
        let publish = async {
            match (&self.plan.action, letter.envelope()) {
                (Action::Replay, Some(envelope)) => {
                    let published = super::replay::publish(desk, &self.inner.topology, &envelope).await;
                    published.map(|()| true).map_err(|error| error.to_string())
                }
                (Action::Replay, None) => Err("it cannot be replayed, as it cannot be read".to_owned()),
                (Action::Discard { reason }, _) => {
                    self.discard(desk, letter, reason).await.map_err(|error| error.to_string())
                }
            }
        };
        let told = async {
            self.stop.cancelled().await;
            let until = Instant::now() + LAST_CONFIRM;
            while Instant::now() < until && !desk.publishing().status().blocked() {
                tokio::time::sleep(BLOCKED_INTERVAL).await;
            }
        };
        tokio::select! {
            biased;
            published = publish => published.map_err(|why| (why, Ended::Kept)),
            () = told => {
                let why = "told to stop before RabbitMQ confirmed its copy, which may still be taken";
                Err((why.to_owned(), Ended::Told))
            }
        }
    }

    /// Publishes the outcome of a letter that is given up; `true` if a queue received it.
    async fn discard(&self, desk: &Desk, letter: &Letter, reason: &str) -> Result<bool, PublishError> {
        let outcome = discarded(letter, reason);
        let body = outcome.encode().unwrap_or_default();
        let results = self.inner.topology.results();
        let lossy = letter.properties.lossy();
        let trace = crate::telemetry::TraceContext::from_headers(lossy.headers().as_ref());
        let envelope = letter.envelope();
        let mut properties = outcome.properties(envelope.as_ref().and_then(|of| of.correlation_id()));
        if let Some(trace) = trace {
            properties = properties.with_headers(trace.headers());
        }
        let message = Outgoing {
            exchange: &results,
            routing_key: outcome.status.routing_key(),
            properties,
            body: &body,
        };
        let routing = match self.inner.settings.results.require_subscriber {
            true => Mandatory::Required(Lane::Outcomes),
            false => Mandatory::Reported,
        };
        let routed = desk.publisher().publish(&message, routing).await?;
        let reply_to = lossy.reply_to().as_ref().map(|queue| queue.as_str());
        let prefixes = &self.inner.settings.results.reply_to_prefixes;
        if let Some((queue, routing)) =
            reply_to.and_then(|queue| Some((queue, replies::routing(queue, prefixes)?)))
        {
            let copy = Outgoing { exchange: "", routing_key: queue, ..message };
            if let Err(error) = self.replies.send(&copy, routing).await {
                tracing::debug!(request_id = outcome.request_id, %error, "whoever asked may be gone");
            }
        }
        Ok(routed)
    }

    /// Says of letters that they are not there, or cannot be reached.
    async fn give_up(&mut self, missing: Vec<usize>, whole: bool) -> Result<(), Error> {
        for at in missing {
            if let Some(id) = self.left.remove(at) {
                let result = if whole { StepResult::Vanished } else { StepResult::OutOfReach };
                self.tell(id, None, result).await?;
            }
        }
        Ok(())
    }

    /// Writes down what became of a letter, and says it.
    async fn tell(
        &mut self,
        id: LetterId,
        request_id: Option<String>,
        result: StepResult,
    ) -> Result<(), Error> {
        let deed = Deed::Result {
            action: self.plan.action.name(),
            plan: &self.plan.digest,
            id: &id,
            result: &result,
        };
        self.inner.audit.write(self.actor, &deed).await?;
        (self.progress)(&Step { id, request_id, result });
        Ok(())
    }
}

fn discarded(letter: &Letter, reason: &str) -> Outcome {
    let record = DeadLetterHeaders::from_properties(&letter.properties);
    let now = Timestamp::now();
    let envelope = letter.envelope();
    let request = envelope.as_ref().and_then(|envelope| envelope.request.as_ref().ok());
    Outcome {
        status: Status::Discarded,
        request_id: envelope.as_ref().map_or_else(|| letter.request_id(), |of| of.request_id.clone()),
        request: request.map(|request| request.identifiers().clone()),
        attempts: record.attempts,
        http_status: record.http_status,
        reason: Some(reason.to_owned()),
        detail: None,
        replays: record.replays,
        // A moment to come is forged or from a clock ahead of this one.
        first_received_at: record.first_received_at.map_or(now, |first| first.min(now)),
        finished_at: now,
    }
}
