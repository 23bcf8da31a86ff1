//! The way of one message: take, validate, call, publish, acknowledge; in that order, whatever
//! happens. One task owns one delivery until it may be acknowledged, which the intake does for all.

mod calls;
mod concurrency;
mod intake;
mod late_confirms;
mod letter;
mod loss;
mod outcomes;
pub mod publish_health;
mod publishing;
pub mod queues;
mod rate;
mod settlement;
pub mod shared_breaker;
pub mod status;
mod supervisor;
mod undeliverable;
mod unreadable;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::{KeyValue, trace::SpanKind};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::supervisor::{RunError, Worker};
use self::{
    calls::CallGuard,
    concurrency::Call,
    letter::{Letter, detail, http_status, response},
    publishing::Publishing,
    rate::RateLimiter,
    shared_breaker::SharedBreaker,
};
use crate::{
    breaker::CallResult,
    message::{DeadLetterInfo, Fault, Outcome, RetryInfo, Status, Timestamp, UnlockRequest},
    policy::{self, AttemptHistory, Classification, Judgement, Reason, Reply, RetryLimits, Tier, Verdict},
    telemetry::{Parent, Telemetry, TraceContext, semconv},
    trackfinity::{Client, Endpoint},
};

/// What every message's way needs, for the life of the process.
#[derive(Debug)]
struct Way {
    client: Client,
    breaker: Arc<SharedBreaker>,
    telemetry: Telemetry,
    rate: Option<RateLimiter>,
    limits: RetryLimits,
    /// Whether an answer has come that a wrong address could not give.
    address_proven: AtomicBool,
    /// Ends the wait of requests that are not under way yet.
    stop: CancellationToken,
}

/// Why a request is tried.
#[derive(Debug)]
enum CallKind {
    Ordinary,
    /// To find out whether Trackfinity serves again.
    Probe(ProbedCall),
}

/// A request's part in a probe: it reports how its call went, and receives whose fault a failure was.
/// If the probe ends early, both channels close and the request stops waiting.
#[derive(Debug)]
struct ProbedCall {
    answered: oneshot::Sender<(Instant, CallResult)>,
    judgement: oneshot::Receiver<Judgement>,
}

/// Why a message was left in the queue.
#[derive(Debug, thiserror::Error)]
enum Unsettled {
    #[error("an outcome cannot be encoded: {0}")]
    Encode(serde_json::Error),
    #[error("an outcome cannot be signed")]
    Unproven,
    #[error("the connection to RabbitMQ opens no more channels")]
    NoChannel,
    #[error("the session ended")]
    SessionEnded,
    #[error("the worker stops")]
    Stopping,
}

/// What became of a message that is settled: a low-cardinality reason, unless it was unlocked.
type Settled = Option<String>;

/// A delivery that may be acknowledged: what came of it is confirmed.
#[derive(Clone, Copy, Debug)]
struct Done {
    delivery_tag: u64,
    /// The call to Trackfinity, if there was an ordinary one.
    call: Option<Call>,
}

impl Way {
    /// Goes the whole way of one delivery, up to its acknowledgement.
    async fn go(
        &self,
        mut letter: Letter,
        kind: CallKind,
        in_call: CallGuard,
        publishing: &Publishing,
    ) -> Result<Done, Unsettled> {
        let _in_flight = self.telemetry.metrics.taken();
        let started = Instant::now();
        let (queue, delivery_tag) = (publishing.queue(), letter.delivery_tag);
        let settled = match (&letter.pending, &letter.envelope.request) {
            (Some(pending), _) => {
                drop((in_call, kind));
                Box::pin(publishing.outcome(&pending.outcome, &letter, pending.retries))
                    .await
                    .map(|()| (pending.outcome.reason.clone(), None))
            }
            (None, Err(fault)) => {
                drop((in_call, kind));
                Box::pin(self.invalid(&letter, fault, publishing)).await.map(|settled| (settled, None))
            }
            (None, Ok(request)) => self.unlock(request, &letter, kind, in_call, publishing).await,
        };
        match settled {
            Ok((reason, call)) => {
                let error_type = reason.as_deref();
                self.telemetry.metrics.processed(queue, started.elapsed(), error_type);
                if let Some(error_type) = error_type {
                    letter.span.set_error(error_type);
                }
                Ok(Done { delivery_tag, call })
            }
            Err(unsettled) => {
                letter.span.set_error("unsettled");
                Err(unsettled)
            }
        }
    }

    async fn unlock(
        &self,
        request: &UnlockRequest,
        letter: &Letter,
        kind: CallKind,
        in_call: CallGuard,
        publishing: &Publishing,
    ) -> Result<(Settled, Option<Call>), Unsettled> {
        let taken = Instant::now();
        match &kind {
            CallKind::Probe(_) => self.turn(|| true).await?,
            CallKind::Ordinary if self.may_call().await? => {}
            CallKind::Ordinary => {
                drop(in_call);
                return Ok((Box::pin(self.defer(letter, publishing)).await?, None));
            }
        }
        let sent = Instant::now();
        let reply = self
            .call(Endpoint::Unlock, Some(letter), async |trace| self.client.unlock(request, trace).await)
            .await;
        let took = sent.elapsed();
        let meaning = self.meaning(&reply, letter).await?;
        drop(in_call);
        self.telemetry.metrics.attempt(meaning.result());
        let rate_limit = match meaning {
            Classification::RateLimited(after) => policy::rate_limit_pause(after, Timestamp::now()),
            _ => Duration::ZERO,
        };
        let result = CallResult::new(meaning, rate_limit);
        let is_ordinary = matches!(kind, CallKind::Ordinary);
        let judgement = match kind {
            CallKind::Ordinary => self.breaker.record(&letter.envelope.request_id, sent, result),
            CallKind::Probe(probe) => {
                // Nobody hears it when the worker stops or the session is over.
                probe.answered.send((sent, result)).ok();
                probe.judgement.await.unwrap_or(Judgement::Spared)
            }
        };
        let call = Call { took, waited: sent - taken, served: result == CallResult::Served };
        let call = is_ordinary.then_some(call);
        let past = AttemptHistory {
            attempts: letter.envelope.attempts,
            first_received_at: letter.envelope.first_received_at,
            judgement,
        };
        let jitter = 1.0 - fastrand::f64();
        let verdict = policy::decide(meaning, past, Timestamp::now(), jitter, &self.limits);
        Ok((self.carry_out(verdict, &reply, letter, publishing).await?, call))
    }

    /// Makes a call, with a span and a measure of its own.
    async fn call(
        &self,
        endpoint: Endpoint,
        letter: Option<&Letter>,
        make: impl AsyncFnOnce(Option<&TraceContext>) -> Reply,
    ) -> Reply {
        let name = || endpoint.span_name().to_owned();
        let attributes = || self.client.attributes(endpoint);
        let parent = letter.map_or(Parent::Producer(None), |letter| Parent::Span(letter.trace()));
        let mut span = self.telemetry.traces.start(name, SpanKind::Client, parent, attributes);
        let resends = letter.map_or(0, |letter| i64::from(letter.envelope.attempts));
        if endpoint == Endpoint::Unlock && resends > 0 {
            span.set(|| KeyValue::new(semconv::HTTP_REQUEST_RESEND_COUNT, resends));
        }
        let started = Instant::now();
        let reply = make(span.context()).await;
        let error_type = letter::call_error(&reply);
        self.telemetry.metrics.called(
            endpoint.method(),
            http_status(&reply),
            error_type.as_deref(),
            started.elapsed(),
        );
        if let Some(status) = http_status(&reply) {
            span.set(|| KeyValue::new(semconv::HTTP_RESPONSE_STATUS_CODE, i64::from(status)));
        }
        if let Some(error_type) = error_type {
            span.set_error(&error_type);
        }
        reply
    }

    /// Waits for its turn under the rate limit; false if calls are paused.
    async fn may_call(&self) -> Result<bool, Unsettled> {
        let flowing = || self.breaker.cause().is_none();
        self.turn(flowing).await?;
        Ok(flowing())
    }

    async fn turn(&self, wanted: impl Fn() -> bool) -> Result<(), Unsettled> {
        let Some(rate) = &self.rate else {
            return Ok(());
        };
        tokio::select! {
            () = rate.turn(wanted) => Ok(()),
            () = self.stop.cancelled() => Err(Unsettled::Stopping),
        }
    }

    /// What a reply means; asks for a ping where a 404 alone does not tell.
    async fn meaning(&self, reply: &Reply, letter: &Letter) -> Result<Classification, Unsettled> {
        let meaning = policy::classify(reply);
        if meaning.proves_address() && !self.address_proven.load(Ordering::Relaxed) {
            self.address_proven.store(true, Ordering::Relaxed);
        }
        if meaning != Classification::NotFound || self.address_proven.load(Ordering::Relaxed) {
            return Ok(meaning);
        }
        match is_success(&Box::pin(self.ping(Some(letter))).await?) {
            true => Ok(meaning),
            false => Ok(Classification::EndpointFault(Reason::Http(404))),
        }
    }

    async fn ping(&self, letter: Option<&Letter>) -> Result<Reply, Unsettled> {
        self.turn(|| true).await?;
        Ok(self.call(Endpoint::Ping, letter, async |trace| self.client.ping(trace).await).await)
    }

    /// Whether Trackfinity answers its ping with a 2xx.
    async fn is_trackfinity_well(&self) -> bool {
        self.ping(None).await.as_ref().is_ok_and(is_success)
    }

    async fn carry_out(
        &self,
        verdict: Verdict,
        reply: &Reply,
        letter: &Letter,
        publishing: &Publishing,
    ) -> Result<Settled, Unsettled> {
        match verdict {
            Verdict::Unlocked { attempts } => {
                let outcome = letter.outcome(Status::Unlocked, attempts, reply);
                publishing.outcome(&outcome, letter, 0).await?;
                Ok(None)
            }
            Verdict::Refused { attempts, reason } => {
                let outcome = letter.failure(Status::Refused, attempts, reason, reply);
                Box::pin(self.bury(outcome, response(reply), letter, publishing)).await
            }
            Verdict::Abandoned { attempts, reason } => {
                let outcome = letter.failure(Status::Abandoned, attempts, reason, reply);
                Box::pin(self.bury(outcome, response(reply), letter, publishing)).await
            }
            Verdict::Retry { attempts, reason, tier } => {
                let parked = RetryInfo {
                    reason: Some(reason.to_string()),
                    detail: Some(detail(reason, reply)),
                    http_status: http_status(reply),
                    attempts,
                };
                Box::pin(publishing.parked(&parked, tier, letter)).await?;
                Ok(parked.reason)
            }
        }
    }

    /// A request that came in while calls are paused goes to the shortest tier without a call.
    async fn defer(&self, letter: &Letter, publishing: &Publishing) -> Result<Settled, Unsettled> {
        let attempts = letter.envelope.attempts;
        let parked = RetryInfo { reason: None, detail: None, http_status: None, attempts };
        publishing.parked(&parked, Tier::SHORTEST, letter).await?;
        Ok(Some("paused".to_owned()))
    }

    async fn invalid(
        &self,
        letter: &Letter,
        fault: &Fault,
        publishing: &Publishing,
    ) -> Result<Settled, Unsettled> {
        let outcome = Outcome {
            request: fault.readable.clone(),
            reason: Some(fault.code.as_str().to_owned()),
            detail: Some(fault.detail.clone()),
            ..letter.blank_outcome(Status::Invalid, letter.envelope.attempts)
        };
        self.bury(outcome, None, letter, publishing).await
    }

    /// Publishes the dead letter before the outcome, so that a listener who reacts to the outcome finds
    /// it.
    async fn bury(
        &self,
        outcome: Outcome,
        response: Option<String>,
        letter: &Letter,
        publishing: &Publishing,
    ) -> Result<Settled, Unsettled> {
        publishing.dead_letter(&death_of(&outcome, response), letter).await?;
        publishing.outcome(&outcome, letter, 0).await?;
        Ok(outcome.reason)
    }
}

fn is_success(reply: &Reply) -> bool {
    http_status(reply).is_some_and(|status| (200..=299).contains(&status))
}

/// What the dead letter of a request with this outcome says.
fn death_of(outcome: &Outcome, response: Option<String>) -> DeadLetterInfo {
    DeadLetterInfo {
        status: outcome.status,
        reason: outcome.reason.clone().unwrap_or_default(),
        detail: outcome.detail.clone(),
        http_status: outcome.http_status,
        response,
        attempts: outcome.attempts,
        dead_at: outcome.finished_at,
    }
}
