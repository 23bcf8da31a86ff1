//! A message that is written and not yet confirmed.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use lapin::{Confirmation, PublisherConfirm};
use tokio::time::Sleep;

use super::{
    connection::Lease,
    error::{PublishError, is_exchange_refused},
    outgoing::{Mandatory, Route},
    refusals::Attempt,
};
use crate::broker::wake_coalescer::CoalescedWaker;

/// An exchange that refuses does so at once. If it has not refused after this long, it has accepted the
/// message even if the confirm is slow, and other publishes need not wait for it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A message that is written to the socket and not yet confirmed. Its result is whether a queue
/// received it. `false` is possible only with [`Mandatory::Reported`] and [`Mandatory::Off`].
///
/// Has no time limit: RabbitMQ may still process the message, so publishing it again could make a copy.
/// It ends when the confirm comes, or when the channel or the connection is lost; heartbeats end a dead
/// connection. May be awaited in any task, or dropped, which closes an exclusive channel.
#[derive(Debug)]
pub struct Unconfirmed {
    confirm: PublisherConfirm,
    waker: CoalescedWaker,
    /// `None` after the end.
    lease: Option<Lease>,
    route: Route,
    mandatory: Mandatory,
    attempt: Option<TimedAttempt>,
}

/// Others wait for this publish to find out whether the exchange still refuses.
#[derive(Debug)]
pub(super) struct TimedAttempt {
    attempt: Attempt,
    timeout: Pin<Box<Sleep>>,
}

impl TimedAttempt {
    pub(super) fn new(attempt: Attempt) -> Self {
        Self { attempt, timeout: Box::pin(tokio::time::sleep(REFUSAL_TIMEOUT)) }
    }
}

impl Unconfirmed {
    pub(super) fn new(
        confirm: PublisherConfirm,
        waker: CoalescedWaker,
        lease: Lease,
        route: Route,
        mandatory: Mandatory,
        attempt: Option<Attempt>,
    ) -> Self {
        Self { confirm, waker, lease: Some(lease), route, mandatory, attempt: attempt.map(TimedAttempt::new) }
    }

    fn end(&mut self, lease: Lease, confirmation: lapin::Result<Confirmation>) -> Result<bool, PublishError> {
        let attempt = self.attempt.take().map(|trying| trying.attempt);
        let confirmation = match confirmation {
            Ok(confirmation) => confirmation,
            Err(error) => return Err(failed(error, &lease, &self.route, attempt)),
        };
        if let Some(attempt) = attempt {
            lease.connection().refusals.accepted(&self.route, attempt);
        }
        match (confirmation, self.mandatory) {
            (Confirmation::Ack(returned), mandatory) => {
                lease.release();
                match (returned, mandatory) {
                    (None, _) => Ok(true),
                    (Some(_), Mandatory::Reported | Mandatory::Off) => Ok(false),
                    (Some(_), Mandatory::Required(_)) => Err(PublishError::Unroutable {
                        exchange: self.route.exchange(),
                        routing_key: self.route.routing_key(),
                    }),
                }
            }
            (Confirmation::Nack(_), _) => {
                if let Lease::Shared(shared) = &lease {
                    shared.mark_refused();
                }
                Err(PublishError::Refused { exchange: self.route.exchange() })
            }
            (Confirmation::NotRequested, _) => {
                Err(PublishError::ChannelClosed("the channel is not in confirm mode".to_owned()))
            }
        }
    }
}

impl Future for Unconfirmed {
    type Output = Result<bool, PublishError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Poll::Ready(confirmation) = this.waker.poll(Pin::new(&mut this.confirm), context) else {
            if let (Some(trying), Some(lease)) = (&mut this.attempt, &this.lease) {
                ready!(trying.timeout.as_mut().poll(context));
                if let Some(TimedAttempt { attempt, .. }) = this.attempt.take() {
                    lease.connection().refusals.accepted(&this.route, attempt);
                }
            }
            return Poll::Pending;
        };
        match this.lease.take() {
            Some(lease) => Poll::Ready(this.end(lease, confirmation)),
            None => Poll::Ready(Err(PublishError::Closed)),
        }
    }
}

/// Converts lapin's error of a publish, and records what it means for later publishes.
pub(super) fn failed(
    error: lapin::Error,
    lease: &Lease,
    route: &Route,
    attempt: Option<Attempt>,
) -> PublishError {
    let connection = lease.connection();
    if error.is_amqp_soft_error() {
        connection.channel_closed_by_server();
    }
    if is_exchange_refused(&error) {
        connection.refusals.refused(route, attempt);
    }
    PublishError::from_lapin(error, connection.is_connected())
}
