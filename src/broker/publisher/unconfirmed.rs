//! A message that is written and not yet confirmed.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use lapin::{Confirmation, PublisherConfirm};
use tokio::time::Sleep;

use super::{
    error::{PublishError, is_exchange_refused},
    line::Lease,
    outgoing::{Mandatory, Route},
    refusals::Attempt,
};
use crate::broker::wakes::Relayed;

/// An exchange that refuses does so at once. One that has not after this long has taken the message,
/// whatever holds up the confirm, and others need not wait for it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A message on its way: written to the socket, and not yet confirmed. Comes to whether a queue
/// received it, which `false` alone with [`Mandatory::Reported`] and [`Mandatory::Off`] denies.
///
/// Has no time limit: the message may arrive whenever RabbitMQ gets to it, so to publish it again
/// meanwhile would make a copy. It ends when the confirm comes, or the channel or the connection is
/// gone; heartbeats end a connection that is dead. May be awaited anywhere, or dropped, which closes
/// the channel if no other publish uses it.
#[derive(Debug)]
pub struct Unconfirmed {
    confirm: PublisherConfirm,
    relayed: Relayed,
    /// None when it has ended.
    lease: Option<Lease>,
    route: Route,
    mandatory: Mandatory,
    attempt: Option<Trying>,
}

/// Others wait for this publish to find out whether the exchange still refuses.
#[derive(Debug)]
pub(super) struct Trying {
    attempt: Attempt,
    timeout: Pin<Box<Sleep>>,
}

impl Trying {
    pub(super) fn new(attempt: Attempt) -> Self {
        Self { attempt, timeout: Box::pin(tokio::time::sleep(REFUSAL_TIMEOUT)) }
    }
}

impl Unconfirmed {
    pub(super) fn new(
        confirm: PublisherConfirm,
        relayed: Relayed,
        lease: Lease,
        route: Route,
        mandatory: Mandatory,
        attempt: Option<Attempt>,
    ) -> Self {
        Self { confirm, relayed, lease: Some(lease), route, mandatory, attempt: attempt.map(Trying::new) }
    }

    fn end(&mut self, lease: Lease, confirmation: lapin::Result<Confirmation>) -> Result<bool, PublishError> {
        let attempt = self.attempt.take().map(|trying| trying.attempt);
        let confirmation = match confirmation {
            Ok(confirmation) => confirmation,
            Err(error) => return Err(failed(error, &lease, &self.route, attempt)),
        };
        if let Some(attempt) = attempt {
            lease.line().refusals.accepted(&self.route, attempt);
        }
        match (confirmation, self.mandatory) {
            (Confirmation::Ack(returned), mandatory) => {
                lease.give_back();
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
                    shared.refuse();
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
        let Poll::Ready(confirmation) = this.relayed.poll(Pin::new(&mut this.confirm), context) else {
            if let (Some(trying), Some(lease)) = (&mut this.attempt, &this.lease) {
                ready!(trying.timeout.as_mut().poll(context));
                if let Some(Trying { attempt, .. }) = this.attempt.take() {
                    lease.line().refusals.accepted(&this.route, attempt);
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

/// What a lapin error of a publish means, also for the publishes to come.
pub(super) fn failed(
    error: lapin::Error,
    lease: &Lease,
    route: &Route,
    attempt: Option<Attempt>,
) -> PublishError {
    let line = lease.line();
    if error.is_amqp_soft_error() {
        line.channel_closed_by_server();
    }
    if is_exchange_refused(&error) {
        line.refusals.refused(route, attempt);
    }
    PublishError::from_lapin(error, line.is_connected())
}
