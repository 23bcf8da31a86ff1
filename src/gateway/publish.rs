//! Publishes one request, and says what is known about it if that fails.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::{Instant, sleep_until, timeout};

use super::{app::App, status::NotReady};
use crate::{
    broker::{Lane, Mandatory, PublishError, publisher::Outgoing},
    http::{Problem, Taken},
    telemetry::Span,
};

/// How long a request may wait until it can be written: for a free channel.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the confirm may take.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// How long confirms may still come after RabbitMQ has blocked the connection: it goes on with what it has
/// read, and reads no more.
const BLOCKED_GRACE: Duration = Duration::from_secs(1);
/// How long a confirm may still come after the gateway was asked to stop: the answer has to be sent before
/// the connections are closed.
const STOP_GRACE: Duration = Duration::from_secs(8);
/// When to try again what RabbitMQ does not take now.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// When to try again what this process does not take now.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// Publishes a request. `Ok`: RabbitMQ has confirmed it, and a queue has it.
pub(super) async fn publish(app: &App, message: Outgoing<'_>, span: &mut Span) -> Result<(), Problem> {
    let result = Box::pin(try_publish(app, message)).await;
    if let Err(failure) = &result {
        span.set_error(failure.code());
        warn(app, failure);
    }
    result.map_err(Problem::from)
}

/// Why a request was not published, or it is unknown whether it was.
#[derive(Debug)]
enum Failure {
    NotReady(NotReady),
    Busy,
    Unroutable,
    Refused,
    ExchangeRefused(String),
    /// The exchange has just refused another request, which is in the log.
    StillRefused,
    NotWritten(String),
    LargeHeaders,
    /// From here on it is unknown.
    Lost(String),
    BlockedMeanwhile,
    NoConfirm,
}

async fn try_publish(app: &App, message: Outgoing<'_>) -> Result<(), Failure> {
    let mut link = app.status.subscribe();
    let publisher = link.borrow_and_update().ready().cloned().map_err(Failure::NotReady)?;
    let Ok(_permit) = app.unconfirmed.try_acquire() else {
        return Err(Failure::Busy);
    };
    if publisher.is_refused(&message) {
        return Err(Failure::StillRefused);
    }
    let reserve = publisher.reserve(&message, Mandatory::Required(Lane::Requests));
    let reserved = tokio::select! {
        biased;
        reserved = timeout(WRITE_TIMEOUT, reserve) => match reserved {
            Ok(reserved) => reserved.map_err(not_written)?,
            Err(_elapsed) => return Err(Failure::Busy),
        },
        not_ready = not_ready(&mut link) => return Err(Failure::NotReady(not_ready)),
    };
    let written = Instant::now();
    // Boxed only now, because those that wait for a channel are many.
    let confirmed =
        Box::pin(async { reserved.write(message).await.map_err(written_in_part)?.await.map_err(answered) });
    tokio::select! {
        biased;
        confirmed = confirmed => confirmed?,
        failure = interrupted(&mut link) => return Err(failure),
        () = sleep_until(written + CONFIRM_TIMEOUT) => return Err(Failure::NoConfirm),
    };
    app.telemetry.metrics.confirmed(written.elapsed());
    Ok(())
}

/// Waits until nothing can be published any more. That the gateway stops is no reason.
async fn not_ready(link: &mut tokio::sync::watch::Receiver<super::status::Link>) -> NotReady {
    let is_reason = |link: &super::status::Link| !matches!(link.ready(), Err(NotReady::Stopping) | Ok(_));
    let changed = link.wait_for(is_reason).await;
    changed.ok().and_then(|link| link.ready().err()).unwrap_or(NotReady::Stopping)
}

/// Waits until no confirm can be expected any more, because RabbitMQ blocks or the gateway stops.
async fn interrupted(link: &mut tokio::sync::watch::Receiver<super::status::Link>) -> Failure {
    let changed = link.wait_for(|link| link.ready().is_err()).await;
    let (grace, failure) = match changed.ok().and_then(|link| link.ready().err()) {
        Some(NotReady::Stopping) | None => (STOP_GRACE, Failure::NoConfirm),
        Some(_) => (BLOCKED_GRACE, Failure::BlockedMeanwhile),
    };
    tokio::time::sleep(grace).await;
    failure
}

/// Nothing was written yet.
fn not_written(error: PublishError) -> Failure {
    match error {
        PublishError::LargeHeaders => Failure::LargeHeaders,
        error => Failure::NotWritten(error.to_string()),
    }
}

fn written_in_part(error: PublishError) -> Failure {
    match error {
        PublishError::ExchangeRefused(broker) => Failure::ExchangeRefused(broker),
        error => Failure::Lost(error.to_string()),
    }
}

fn answered(error: PublishError) -> Failure {
    match error {
        PublishError::Unroutable { .. } => Failure::Unroutable,
        PublishError::Refused { .. } => Failure::Refused,
        error => written_in_part(error),
    }
}

impl Failure {
    /// For programs.
    fn code(&self) -> &'static str {
        match self {
            Self::NotReady(NotReady::Stopping) => "stopping",
            Self::NotReady(NotReady::NotConnected) | Self::NotWritten(_) => "broker_unreachable",
            Self::NotReady(NotReady::Blocked(_)) | Self::BlockedMeanwhile => "broker_blocked",
            Self::Busy => "busy",
            Self::Unroutable => "unroutable",
            Self::Refused => "queue_full",
            Self::ExchangeRefused(_) | Self::StillRefused => "exchange_refused",
            Self::LargeHeaders => "headers_too_large",
            Self::Lost(_) => "connection_lost",
            Self::NoConfirm => "no_confirm",
        }
    }

    /// For the sender.
    fn detail(&self) -> &'static str {
        match self {
            Self::NotReady(NotReady::Stopping) => "This gateway stops. Send the request again.",
            Self::NotReady(NotReady::NotConnected) | Self::NotWritten(_) => {
                "RabbitMQ cannot be reached. Send the request again later."
            }
            Self::NotReady(NotReady::Blocked(_)) => {
                "RabbitMQ is short of memory or disk and accepts no requests. Send the request again later."
            }
            Self::Busy => "Too many requests wait for RabbitMQ. Send the request again.",
            Self::Unroutable => {
                "No queue takes requests: its operator has to start `unlocker run`, or to repair the binding. Send \
                 the request again later."
            }
            Self::Refused => "The queue for requests is full. Send the request again later.",
            Self::ExchangeRefused(_) | Self::StillRefused => {
                "RabbitMQ does not let this gateway publish requests: its operator finds the reason in the log. Send the \
                 request again later."
            }
            Self::LargeHeaders => "The attributes of the CloudEvent in the head are too large.",
            Self::Lost(_) => {
                "The connection to RabbitMQ was lost before it confirmed the request. Send it again with the same key."
            }
            Self::BlockedMeanwhile => {
                "RabbitMQ ran short of memory or disk before it confirmed the request. Send it again with the same key."
            }
            Self::NoConfirm => {
                "RabbitMQ has not confirmed the request in time. Send it again with the same key."
            }
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let (status, taken, wait) = match &failure {
            Failure::LargeHeaders => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Taken::No, None),
            Failure::Lost(_) | Failure::BlockedMeanwhile | Failure::NoConfirm => {
                (StatusCode::GATEWAY_TIMEOUT, Taken::Unknown, Some(RETRY_AFTER))
            }
            Failure::Busy | Failure::NotReady(NotReady::Stopping) => {
                (StatusCode::SERVICE_UNAVAILABLE, Taken::No, Some(RETRY_SOON))
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, Taken::No, Some(RETRY_AFTER)),
        };
        let problem = Self::new(status, failure.code(), failure.detail()).with_taken(taken);
        match wait {
            Some(wait) => problem.with_retry_after(wait),
            None => problem,
        }
    }
}

/// The problem while RabbitMQ is away.
pub(super) fn unreachable() -> Problem {
    Failure::NotReady(NotReady::NotConnected).into()
}

/// The problem of a request of which it is unknown whether it was published.
pub(super) fn unconfirmed() -> Problem {
    Failure::NoConfirm.into()
}

/// The problem of a request that was not published now, but may have been before.
pub(super) fn unconfirmed_before() -> Problem {
    let detail = "RabbitMQ does not take the request now, and has not confirmed an earlier one with the same key, which \
                  may be taken all the same. Send it again with the same key.";
    no_confirm(detail)
}

/// The problem of a request that may be taken all the same.
pub(super) fn no_confirm(detail: &str) -> Problem {
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "no_confirm", detail)
        .with_taken(Taken::Unknown)
        .with_retry_after(RETRY_AFTER)
}

/// The problem of a CloudEvent in binary mode whose attributes do not fit into a message.
pub(super) fn large_headers() -> Problem {
    Failure::LargeHeaders.into()
}

/// For the operator; `/readyz` tells the rest.
fn warn(app: &App, failure: &Failure) {
    let why = match failure {
        Failure::NotReady(_) | Failure::StillRefused | Failure::LargeHeaders => return,
        Failure::NotWritten(why) | Failure::ExchangeRefused(why) | Failure::Lost(why) => why.as_str(),
        Failure::Busy => "too many requests wait for their confirms, or RabbitMQ opens no channel",
        Failure::Unroutable => "no queue is bound to the exchange for requests",
        Failure::Refused => "the queue for requests is full",
        Failure::BlockedMeanwhile => "RabbitMQ blocks publishing",
        Failure::NoConfirm => "no confirm came in time",
    };
    let code = failure.code();
    if let Some(left_out) = app.throttle.due(&("request_not_published", code)) {
        tracing::warn!(
            event = "request_not_published",
            code,
            left_out,
            "a request was answered with a problem: {why}"
        );
    }
}
