//! Carries a plan out: letter by letter, each leaves the queue only after its new copy is confirmed.

use std::{collections::HashSet, time::Duration};

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
    scan::Ids,
};
use crate::{
    broker::{
        Connector, Lane, Mandatory, PublishError, Replies,
        holding::{Bounds, Held},
        publisher::Outgoing,
        replies,
    },
    message::{Envelope, Outcome, Record, Status, Timestamp},
};

/// Letters are held for no longer than this, and then taken anew: RabbitMQ closes the channel of a
/// delivery that is unsettled for 30 minutes.
const ROUND: Duration = Duration::from_secs(600);

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
    left: HashSet<LetterId>,
    done: usize,
    next_at: Instant,
    replies: Replies,
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
        left: plan.ids.iter().cloned().collect(),
        done: 0,
        next_at: Instant::now(),
        replies: Replies::new(Connector::new(&inner.settings.broker)),
    };
    let ended = work.rounds().await;
    work.replies.close().await;
    Ok(Finish { done: work.done, left: work.left.len(), of: plan.ids.len(), ended: ended? })
}

impl<P: FnMut(&Step) + Send> Work<'_, P> {
    async fn rounds(&mut self) -> Result<Ended, Error> {
        loop {
            let mut desk = self.desk().await?;
            let survey = self.survey(&desk).await;
            if matches!(&survey, Ok(survey) if survey.readable.is_some()) {
                desk.close().await;
                desk = self.desk().await?;
            }
            let ended = match survey {
                Ok(survey) => self.round(&desk, survey).await,
                Err(error) => Err(error),
            };
            desk.close().await;
            match ended? {
                Some(ended) => return Ok(ended),
                None if self.left.is_empty() => return Ok(Ended::Complete),
                None => {}
            }
        }
    }

    async fn desk(&self) -> Result<Desk, DeskError> {
        self.inner.desk(self.actor, self.plan.action.name()).await
    }

    /// Looks where the plan's letters are now.
    async fn survey(&self, desk: &Desk) -> Result<Survey, Error> {
        let mut survey = Survey::default();
        let extent = desk
            .look(Ids::Given, |letter| {
                if self.left.contains(&letter.brief.id) {
                    survey.present.insert(letter.brief.id);
                }
                true
            })
            .await?;
        survey.whole = !extent.is_short();
        // With what cannot be read the connection ended, and it ends the next one, too.
        survey.readable = (extent.stopped == Some(super::Stopped::Unreadable)).then_some(extent.seen);
        Ok(survey)
    }

    /// Works on letters for as long as they may be held. `None`: there may be more to do.
    async fn round(&mut self, desk: &Desk, survey: Survey) -> Result<Option<Ended>, Error> {
        for id in &self.plan.ids {
            if self.left.contains(id) && !survey.present.contains(id) {
                let result = if survey.whole { StepResult::Vanished } else { StepResult::OutOfReach };
                self.left.remove(id);
                self.tell(id.clone(), None, result).await?;
            }
        }
        let mut replays = match self.plan.action {
            Action::Replay if !survey.present.is_empty() => {
                Some(Replays::listen(desk.publishing(), &self.inner.topology).await?)
            }
            _ => None,
        };
        let until = Instant::now() + ROUND;
        let mut bounds = Bounds { time: 2 * ROUND, ..Bounds::default() };
        if let Some(readable) = survey.readable {
            bounds.messages = readable;
        }
        let mut scan = desk.scan(bounds, Ids::Given).await?;
        let mut ended = None;
        while ended.is_none() && !self.left.is_empty() && Instant::now() < until {
            let Some((letter, held)) = scan.next().await.map_err(DeskError::from)? else {
                break;
            };
            if self.left.contains(&letter.brief.id) {
                if !self.turn(replays.as_mut()).await? {
                    ended = Some(Ended::Told);
                    break;
                }
                self.left.remove(&letter.brief.id);
                ended = self.step(desk, &letter, &held, replays.as_mut()).await?;
            }
        }
        scan.release().await.map_err(DeskError::from)?;
        Ok(ended)
    }

    /// Waits for the next letter's turn. `false`: told to stop.
    async fn turn(&mut self, replays: Option<&mut Replays>) -> Result<bool, Error> {
        let wait = async {
            match replays {
                Some(replays) => replays.ignore_until(self.next_at).await,
                None => {
                    tokio::time::sleep_until(self.next_at).await;
                    Ok(())
                }
            }
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

    async fn step(
        &mut self,
        desk: &Desk,
        letter: &Letter,
        held: &Held,
        replays: Option<&mut Replays>,
    ) -> Result<Option<Ended>, Error> {
        let envelope = letter.envelope();
        let (id, request_id) = (letter.brief.id.clone(), envelope.request_id.clone());
        let deed = Deed::Letter {
            action: self.plan.action.name(),
            reason: self.plan.action.reason(),
            plan: &self.plan.digest,
            id: &id,
            request_id: &request_id,
        };
        self.inner.audit.write(self.actor, &deed).await?;
        let published = match &self.plan.action {
            Action::Replay => {
                super::replay::publish(desk, &self.inner.topology, &envelope).await.map(|()| true)
            }
            Action::Discard { reason } => self.discard(desk, &envelope, reason).await,
        };
        let routed = match published {
            Ok(routed) => routed,
            Err(error) => {
                self.tell(id, Some(request_id), StepResult::Kept { why: error.to_string() }).await?;
                return Ok(Some(Ended::Kept));
            }
        };
        held.acknowledge().await.map_err(DeskError::from)?;
        self.done += 1;
        let result = match replays {
            Some(replays) => replays.outcome_of(&envelope, self.pace.wait, self.stop).await?,
            None => StepResult::Discarded { heard: routed },
        };
        let failed = result.is_failure();
        self.tell(id, Some(request_id), result).await?;
        Ok((failed && !self.pace.keep_going).then_some(Ended::Failure))
    }

    /// Publishes the outcome of a letter that is given up; `true` if a queue received it.
    async fn discard(&self, desk: &Desk, envelope: &Envelope, reason: &str) -> Result<bool, PublishError> {
        let outcome = discarded(envelope, reason);
        let body = outcome.encode().unwrap_or_default();
        let results = self.inner.topology.results();
        let trace = crate::telemetry::TraceContext::from_headers(envelope.properties.headers().as_ref());
        let mut properties = outcome.properties(envelope.correlation_id());
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
        let reply_to = envelope.properties.reply_to().as_ref().map(|queue| queue.as_str());
        let prefixes = &self.inner.settings.results.reply_to_prefixes;
        if let Some((queue, routing)) =
            reply_to.and_then(|queue| Some((queue, replies::routing(queue, prefixes)?)))
        {
            let copy = Outgoing { exchange: "", routing_key: queue, ..message };
            if let Err(error) = self.replies.send(&copy, routing).await {
                tracing::debug!(request_id = envelope.request_id, %error, "whoever asked may be gone");
            }
        }
        Ok(routed)
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

/// Where the plan's letters are.
#[derive(Debug, Default)]
struct Survey {
    present: HashSet<LetterId>,
    /// Whether all letters were looked at.
    whole: bool,
    /// Letters before the one that cannot be read, if there is one.
    readable: Option<usize>,
}

fn discarded(envelope: &Envelope, reason: &str) -> Outcome {
    let record = Record::read(&envelope.properties);
    Outcome {
        status: Status::Discarded,
        request_id: envelope.request_id.clone(),
        request: envelope.request.as_ref().ok().map(|request| request.identifiers().clone()),
        attempts: envelope.attempts,
        http_status: record.http_status,
        reason: Some(reason.to_owned()),
        detail: None,
        replays: envelope.replays,
        first_received_at: envelope.first_received_at,
        finished_at: Timestamp::now(),
    }
}
