//! Executes a plan, one dead letter after the other. Each leaves the queue only after its new copy
//! is confirmed.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    DeadLetters,
    audit::{Actor, AuditEvent},
    copies::Copy,
    dead_letter::{DeadLetter, DeadLetterId},
    error::{AccessError, Error},
    inner::Inner,
    options::ReplayOptions,
    plan::{Action, Plan},
    replay::{self, OutcomeListener},
    result::{Ended, Finish, ResultCounts, Step, StepResult},
    round::{Remaining, Round},
    session::LockedSession,
};
use crate::{
    broker::{Lane, Mandatory, PublishError, ReplyPublisher, browse::Bounds, publisher::Outgoing, replies},
    message::{Correction, Outcome},
    telemetry::TraceContext,
};

/// After this time a round releases its dead letters and consumes again: RabbitMQ closes the
/// channel of a delivery that is not acknowledged for 30 minutes.
const MAX_ROUND: Duration = Duration::from_secs(600);
/// A round takes only as many dead letters as can be replayed in this time, because others cannot
/// see them meanwhile.
const ROUND_TARGET: Duration = Duration::from_secs(300);
/// The most dead letters that one round takes.
const MAX_ROUND_COUNT: usize = 10_000;
/// How often to look again for dead letters that are missing, and how long to wait before: a policy
/// may have dead-lettered them to another queue, from where a worker puts them back.
const RECHECKS: u32 = 1;
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait for the confirm of a publish in flight, once the execution is stopped.
const LAST_CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// How often to check whether RabbitMQ still blocks publishing.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(100);

/// State of one execution of a plan.
struct Execution<'a, R> {
    inner: &'a Inner,
    actor: &'a Actor,
    plan: &'a Plan,
    options: &'a ReplayOptions,
    stop: &'a CancellationToken,
    report: R,
    /// Dead letters without a result.
    remaining: Remaining,
    results: ResultCounts,
    next_at: Instant,
    replies: ReplyPublisher,
}

impl DeadLetters {
    /// Executes a plan, one dead letter after the other, until it is complete, a failure stops it,
    /// or `stop` is cancelled. Calls `report` with each result.
    ///
    /// # Errors
    /// If the audit log or the broker fails. What was done before stays done.
    pub async fn execute(
        &self,
        actor: &Actor,
        plan: &Plan,
        options: &ReplayOptions,
        stop: &CancellationToken,
        report: impl FnMut(&Step) + Send,
    ) -> Result<Finish, Error> {
        let inner = &self.inner;
        let begin = AuditEvent::Begin {
            action: plan.action.name(),
            reason: plan.action.reason(),
            set: plan.action.correction().map(Correction::fields).unwrap_or_default(),
            plan: &plan.digest,
            dead_letters: plan.ids.len(),
        };
        inner.audit.write(actor, &begin).await?;
        let mut execution = Execution {
            inner,
            actor,
            plan,
            options,
            stop,
            report,
            remaining: Remaining::new(&plan.ids),
            results: ResultCounts::default(),
            next_at: Instant::now(),
            replies: ReplyPublisher::new(inner.connector.clone()),
        };
        let session = inner.open_session(actor, plan.action.name()).await?;
        let ended = execution.run_rounds(&session).await;
        session.close().await;
        execution.replies.close().await;
        Ok(Finish {
            results: execution.results,
            remaining: execution.remaining.len(),
            total: plan.ids.len(),
            ended: ended?,
        })
    }
}

impl<R: FnMut(&Step) + Send> Execution<'_, R> {
    async fn run_rounds(&mut self, session: &LockedSession) -> Result<Ended, Error> {
        let _lock = session.lock_changes().await?;
        let mut outcomes = match self.plan.action {
            Action::Replay { .. } => {
                Some(OutcomeListener::new(&session.publishing, &self.inner.topology).await?)
            }
            Action::Discard { .. } => None,
        };
        let mut rechecks = 0;
        loop {
            if self.remaining.is_empty() {
                return Ok(Ended::Complete);
            }
            let max = self.max_round_count();
            let taking = Round::take(session, &self.remaining, max, Bounds::DEFAULT);
            let Some(round) = self.stop.run_until_cancelled(taking).await else {
                return Ok(Ended::Stopped);
            };
            let mut round = round?;
            let found = !round.taken.is_empty();
            let (missing, saw_all) = (std::mem::take(&mut round.missing), round.saw_all);
            let ended = self.run_round(session, &mut round, outcomes.as_mut()).await;
            let released = round.release(session).await;
            // The first error names the cause.
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
                if !self.wait(session, outcomes.as_mut()).await? {
                    return Ok(Ended::Stopped);
                }
            } else {
                self.report_missing(missing, saw_all).await?;
            }
        }
    }

    fn max_round_count(&self) -> usize {
        match self.plan.action {
            Action::Replay { .. } => {
                let count = self.options.rate.per_second() * ROUND_TARGET.as_secs_f64();
                (count as usize).clamp(1, MAX_ROUND_COUNT)
            }
            Action::Discard { .. } => MAX_ROUND_COUNT,
        }
    }

    /// Processes the dead letters that the round has taken. `None`: another round may find more.
    async fn run_round(
        &mut self,
        session: &LockedSession,
        round: &mut Round,
        mut outcomes: Option<&mut OutcomeListener>,
    ) -> Result<Option<Ended>, Error> {
        let until = Instant::now() + MAX_ROUND;
        while let Some((at, (dead_letter, tag))) = round.taken.pop_first() {
            if Instant::now() >= until {
                return Ok(None);
            }
            if !self.wait(session, outcomes.as_deref_mut()).await? {
                return Ok(Some(Ended::Stopped));
            }
            let Some(id) = self.remaining.remove(at) else {
                continue;
            };
            let copy = Copy::of(&dead_letter, &self.plan.action);
            let request_id = dead_letter.request_id();
            let event = AuditEvent::DeadLetter {
                action: self.plan.action.name(),
                reason: self.plan.action.reason(),
                plan: &self.plan.digest,
                id: &id,
                request_id: &request_id,
                correction: copy
                    .as_ref()
                    .ok()
                    .and_then(|copy| copy.correction(&dead_letter, &self.plan.action)),
            };
            self.inner.audit.write(self.actor, &event).await?;
            let routed = match self.publish(session, &dead_letter, &copy).await {
                Ok(routed) => routed,
                Err((why, ended)) => {
                    self.record(id, Some(request_id), StepResult::PublishFailed { why }).await?;
                    return Ok(Some(ended));
                }
            };
            round.acknowledge(tag).await?;
            session.set_taken(round.taken.len());
            let (request_id, result) = match (outcomes.as_deref_mut(), copy) {
                (Some(outcomes), Ok(Copy::Request(request))) => {
                    let result = outcomes.outcome_of(&request, self.options.wait, self.stop).await?;
                    (request.request_id, result)
                }
                _ => (request_id, StepResult::Discarded { routed }),
            };
            let ended = result.ends(self.options.keep_going, self.stop.is_cancelled());
            self.record(id, Some(request_id), result).await?;
            if ended.is_some() {
                return Ok(ended);
            }
        }
        Ok(None)
    }

    /// Waits until the rate allows the next dead letter and RabbitMQ accepts messages. `false`: the
    /// execution was stopped.
    async fn wait(
        &mut self,
        session: &LockedSession,
        outcomes: Option<&mut OutcomeListener>,
    ) -> Result<bool, Error> {
        let wait = async {
            match outcomes {
                Some(outcomes) => outcomes.discard_until(self.next_at).await?,
                None => tokio::time::sleep_until(self.next_at).await,
            }
            while session.publishing.status().blocked() {
                tokio::time::sleep(BLOCKED_INTERVAL).await;
            }
            Ok::<_, AccessError>(())
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(false),
            waited = wait => waited?,
        }
        if matches!(self.plan.action, Action::Replay { .. }) {
            self.next_at = Instant::now() + self.options.rate.interval();
        }
        Ok(true)
    }

    /// Publishes the request of a replay or the outcome of a discard. `true`: a queue received it.
    /// The error says why not, and how the execution ends.
    async fn publish(
        &self,
        session: &LockedSession,
        dead_letter: &DeadLetter,
        copy: &Result<Copy, String>,
    ) -> Result<bool, (String, Ended)> {
        let publish = async {
            match copy.as_ref().map_err(String::clone)? {
                Copy::Request(request) => {
                    let published = replay::publish(session, &self.inner.topology, request).await;
                    published.map(|()| true).map_err(|error| error.to_string())
                }
                Copy::Outcome(outcome) => {
                    let body = outcome.encode().map_err(|error| error.to_string())?;
                    let published = self.publish_outcome(session, dead_letter, outcome, &body).await;
                    published.map_err(|error| error.to_string())
                }
            }
        };
        let stopped = async {
            self.stop.cancelled().await;
            let until = Instant::now() + LAST_CONFIRM_TIMEOUT;
            while Instant::now() < until && !session.publishing.status().blocked() {
                tokio::time::sleep(BLOCKED_INTERVAL).await;
            }
        };
        tokio::select! {
            biased;
            published = publish => published.map_err(|why| (why, Ended::PublishFailed)),
            () = stopped => {
                let why = "stopped before RabbitMQ confirmed its copy; RabbitMQ may still accept the copy";
                Err((why.to_owned(), Ended::Stopped))
            }
        }
    }

    /// Publishes the outcome of a discarded dead letter. `true`: a queue received it.
    async fn publish_outcome(
        &self,
        session: &LockedSession,
        dead_letter: &DeadLetter,
        outcome: &Outcome,
        body: &[u8],
    ) -> Result<bool, PublishError> {
        let results = self.inner.topology.results();
        let lossy = dead_letter.properties.lossy();
        let trace = TraceContext::from_headers(lossy.headers().as_ref());
        let envelope = dead_letter.envelope();
        let properties = outcome.properties(envelope.as_ref().and_then(|of| of.correlation_id()));
        let trace = trace.as_ref().map(TraceContext::headers).unwrap_or_default();
        let properties = outcome.with_headers(properties, trace, self.inner.topology.keeps_history());
        let message =
            Outgoing { exchange: &results, routing_key: outcome.status.routing_key(), properties, body };
        let routing = match self.inner.settings.results.require_subscriber {
            true => Mandatory::Required(Lane::Outcomes),
            false => Mandatory::Reported,
        };
        let routed = session.publisher.publish(&message, routing).await?;
        let reply_to = lossy.reply_to().as_ref().map(|queue| queue.as_str());
        let prefixes = &self.inner.settings.results.reply_to_prefixes;
        if let Some((queue, routing)) =
            reply_to.and_then(|queue| Some((queue, replies::routing(queue, prefixes)?)))
        {
            let copy = Outgoing { exchange: "", routing_key: queue, ..message };
            if let Err(error) = self.replies.send(&copy, routing).await {
                tracing::debug!(request_id = outcome.request_id, %error, "no copy of the outcome to reply_to");
            }
        }
        Ok(routed)
    }

    /// Reports dead letters that are gone, or out of reach if not all were seen.
    async fn report_missing(&mut self, missing: Vec<usize>, saw_all: bool) -> Result<(), Error> {
        for at in missing {
            if let Some(id) = self.remaining.remove(at) {
                let result = if saw_all { StepResult::Gone } else { StepResult::OutOfReach };
                self.record(id, None, result).await?;
            }
        }
        Ok(())
    }

    /// Writes a result to the audit log, then reports it.
    async fn record(
        &mut self,
        id: DeadLetterId,
        request_id: Option<String>,
        result: StepResult,
    ) -> Result<(), Error> {
        let event = AuditEvent::Result {
            action: self.plan.action.name(),
            plan: &self.plan.digest,
            id: &id,
            result: &result,
        };
        self.inner.audit.write(self.actor, &event).await?;
        self.results.add(&result);
        (self.report)(&Step { id, request_id, result });
        Ok(())
    }
}
