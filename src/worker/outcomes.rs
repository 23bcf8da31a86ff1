//! Publishes outcomes. RabbitMQ refuses an outcome if one listener's queue does, and confirms it only
//! once all have it; so one listener could hold up everybody. An outcome that is refused, or not
//! confirmed in time, does not hold its place: its request goes to a retry queue with the outcome in
//! its headers, and comes back to publish just that, ever more rarely.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::{
    Unsettled,
    late_confirms::LateConfirm,
    letter::Letter,
    publish_health::{MAX_REFUSALS_IN_A_ROW, PublishKind},
    publishing::Publishing,
};
use crate::{
    broker::{
        Backoff, Lane, Mandatory, PublishError,
        publisher::{Outgoing, Unconfirmed},
    },
    message::{Outcome, PendingOutcome, Status, Timestamp},
    policy::Tier,
    telemetry::Span,
};

/// How long an outcome's confirm is waited for, from its last byte's writing on.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// How often to check whether outcomes that wait for a confirm use half of the worker's places.
const CROWDING_INTERVAL: Duration = Duration::from_secs(1);
/// The same while outcomes are known not to be confirmed.
const CROWDING_INTERVAL_WHILE_UNCONFIRMED: Duration = Duration::from_millis(100);
/// Outcomes of a status that is known not to be confirmed are published while fewer than this many wait
/// for their confirms. Some hundred more, and RabbitMQ's flow control would stop the whole connection.
const MAX_UNCONFIRMED: usize = 200;
/// How long a request waits before its outcome is published again; doubled each time.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(16);

/// How many requests wait for the confirm of their outcome, out of how many there may be.
#[derive(Debug)]
pub(super) struct Places {
    awaiting_confirm: AtomicUsize,
    total: AtomicUsize,
}

impl Default for Places {
    fn default() -> Self {
        Self { awaiting_confirm: AtomicUsize::new(0), total: AtomicUsize::new(usize::MAX) }
    }
}

impl Places {
    pub(super) fn set_total(&self, total: usize) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// Whether half of the places or more are taken by requests that wait for a confirm.
    fn are_crowded(&self) -> bool {
        self.awaiting_confirm.load(Ordering::Relaxed) >= self.total.load(Ordering::Relaxed).div_ceil(2)
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why an outcome is published later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Postponed {
    /// A listener's queue refused it, or, where one is required, no queue received it.
    Refused,
    Unconfirmed,
}

impl Postponed {
    fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

impl Publishing {
    /// Publishes an outcome, or moves its request to a tier, to publish it later. `retries`: how often
    /// the request has come back for that.
    pub(super) async fn outcome(
        &self,
        outcome: &Outcome,
        letter: &Letter,
        retries: u32,
    ) -> Result<(), Unsettled> {
        let body = outcome.encode().map_err(Unsettled::Encode)?;
        let mut message = Outgoing {
            exchange: self.targets.results(),
            routing_key: outcome.status.routing_key(),
            properties: outcome.properties(letter.envelope.correlation_id()),
            body: &body,
        };
        let span = self.span(&message, letter);
        if let Some(trace) = span.context() {
            message.properties = message.properties.with_headers(trace.headers());
        }
        let late = (retries > 0).then(|| self.targets.late_confirms.take(&outcome.message_id())).flatten();
        let published = match late {
            Some(LateConfirm::Confirmed { routed }) => Ok(routed),
            Some(LateConfirm::Awaited) => Err(Postponed::Unconfirmed),
            None if self.is_congested(outcome.status) => Err(Postponed::Unconfirmed),
            None => self.try_outcome(outcome, &message, span, retries).await?,
        };
        if retries == 0 && letter.envelope.properties.reply_to().is_some() {
            Box::pin(self.reply(&message, letter)).await;
        }
        match published {
            Ok(routed) => {
                self.finished(outcome, letter);
                if !routed {
                    self.warn_unrouted(outcome);
                }
                Ok(())
            }
            Err(cause) => Box::pin(self.postpone(cause, outcome, letter, retries)).await,
        }
    }

    /// Whether a listener's queue holds up so many outcomes that no more should be published.
    fn is_congested(&self, status: Status) -> bool {
        let unconfirmed =
            || self.places.awaiting_confirm.load(Ordering::Relaxed) + self.targets.late_confirms.awaited();
        self.targets.health.is_outcome_unconfirmed(status) && unconfirmed() >= MAX_UNCONFIRMED
    }

    /// Publishes an outcome until it is confirmed, or until a listener's queue has refused it or not
    /// confirmed it in time.
    async fn try_outcome(
        &self,
        outcome: &Outcome,
        message: &Outgoing<'_>,
        mut span: Span,
        retries: u32,
    ) -> Result<Result<bool, Postponed>, Unsettled> {
        let mandatory = match self.targets.require_subscriber {
            true => Mandatory::Required(Lane::Outcomes),
            false => Mandatory::Reported,
        };
        let (health, status) = (&self.targets.health, outcome.status);
        let mut backoff = Backoff::new();
        let mut refusals = 0;
        loop {
            let error = match self.publisher().send(message, mandatory).await {
                Ok(unconfirmed) => match self.await_confirm(outcome, unconfirmed).await {
                    Some(Ok(routed)) => {
                        if !routed {
                            self.telemetry.metrics.unroutable(PublishKind::Outcome.as_str());
                        }
                        span.clear_error();
                        health.published(PublishKind::Outcome);
                        health.outcome_confirmed(status);
                        return Ok(Ok(routed));
                    }
                    Some(Err(error)) => error,
                    None => {
                        span.set_error("unconfirmed");
                        // RabbitMQ has taken it: it is a listener that holds it up.
                        health.published(PublishKind::Outcome);
                        health.outcome_unconfirmed(status);
                        return Ok(Err(Postponed::Unconfirmed));
                    }
                },
                Err(error) => error,
            };
            span.set_error(error.code());
            if matches!(error, PublishError::Refused { .. } | PublishError::Unroutable { .. }) {
                refusals += 1;
                // RabbitMQ has answered: it is a listener that stands in the way.
                health.published(PublishKind::Outcome);
                let is_known = health.outcome_refused(status);
                if let PublishError::Unroutable { .. } = error {
                    self.telemetry.metrics.unroutable(PublishKind::Outcome.as_str());
                }
                if is_known || retries > 0 || refusals >= MAX_REFUSALS_IN_A_ROW {
                    return Ok(Err(Postponed::Refused));
                }
            }
            Box::pin(self.overcome(error, PublishKind::Outcome, &mut backoff)).await?;
        }
    }

    /// Waits for an outcome's confirm; `None` if it does not come in time. Then it is waited for in the
    /// background.
    async fn await_confirm(
        &self,
        outcome: &Outcome,
        mut unconfirmed: Unconfirmed,
    ) -> Option<Result<bool, PublishError>> {
        let _waiting = Waiting::new(&self.places.awaiting_confirm);
        let mut waited = Duration::ZERO;
        loop {
            let interval = match self.targets.health.is_outcome_unconfirmed(outcome.status) {
                true => CROWDING_INTERVAL_WHILE_UNCONFIRMED,
                false => CROWDING_INTERVAL,
            };
            if let Ok(confirmed) = tokio::time::timeout(interval, &mut unconfirmed).await {
                return Some(confirmed);
            }
            if self.status.is_blocked() {
                // It is short of memory or disk, and would not take the postponed copy either.
                continue;
            }
            waited += interval;
            let is_over = waited >= CONFIRM_TIMEOUT || self.places.are_crowded();
            if is_over && self.targets.late_confirms.has_capacity() {
                self.targets.late_confirms.await_confirm(
                    outcome.message_id(),
                    unconfirmed,
                    &self.background,
                    self.over.clone(),
                );
                return None;
            }
        }
    }

    /// Lets the request wait in a retry queue with its outcome, unless that went on for too long.
    async fn postpone(
        &self,
        cause: Postponed,
        outcome: &Outcome,
        letter: &Letter,
        retries: u32,
    ) -> Result<(), Unsettled> {
        let status = outcome.status.as_str();
        if Timestamp::now().since(outcome.finished_at) >= self.limits.give_up_after {
            self.telemetry.metrics.outcome_given_up(status);
            tracing::error!(
                request_id = outcome.request_id,
                status,
                cause = cause.as_str(),
                "an outcome is given up: for retry.give_up_after a listener's queue has not taken it. \
                 Listeners whose queues took it have it"
            );
            self.finished(outcome, letter);
            return Ok(());
        }
        let delay = FIRST_RETRY_DELAY.saturating_mul(1 << retries.min(10)).min(self.limits.max_delay);
        let tier = Tier::at_least(delay);
        let pending = PendingOutcome { outcome: outcome.clone(), retries: retries.saturating_add(1) };
        self.pending_outcome(&pending, tier, letter).await?;
        self.telemetry.metrics.outcome_postponed(status, cause.as_str());
        if self.targets.postponed_log.due() {
            tracing::warn!(
                exchange = self.targets.results(),
                routing_key = outcome.status.routing_key(),
                cause = cause.as_str(),
                %tier,
                "outcomes can't be published: a queue that is bound for them is full, has lost its quorum or \
                 does not answer, or none is bound where one is required. Their requests wait in retry \
                 queues, and only the outcomes are published again"
            );
        }
        Ok(())
    }
}
