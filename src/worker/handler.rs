//! How one message is processed, from top to bottom: decode, wait, call, classify, record, decide,
//! settle. One task owns one delivery until it may be acknowledged; the [consume
//! loop](super::consume) then acknowledges for all tasks.

use std::{
    borrow::Cow,
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
    canary::Canary,
    concurrency::Call,
    incoming::Incoming,
    publish::{MessagePublisher, SessionPublisher},
    rate::RateLimiter,
    shared_breaker::SharedBreaker,
    suspect,
    unsettled::Unsettled,
};
use crate::{
    breaker::CallResult,
    message::{Envelope, PendingOutcome, Timestamp, UnlockRequest},
    policy::{self, AttemptHistory, Classification, Judgement, Reason, Reply, RetryLimits},
    settle::{self, Publication},
    telemetry::{Parent, Telemetry, TraceContext, semconv},
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
    /// Not at all: calls are paused, and it goes behind the other requests.
    Requeue,
}

/// A request's part in a probe: it reports how its call went, and receives whose fault a failure
/// was. If the probe ends early, both channels close and the request stops waiting.
#[derive(Debug)]
pub(super) struct ProbedCall {
    pub(super) answered: oneshot::Sender<(Instant, CallResult)>,
    pub(super) judgement: oneshot::Receiver<Judgement>,
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
        if let Some(redeliveries) = suspect::suspect_redeliveries(&delivery) {
            suspect::log(&delivery, redeliveries);
        }
        // A delivery that comes again may have been counted.
        let is_redelivered = delivery.redelivered;
        let incoming = Incoming::decode(delivery, publisher.queue(), &self.telemetry.traces, &self.client);
        if let Some(wait) = incoming.envelope.queue_wait.filter(|_| !is_redelivered) {
            self.telemetry.metrics.queue_wait(wait);
        }
        incoming
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
        let handled = self.settle(&incoming, kind, in_call, publisher).await;
        match &handled {
            Ok((reason, _)) => {
                self.telemetry.metrics.processed(publisher.queue(), started.elapsed(), reason.as_deref());
                if let Some(reason) = reason {
                    incoming.span.set_error(reason);
                }
            }
            Err(_) => incoming.span.set_error("unsettled"),
        }
        handled.map(|(_, call)| Settled { delivery_tag: incoming.delivery_tag, call })
    }

    /// Finds out what is to be published for a message, and publishes it. Returns why the request was not
    /// unlocked, if it was not, and its call, if that was an ordinary one.
    async fn settle(
        &self,
        incoming: &Incoming,
        kind: CallKind,
        in_call: CallGuard,
        session: &SessionPublisher,
    ) -> Result<(Option<Cow<'static, str>>, Option<Call>), Unsettled> {
        let publisher = MessagePublisher::new(session, incoming);
        let is_ordinary = matches!(kind, CallKind::Ordinary);
        let is_requeued = matches!(kind, CallKind::Requeue);
        let (publications, call) = match (&incoming.pending, &incoming.envelope.request) {
            (Some(PendingOutcome { outcome, retries }), _) => {
                drop((in_call, kind));
                Box::pin(publisher.outcome(outcome, *retries)).await?;
                return Ok((outcome.reason.clone().map(Cow::Owned), None));
            }
            (None, Err(fault)) => {
                drop((in_call, kind));
                let Envelope { properties, body, .. } = &incoming.envelope;
                if let Some(canary) = Canary::read(properties, body) {
                    Box::pin(canary.answer(session.queue(), None, session)).await;
                    return Ok((None, None));
                }
                (settle::rejected(fault, &incoming.envelope, Timestamp::now()), None)
            }
            (None, Ok(request)) => self.unlock(request, incoming, kind, in_call).await?,
        };
        let publisher = publisher.after_call(call.as_ref().map(|call| call.took)).requeueing(is_requeued);
        for publication in &publications {
            publisher.publish(publication).await?;
        }
        Ok((publications.last().and_then(Publication::reason), call.filter(|_| is_ordinary)))
    }

    /// Calls Trackfinity, and decides by its reply what is to be published.
    async fn unlock(
        &self,
        request: &UnlockRequest,
        incoming: &Incoming,
        kind: CallKind,
        in_call: CallGuard,
    ) -> Result<(Vec<Publication>, Option<Call>), Unsettled> {
        let taken = Instant::now();
        let is_paused = match &kind {
            // It needs no call, so it does not wait for one.
            _ if incoming.envelope.expires_at.is_some_and(|at| at <= Timestamp::now()) => false,
            CallKind::Probe(_) => {
                self.wait_for_rate_limit(|| true).await?;
                false
            }
            CallKind::Ordinary => !self.wait_until_callable().await?,
            CallKind::Requeue => true,
        };
        if let Some(publications) = settle::without_call(&incoming.envelope, is_paused, Timestamp::now()) {
            return Ok((publications, None));
        }
        let sent = Instant::now();
        let reply = self
            .call(Endpoint::Unlock, Some(incoming), async |trace| self.client.unlock(request, trace).await)
            .await;
        let took = sent.elapsed();
        let classification = self.interpret(&reply, incoming).await?;
        drop(in_call);
        self.telemetry.metrics.attempt(classification.result());
        let rate_limit = match classification {
            Classification::RateLimited(after) => policy::rate_limit_pause(after, Timestamp::now()),
            _ => Duration::ZERO,
        };
        let result = CallResult::new(classification, rate_limit);
        let judgement = match kind {
            CallKind::Ordinary | CallKind::Requeue => {
                self.breaker.record(&incoming.envelope.request_id, sent, result)
            }
            CallKind::Probe(probe) => {
                // No one receives it when the worker is stopping or the session has ended.
                probe.answered.send((sent, result)).ok();
                probe.judgement.await.unwrap_or(Judgement::Spared)
            }
        };
        let call = Call { took, waited: sent - taken, served: result == CallResult::Served };
        let history = AttemptHistory {
            attempts: incoming.envelope.attempts,
            first_received_at: incoming.envelope.first_received_at,
            expires_at: incoming.envelope.expires_at,
            judgement,
        };
        let jitter = 1.0 - fastrand::f64();
        let now = Timestamp::now();
        let verdict = policy::decide(classification, history, now, jitter, &self.limits);
        Ok((settle::publications(verdict, &incoming.envelope, &reply, now), Some(call)))
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
            span.set(|| KeyValue::new(semconv::HTTP_REQUEST_RESEND_COUNT, resends));
        }
        let started = Instant::now();
        let reply = make(span.context()).await;
        let error_type = reply.error_type();
        self.telemetry.metrics.called(
            endpoint.method(),
            reply.status(),
            error_type.as_deref(),
            started.elapsed(),
        );
        if let Some(status) = reply.status() {
            span.set(|| KeyValue::new(semconv::HTTP_RESPONSE_STATUS_CODE, i64::from(status)));
        }
        if let Some(error_type) = error_type {
            span.set_error(&error_type);
        }
        reply
    }

    /// Classifies a reply. A 404 may mean that the address is wrong: while nothing has proven the
    /// address, this calls Trackfinity's ping to find out.
    async fn interpret(&self, reply: &Reply, incoming: &Incoming) -> Result<Classification, Unsettled> {
        let classification = policy::classify(reply);
        if classification.proves_address() && !self.address_proven.load(Ordering::Relaxed) {
            self.address_proven.store(true, Ordering::Relaxed);
        }
        if classification != Classification::NotFound || self.address_proven.load(Ordering::Relaxed) {
            return Ok(classification);
        }
        match is_success(&Box::pin(self.ping(Some(incoming))).await?) {
            true => Ok(classification),
            false => Ok(Classification::EndpointFault(Reason::Http(404))),
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
}

fn is_success(reply: &Reply) -> bool {
    reply.status().is_some_and(|status| (200..=299).contains(&status))
}
