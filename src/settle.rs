//! What is published in place of a delivery that needs no further call, in order: pure.
//!
//! The worker publishes each [`Publication`] until RabbitMQ has confirmed it, then the next, and then
//! acknowledges the delivery. The model check in `tests/model` runs these very functions.

use std::borrow::Cow;

use crate::{
    message::{DeadLetterInfo, Envelope, Fault, Outcome, RetryInfo, Status, Timestamp, XDeath, headers},
    policy::{Reason, Reply, Tier, Verdict},
};

/// How much of Trackfinity's answer an outcome's `detail` quotes, in bytes.
const MAX_DETAIL_RESPONSE_BYTES: usize = 256;

/// The reason of what was given up because its sender, or a policy, set a time limit. Also RabbitMQ's
/// own word for that.
const EXPIRED: &str = "expired";

/// One message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publication {
    DeadLetter(DeadLetterInfo),
    Outcome(Outcome),
    /// A copy of the request, for a retry queue.
    Retry(RetryInfo, Tier),
}

impl Publication {
    /// Why the request was not unlocked, as a stable code; none if it was.
    pub fn reason(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::DeadLetter(info) => Some(info.reason.clone().into()),
            Self::Outcome(outcome) => outcome.reason.clone().map(Cow::Owned),
            Self::Retry(info, _) => Some(info.reason.clone().map_or("paused".into(), Cow::Owned)),
        }
    }
}

/// What follows from the verdict on a call.
#[must_use]
pub fn publications(verdict: Verdict, message: &Envelope, reply: &Reply, now: Timestamp) -> Vec<Publication> {
    let request = message.request.as_ref().ok();
    let outcome = |status, attempts| Outcome {
        request: request.map(|request| request.identifiers().clone()),
        http_status: reply.status(),
        ..blank_outcome(message, status, attempts, now)
    };
    let failure = |status, attempts, reason: Reason| {
        let outcome = Outcome { detail: Some(detail(reason, reply)), ..outcome(status, attempts) };
        dead_letter_then_outcome(outcome, reason.to_string(), reply.body_text())
    };
    match verdict {
        Verdict::Unlocked { attempts } => vec![Publication::Outcome(outcome(Status::Unlocked, attempts))],
        Verdict::Refused { attempts, reason } => failure(Status::Refused, attempts, reason),
        Verdict::Abandoned { attempts, reason } => failure(Status::Abandoned, attempts, reason),
        Verdict::Expired { attempts, reason } => {
            let last = detail(reason, reply);
            let detail = format!("it expires before it can be tried again; the last attempt: {last}");
            let outcome = Outcome { detail: Some(detail), ..outcome(Status::Abandoned, attempts) };
            dead_letter_then_outcome(outcome, EXPIRED.to_owned(), reply.body_text())
        }
        Verdict::Retry { attempts, reason, tier } => {
            let info = RetryInfo {
                reason: Some(reason.to_string()),
                detail: Some(detail(reason, reply)),
                http_status: reply.status(),
                attempts,
            };
            vec![Publication::Retry(info, tier)]
        }
    }
}

/// A message that is no valid request.
#[must_use]
pub fn rejected(fault: &Fault, message: &Envelope, now: Timestamp) -> Vec<Publication> {
    let outcome = Outcome {
        request: fault.readable.clone(),
        detail: Some(fault.detail.clone()),
        ..blank_outcome(message, Status::Invalid, message.attempts, now)
    };
    dead_letter_then_outcome(outcome, fault.code.as_str().to_owned(), None)
}

/// What replaces the call for a request, if there is to be none: it has expired, or calls are paused.
/// Then it waits in the shortest tier.
#[must_use]
pub fn without_call(message: &Envelope, is_paused: bool, now: Timestamp) -> Option<Vec<Publication>> {
    let attempts = message.attempts;
    if message.is_expired(now) {
        let detail = match attempts {
            0 => "it expired before its first attempt".to_owned(),
            _ => format!("it expired after {attempts} failed attempts"),
        };
        let outcome = Outcome {
            request: message.request.as_ref().ok().map(|request| request.identifiers().clone()),
            detail: Some(detail),
            ..blank_outcome(message, Status::Abandoned, attempts, now)
        };
        return Some(dead_letter_then_outcome(outcome, EXPIRED.to_owned(), None));
    }
    is_paused.then(|| {
        let info = RetryInfo { reason: None, detail: None, http_status: None, attempts };
        vec![Publication::Retry(info, Tier::SHORTEST)]
    })
}

/// A request that RabbitMQ gave up. `death`: why, if RabbitMQ says.
#[must_use]
pub fn given_up(death: Option<&XDeath>, message: &Envelope, now: Timestamp) -> Vec<Publication> {
    let (reason, detail) = match death.map(|death| death.reason.as_str()) {
        Some("delivery_limit") => (
            "delivery_limit",
            "RabbitMQ delivered it too often: it was never settled, usually because it crashes the \
             worker (a poison message)"
                .to_owned(),
        ),
        Some(EXPIRED) => (EXPIRED, "it expired while it waited in the queue".to_owned()),
        Some(other) => (other, format!("RabbitMQ dropped it from the queue: {other}")),
        None => ("undeliverable", "RabbitMQ gave it up, and does not say why".to_owned()),
    };
    let outcome = Outcome {
        request: message.request.as_ref().err().and_then(|fault| fault.readable.clone()),
        detail: Some(detail),
        ..blank_outcome(message, Status::Abandoned, message.attempts, now)
    };
    dead_letter_then_outcome(outcome, reason.to_owned(), None)
}

/// In this order, so that a listener who reacts to the outcome finds the dead letter (decision
/// 31).
fn dead_letter_then_outcome(outcome: Outcome, reason: String, response: Option<String>) -> Vec<Publication> {
    let outcome = Outcome { reason: Some(reason.clone()), ..outcome };
    let info = DeadLetterInfo {
        status: outcome.status,
        reason,
        detail: outcome.detail.clone(),
        http_status: outcome.http_status,
        response,
        attempts: outcome.attempts,
        dead_at: outcome.finished_at,
    };
    vec![Publication::DeadLetter(info), Publication::Outcome(outcome)]
}

fn blank_outcome(message: &Envelope, status: Status, attempts: u32, now: Timestamp) -> Outcome {
    Outcome {
        status,
        request_id: message.request_id.clone(),
        request: None,
        attempts,
        http_status: None,
        reason: None,
        detail: None,
        replays: message.replays,
        first_received_at: message.first_received_at,
        finished_at: now,
        requested_by: message.requested_by().map(str::to_owned),
    }
}

/// A reason in words, with the beginning of Trackfinity's answer.
fn detail(reason: Reason, reply: &Reply) -> String {
    let quote = match reply {
        // It names the proxy, and says all that the reason says.
        Reply::NoTunnel { detail, .. } => return detail.clone(),
        Reply::Connection(error) => Some(error.clone()),
        Reply::Timeout | Reply::Certificate(_) => None,
        Reply::Response(_) => {
            reply.body_text().map(|body| headers::truncate(body, MAX_DETAIL_RESPONSE_BYTES))
        }
    };
    match quote {
        Some(quote) => format!("{}: {}", reason.describe(), quote.trim()),
        None => reason.describe(),
    }
}

#[cfg(test)]
mod tests;
