//! How one message is processed, from top to bottom: decode, wait, call, classify, record, decide,
//! settle. One task owns one delivery until it may be acknowledged; the [consume
//! loop](super::consume) then acknowledges for all tasks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::message::Delivery;
use opentelemetry::{KeyValue, trace::SpanKind};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    calls::CallGuard,
    concurrency::Call,
    incoming::{Incoming, call_error, failure_detail, http_status, response_excerpt},
    publish::SessionPublisher,
    rate::RateLimiter,
    shared_breaker::SharedBreaker,
};
use crate::{
    breaker::CallResult,
    message::{Death, Fault, Outcome, Parked, Status, Timestamp, UnlockRequest},
    policy::{self, Judgement, Meaning, Past, Reason, Reply, RetryLimits, Tier, Verdict},
    telemetry::{Parent, Telemetry, TraceContext, names},
    trackfinity::{Client, Endpoint},
};

/// State shared by all message handlers; lives as long as the process.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) client: Client,
    pub(super) breaker: Arc<SharedBreaker>,
    pub(super) telemetry: Telemetry,
    pub(super) rate: Option<RateLimiter>,
    pub(super) limits: RetryLimits,
    /// Whether Trackfinity has sent an answer that a wrong address could not give.
    pub(super) address_proven: AtomicBool,
    /// Ends the wait of requests that are not called for yet.
    pub(super) stop: CancellationToken,
}

/// Why a request is tried.
#[derive(Debug)]
pub(super) enum CallKind {
    Ordinary,
    /// To find out whether Trackfinity serves again.
    Probe(ProbedCall),
}

/// A request's part in a probe: it reports how its call went, and receives whose fault a failure
/// was. If the probe ends early, both channels close and the request stops waiting.
#[derive(Debug)]
pub(super) struct ProbedCall {
    pub(super) answered: oneshot::Sender<(Instant, CallResult)>,
    pub(super) judgement: oneshot::Receiver<Judgement>,
}

/// Why a message was left in the queue.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsettled {
    #[error("an outcome cannot be encoded: {0}")]
    Encode(serde_json::Error),
    #[error("an outcome cannot be signed")]
    Unproven,
    #[error("the connection to RabbitMQ opens no more channels")]
    NoChannel,
    #[error("the session ended")]
    SessionEnded,
    #[error("the worker is stopping")]
    Stopping,
}

/// What became of a message that is settled. The codes are for metrics and spans: there are few of
/// them.
#[derive(Debug)]
enum Disposition {
    Unlocked,
    Failed(String),
    Retrying(String),
}

impl From<&Outcome> for Disposition {
    fn from(outcome: &Outcome) -> Self {
        outcome.reason.clone().map_or(Self::Unlocked, Self::Failed)
    }
}

impl Disposition {
    fn error_type(&self) -> Option<&str> {
        match self {
            Self::Unlocked => None,
            Self::Failed(code) | Self::Retrying(code) => Some(code),
        }
    }
}

/// A delivery that may be acknowledged: what replaces it is confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    pub(super) delivery_tag: u64,
    /// The call to Trackfinity, if there was an ordinary one.
    pub(super) call: Option<Call>,
}

impl Handler {
    /// Decodes a delivery from the queue that requests are consumed from.
    pub(super) fn decode(&self, delivery: Delivery, publisher: &SessionPublisher) -> Incoming {
        Incoming::decode(delivery, publisher.queue(), &self.telemetry.traces, &self.client)
    }

    /// Processes one message until its delivery may be acknowledged.
    pub(super) async fn handle(
        &self,
        mut incoming: Incoming,
        kind: CallKind,
        in_call: CallGuard,
        publisher: &SessionPublisher,
    ) -> Result<Settled, Unsettled> {
        let _in_flight = self.telemetry.metrics.taken();
        let started = Instant::now();
        let (queue, delivery_tag) = (publisher.queue(), incoming.delivery_tag);
        let handled = match (&incoming.pending, &incoming.envelope.request) {
            (Some(pending), _) => {
                drop((in_call, kind));
                Box::pin(publisher.outcome(&pending.outcome, &incoming, pending.retries))
                    .await
                    .map(|()| (Disposition::from(&pending.outcome), None))
            }
            (None, Err(fault)) => {
                drop((in_call, kind));
                Box::pin(self.reject(&incoming, fault, publisher)).await.map(|rejected| (rejected, None))
            }
            (None, Ok(request)) => self.unlock(request, &incoming, kind, in_call, publisher).await,
        };
        match handled {
            Ok((disposition, call)) => {
                let error_type = disposition.error_type();
                self.telemetry.metrics.processed(queue, started.elapsed(), error_type);
                if let Some(error_type) = error_type {
                    incoming.span.fail(error_type);
                }
                Ok(Settled { delivery_tag, call })
            }
            Err(unsettled) => {
                incoming.span.fail("unsettled");
                Err(unsettled)
            }
        }
    }

    async fn unlock(
        &self,
        request: &UnlockRequest,
        incoming: &Incoming,
        kind: CallKind,
        in_call: CallGuard,
        publisher: &SessionPublisher,
    ) -> Result<(Disposition, Option<Call>), Unsettled> {
        let taken = Instant::now();
        match &kind {
            CallKind::Probe(_) => self.wait_for_rate_limit(|| true).await?,
            CallKind::Ordinary if self.wait_until_callable().await? => {}
            CallKind::Ordinary => {
                drop(in_call);
                return Ok((Box::pin(self.postpone(incoming, publisher)).await?, None));
            }
        }
        let sent = Instant::now();
        let reply = self
            .call(Endpoint::Unlock, Some(incoming), async |trace| self.client.unlock(request, trace).await)
            .await;
        let took = sent.elapsed();
        let meaning = self.interpret(&reply, incoming).await?;
        drop(in_call);
        self.telemetry.metrics.attempt(meaning.result());
        let rate_limit = match meaning {
            Meaning::RateLimited(after) => policy::rate_limit_pause(after, Timestamp::now()),
            _ => Duration::ZERO,
        };
        let result = CallResult::new(meaning, rate_limit);
        let is_ordinary = matches!(kind, CallKind::Ordinary);
        let judgement = match kind {
            CallKind::Ordinary => self.breaker.record(&incoming.envelope.request_id, sent, result),
            CallKind::Probe(probe) => {
                // Nobody receives it when the worker is stopping or the session has ended.
                probe.answered.send((sent, result)).ok();
                probe.judgement.await.unwrap_or(Judgement::Spared)
            }
        };
        let call = Call { took, waited: sent - taken, served: result == CallResult::Served };
        let call = is_ordinary.then_some(call);
        let past = Past {
            attempts: incoming.envelope.attempts,
            first_received_at: incoming.envelope.first_received_at,
            judgement,
        };
        let jitter = 1.0 - fastrand::f64();
        let verdict = policy::decide(meaning, past, Timestamp::now(), jitter, &self.limits);
        Ok((self.settle(verdict, &reply, incoming, publisher).await?, call))
    }

    /// Waits until the rate limit allows a call; false if calls are paused.
    async fn wait_until_callable(&self) -> Result<bool, Unsettled> {
        let is_closed = || self.breaker.cause().is_none();
        self.wait_for_rate_limit(is_closed).await?;
        Ok(is_closed())
    }

    /// Waits until the rate limit allows a call, or until the call is not `wanted` any more.
    async fn wait_for_rate_limit(&self, wanted: impl Fn() -> bool) -> Result<(), Unsettled> {
        let Some(rate) = &self.rate else {
            return Ok(());
        };
        tokio::select! {
            () = rate.wait(wanted) => Ok(()),
            () = self.stop.cancelled() => Err(Unsettled::Stopping),
        }
    }

    /// Makes a call, with its own span and its own metrics.
    async fn call(
        &self,
        endpoint: Endpoint,
        incoming: Option<&Incoming>,
        make: impl AsyncFnOnce(Option<&TraceContext>) -> Reply,
    ) -> Reply {
        let name = || endpoint.span_name().to_owned();
        let attributes = || self.client.attributes(endpoint);
        let parent = incoming.map_or(Parent::Producer(None), |incoming| Parent::Span(incoming.trace()));
        let mut span = self.telemetry.traces.start(name, SpanKind::Client, parent, attributes);
        let resends = incoming.map_or(0, |incoming| i64::from(incoming.envelope.attempts));
        if endpoint == Endpoint::Unlock && resends > 0 {
            span.set(|| KeyValue::new(names::HTTP_REQUEST_RESEND_COUNT, resends));
        }
        let started = Instant::now();
        let reply = make(span.context()).await;
        let error_type = call_error(&reply);
        self.telemetry.metrics.called(
            endpoint.method(),
            http_status(&reply),
            error_type.as_deref(),
            started.elapsed(),
        );
        if let Some(status) = http_status(&reply) {
            span.set(|| KeyValue::new(names::HTTP_RESPONSE_STATUS_CODE, i64::from(status)));
        }
        if let Some(error_type) = error_type {
            span.fail(&error_type);
        }
        reply
    }

    /// Classifies a reply. A 404 may mean that the address is wrong: while nothing has proven the
    /// address, this calls Trackfinity's ping to find out.
    async fn interpret(&self, reply: &Reply, incoming: &Incoming) -> Result<Meaning, Unsettled> {
        let meaning = policy::classify(reply);
        if meaning.proves_address() && !self.address_proven.load(Ordering::Relaxed) {
            self.address_proven.store(true, Ordering::Relaxed);
        }
        if meaning != Meaning::NotFound || self.address_proven.load(Ordering::Relaxed) {
            return Ok(meaning);
        }
        match is_success(&Box::pin(self.ping(Some(incoming))).await?) {
            true => Ok(meaning),
            false => Ok(Meaning::EndpointFault(Reason::Http(404))),
        }
    }

    async fn ping(&self, incoming: Option<&Incoming>) -> Result<Reply, Unsettled> {
        self.wait_for_rate_limit(|| true).await?;
        Ok(self.call(Endpoint::Ping, incoming, async |trace| self.client.ping(trace).await).await)
    }

    /// Whether Trackfinity answers its ping with a 2xx.
    pub(super) async fn is_trackfinity_well(&self) -> bool {
        self.ping(None).await.as_ref().is_ok_and(is_success)
    }

    /// Publishes what follows from the verdict.
    async fn settle(
        &self,
        verdict: Verdict,
        reply: &Reply,
        incoming: &Incoming,
        publisher: &SessionPublisher,
    ) -> Result<Disposition, Unsettled> {
        match verdict {
            Verdict::Unlocked { attempts } => {
                let outcome = incoming.outcome(Status::Unlocked, attempts, reply);
                publisher.outcome(&outcome, incoming, 0).await?;
                Ok(Disposition::Unlocked)
            }
            Verdict::Refused { attempts, reason } => {
                let outcome = incoming.failure(Status::Refused, attempts, reason, reply);
                Box::pin(self.dead_letter(outcome, response_excerpt(reply), incoming, publisher)).await
            }
            Verdict::Abandoned { attempts, reason } => {
                let outcome = incoming.failure(Status::Abandoned, attempts, reason, reply);
                Box::pin(self.dead_letter(outcome, response_excerpt(reply), incoming, publisher)).await
            }
            Verdict::Parked { attempts, reason, tier } => {
                let retry = Parked {
                    reason: Some(reason.to_string()),
                    detail: Some(failure_detail(reason, reply)),
                    http_status: http_status(reply),
                    attempts,
                };
                Box::pin(publisher.retry(&retry, tier, incoming)).await?;
                Ok(Disposition::Retrying(reason.to_string()))
            }
        }
    }

    /// Publishes the dead letter before the outcome, so that a listener who reacts to the outcome
    /// finds it.
    async fn dead_letter(
        &self,
        outcome: Outcome,
        response: Option<String>,
        incoming: &Incoming,
        publisher: &SessionPublisher,
    ) -> Result<Disposition, Unsettled> {
        publisher.dead_letter(&dead_letter_info(&outcome, response), incoming).await?;
        publisher.outcome(&outcome, incoming, 0).await?;
        Ok(Disposition::from(&outcome))
    }

    /// Sends a request that was delivered while calls are paused to the shortest tier, without a
    /// call.
    async fn postpone(
        &self,
        incoming: &Incoming,
        publisher: &SessionPublisher,
    ) -> Result<Disposition, Unsettled> {
        let attempts = incoming.envelope.attempts;
        let retry = Parked { reason: None, detail: None, http_status: None, attempts };
        publisher.retry(&retry, Tier::SHORTEST, incoming).await?;
        Ok(Disposition::Retrying("paused".to_owned()))
    }

    /// Ends a request that is invalid.
    async fn reject(
        &self,
        incoming: &Incoming,
        fault: &Fault,
        publisher: &SessionPublisher,
    ) -> Result<Disposition, Unsettled> {
        let outcome = Outcome {
            request: fault.readable.clone(),
            reason: Some(fault.code.as_str().to_owned()),
            detail: Some(fault.detail.clone()),
            ..incoming.blank_outcome(Status::Invalid, incoming.envelope.attempts)
        };
        self.dead_letter(outcome, None, incoming, publisher).await
    }
}

fn is_success(reply: &Reply) -> bool {
    http_status(reply).is_some_and(|status| (200..=299).contains(&status))
}

/// What the headers of the dead letter of a request with this outcome say.
pub(super) fn dead_letter_info(outcome: &Outcome, response: Option<String>) -> Death {
    Death {
        status: outcome.status,
        reason: outcome.reason.clone().unwrap_or_default(),
        detail: outcome.detail.clone(),
        http_status: outcome.http_status,
        response,
        attempts: outcome.attempts,
        dead_at: outcome.finished_at,
    }
}
