//! What has to hold of each history.

use std::time::{Duration, SystemTime};

use super::event::{Event, Outcome, What};
use super::{Known, since};
use crate::crew::MAX_ATTEMPTS;
use crate::requests::Kind;

/// Given a history and what the request is, how the rule is broken.
pub type Rule = fn(&[Event], Kind, &Known<'_>) -> Option<Breach>;

pub struct Breach {
    /// How many of the first events show it.
    pub events: usize,
    pub why: String,
}

pub const RULES: [(&str, Rule); 9] = [
    ("an accepted request has an outcome", has_outcome),
    ("nothing comes of what was not sent", comes_of_a_request),
    ("outcomes with one id are equal", are_equal),
    ("a dead letter stands before its outcome", has_dead_letter_before),
    ("dead letters and outcomes belong together", belong_together),
    ("attempts and times are in order", are_in_order),
    ("nothing is done again after an outcome but by a listed crash", is_done_once),
    ("an outcome is true", is_true),
    ("the gateway's answers agree with the outcomes", agree),
];

/// Outcomes have whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);
/// An outcome decided so long before the `since` of a poll is not shown (docs/http.md).
const SHOWN_BEFORE_SINCE: Duration = Duration::from_secs(60);
/// How long a gateway's own reader may be behind the listener, on a machine that is busy.
const GATEWAY_BEHIND: Duration = Duration::from_secs(5);
/// The stand-in's answers that unlock a customer, also where the worker does not get them.
pub const UNLOCKING: [&str; 3] = ["true", "too late", "reset"];

fn has_outcome(events: &[Event], _: Kind, known: &Known<'_>) -> Option<Breach> {
    if !has(events, |what| matches!(what, What::Accepted)) || may_wait(events, known) {
        return None;
    }
    let missing = if !has(events, |what| matches!(what, What::Heard(_))) {
        "no listener has heard its outcome"
    } else if known.has_history && !has(events, |what| matches!(what, What::Kept(_))) {
        "the history has no outcome of it"
    } else {
        return None;
    };
    breach(events.len() - 1, missing)
}

/// Each answer that something is not taken takes back what was sent.
fn comes_of_a_request(events: &[Event], _: Kind, _: &Known<'_>) -> Option<Breach> {
    let (mut sent, mut has_come) = (0_usize, false);
    for (at, event) in events.iter().enumerate() {
        match event.what {
            What::Sent => sent += 1,
            What::Accepted | What::Pending { .. } => {}
            What::NotTaken(_) => sent = sent.saturating_sub(1),
            _ => has_come = true,
        }
        if has_come && sent == 0 {
            return breach(at, "nobody had sent it, or all that was sent was answered not to be taken");
        }
    }
    None
}

fn are_equal(events: &[Event], _: Kind, _: &Known<'_>) -> Option<Breach> {
    let mut known: Vec<&Outcome> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let (What::Heard(outcome) | What::Answered(outcome) | What::Kept(outcome)) = &event.what else {
            continue;
        };
        if outcome.message_id != format!("{}/{}", outcome.request_id, outcome.replays) {
            return breach(at, "its message id is not that of its request and its replays");
        }
        for other in known.iter().filter(|other| other.message_id == outcome.message_id) {
            if other.requested_by != outcome.requested_by {
                return breach(at, "two outcomes of one id are of requests by different senders");
            }
            if other.request.is_some() && outcome.request.is_some() && other.request != outcome.request {
                return breach(at, "two outcomes of one id have different identifiers");
            }
            // Two runs of a request may end in the same millisecond.
            let run = |of: &Outcome| (of.first_received_at, of.finished_at, of.attempts);
            if run(other) == run(outcome) && other.digest != outcome.digest {
                return breach(at, "two outcomes of one id and one time differ");
            }
        }
        known.push(outcome);
    }
    let kept = |event: &Event| match &event.what {
        What::Kept(outcome) => Some(outcome.digest),
        _ => None,
    };
    let is_kept = |outcome: &Outcome| events.iter().filter_map(kept).any(|digest| digest == outcome.digest);
    let is_apart = events.iter().any(|event| kept(event).is_some())
        && heard(events).next().is_some()
        && !heard(events).any(|(_, _, outcome)| is_kept(outcome));
    // The last one was confirmed by all queues.
    if is_apart {
        breach(events.len() - 1, "the history has other outcomes of it than the listener")
    } else {
        None
    }
}

/// Copies of dead letters that cannot be read do not come to the listener.
fn has_dead_letter_before(events: &[Event], kind: Kind, _: &Known<'_>) -> Option<Breach> {
    let lacks = |&(at, _, outcome): &(usize, SystemTime, &Outcome)| {
        let is_its = |what: &What| matches!(what, What::DeadLetter(status) if *status == outcome.status);
        outcome.status != "unlocked" && kind != Kind::Unreadable && !has(&events[..at], is_its)
    };
    let (at, ..) = heard(events).find(lacks)?;
    breach(at, "no dead letter of this status came before")
}

fn belong_together(events: &[Event], kind: Kind, known: &Known<'_>) -> Option<Breach> {
    let (last, may_wait) = (events.len().saturating_sub(1), may_wait(events, known));
    for event in events {
        let What::LeftDead { status, reason } = &event.what else { continue };
        let Some(status) = status else {
            return breach(last, "RabbitMQ put it among the dead letters itself");
        };
        if is_endpoint_fault(reason) && !(kind == Kind::Forbidden && reason == "http_403") {
            return breach(last, "it is dead for a fault of the endpoint");
        }
        let is_its = |(_, _, outcome): (usize, SystemTime, &Outcome)| outcome.status == *status;
        if !may_wait && !heard(events).any(is_its) && !is_crashed_between(events, status, known) {
            return breach(last, "its dead letter has no such outcome");
        }
    }
    let is_left = |outcome: &Outcome| {
        has(
            events,
            |what| matches!(what, What::LeftDead { status: Some(status), .. } if *status == outcome.status),
        )
    };
    let alone = heard(events).find(|(_, _, outcome)| outcome.status != "unlocked" && !is_left(outcome));
    alone.and_then(|_| breach(last, "its outcome has no such dead letter"))
}

/// Whether a worker may have been cut off when a dead letter was published and its outcome was not: then the request is
/// done again, and may end otherwise.
fn is_crashed_between(events: &[Event], status: &str, known: &Known<'_>) -> bool {
    let is_it = |event: &&Event| matches!(&event.what, What::DeadLetter(of) if of == status);
    let dead = events.iter().find(is_it).map(|event| event.at);
    let ended = heard(events).map(|(_, at, _)| at).find(|at| dead.is_some_and(|dead| dead <= *at));
    let Some((dead, ended)) = dead.zip(ended) else { return false };
    known.is_cut_off_between(dead, ended)
}

/// How often a postponed outcome may not have been recognised: its request is then called again (docs/decisions.md, 50).
fn unrecognised(known: &Known<'_>, sent: SystemTime, at: SystemTime) -> u64 {
    match known.felt_between(sent, at).any(|fault| fault.postpones.is_some()) {
        true => known.felt_between(sent, at).filter(|fault| fault.changes_key).count() as u64,
        false => 0,
    }
}

fn are_in_order(events: &[Event], kind: Kind, known: &Known<'_>) -> Option<Breach> {
    let is_called = |what: &What| matches!(what, What::Called(_));
    if matches!(kind, Kind::Invalid | Kind::Unreadable)
        && let Some(at) = events.iter().position(|event| is_called(&event.what))
    {
        return breach(at, "Trackfinity is called for what is no request");
    }
    for (at, heard_at, outcome) in heard(events) {
        let sent_at = first_sent(events)?;
        let off = known.felt_between(sent_at, heard_at).map(|fault| fault.clock_off);
        let slack = ROUNDING + off.sum::<Duration>();
        let times = [
            (sent_at, "sent"),
            (outcome.first_received_at, "received"),
            (outcome.finished_at, "finished"),
            (heard_at, "heard"),
        ];
        for pair in times.windows(2) {
            let [(earlier, before), (later, after)] = [pair[0], pair[1]];
            if since(earlier, later) > slack {
                return breach(
                    at,
                    format!("it is {after} {:?} before it is {before}", since(earlier, later)),
                );
            }
        }
        let attempts = outcome.attempts;
        let most = MAX_ATTEMPTS.saturating_add(unrecognised(known, sent_at, heard_at));
        let (least, most) = match outcome.status.as_str() {
            "unlocked" | "refused" => (1, most),
            "invalid" => (0, 0),
            _ => (0, most),
        };
        if !(least..=most).contains(&attempts) {
            return breach(at, format!("it has {attempts} attempts, not {least} to {most}"));
        }
        if least > 0 && !has(&events[..at], is_called) {
            return breach(at, "Trackfinity was not called before");
        }
    }
    None
}

fn is_done_once(events: &[Event], _: Kind, known: &Known<'_>) -> Option<Breach> {
    let sent_at = first_sent(events)?;
    let (mut sent, mut first) = (0_usize, None::<&Outcome>);
    for (at, event) in events.iter().enumerate() {
        let again = match (&event.what, first) {
            (What::Sent, _) => {
                sent += 1;
                continue;
            }
            (What::NotTaken(_), _) => {
                sent = sent.saturating_sub(1);
                continue;
            }
            (What::Called(_), Some(_)) => "Trackfinity is called after an outcome was heard",
            (What::Heard(outcome), Some(first)) if outcome.finished_at != first.finished_at => {
                "another outcome comes after the first one"
            }
            (What::Heard(outcome), None) => {
                first = Some(outcome);
                continue;
            }
            _ => continue,
        };
        // What was cut off may be in two queues, and both copies may live long.
        let is_crash = known.is_cut_off_between(sent_at, event.at);
        if sent < 2 && !is_crash && unrecognised(known, sent_at, event.at) == 0 {
            return breach(
                at,
                format!("{again}, it was sent once, no worker was cut off, and no key changed"),
            );
        }
    }
    None
}

fn is_true(events: &[Event], kind: Kind, known: &Known<'_>) -> Option<Breach> {
    let is_unlocking = |what: &What| matches!(what, What::Called(answer) if UNLOCKING.contains(answer));
    let is_wrong = |&(at, _, outcome): &(usize, SystemTime, &Outcome)| {
        let reason = outcome.reason.as_deref();
        let holds = match (outcome.status.as_str(), kind) {
            ("unlocked", Kind::Good | Kind::Expiring | Kind::Shard | Kind::Forbidden) => {
                reason.is_none() && has(&events[..at], is_unlocking)
            }
            ("refused", Kind::Refused) => reason == Some("http_400"),
            ("refused", Kind::Forbidden) => reason == Some("http_403"),
            ("invalid", Kind::Invalid) => matches!(reason, Some("malformed" | "no_identifier")),
            ("invalid", Kind::Unreadable) => reason == Some("unreadable"),
            ("abandoned", Kind::Expiring) if reason == Some("expired") => true,
            ("abandoned", _) if reason == Some("delivery_limit") => {
                known.faults.iter().any(|fault| fault.limits_deliveries)
            }
            ("abandoned", Kind::Invalid | Kind::Unreadable) => false,
            ("abandoned", _) => reason.is_some_and(is_transient),
            _ => false,
        };
        !holds
    };
    let (at, _, outcome) = heard(events).find(is_wrong)?;
    breach(at, format!("{kind:?} is said to be {} {:?}", outcome.status, outcome.reason))
}

fn agree(events: &[Event], _: Kind, known: &Known<'_>) -> Option<Breach> {
    let mut is_answered = false;
    for (at, event) in events.iter().enumerate() {
        match &event.what {
            What::Answered(answer) => {
                is_answered = true;
                let is_it = |what: &What| match what {
                    What::Heard(outcome) | What::Kept(outcome) => outcome.digest == answer.digest,
                    _ => false,
                };
                if !has(events, is_it) && !is_done_again(events, answer, known) {
                    return breach(at, "the gateway answers with an outcome that nobody else has");
                }
            }
            What::Pending { .. } if is_answered => {
                return breach(at, "the gateway answers that there is no outcome, after it gave one");
            }
            What::Pending { since: from, asked } if !known.interrupted => {
                let is_shown = |(_, heard_at, outcome): (usize, SystemTime, &Outcome)| {
                    heard_at + GATEWAY_BEHIND < *asked && outcome.finished_at + SHOWN_BEFORE_SINCE >= *from
                };
                if heard(&events[..at]).any(is_shown) {
                    return breach(at, "the gateway answers that there is no outcome, after one was heard");
                }
            }
            _ => {}
        }
    }
    None
}

/// Whether an outcome may have reached the gateway alone: before the others had it, its worker was cut off, or could no
/// longer recognise that it was postponed, and the request was done again.
fn is_done_again(events: &[Event], alone: &Outcome, known: &Known<'_>) -> bool {
    let Some(sent_at) = first_sent(events) else { return false };
    heard(events).any(|(_, at, outcome)| {
        let is_felt = known.is_cut_off_between(sent_at, at) || unrecognised(known, sent_at, at) > 0;
        outcome.finished_at != alone.finished_at && is_felt
    })
}

fn breach(at: usize, why: impl Into<String>) -> Option<Breach> {
    Some(Breach { events: at + 1, why: why.into() })
}

fn has(events: &[Event], is_it: impl Fn(&What) -> bool) -> bool {
    events.iter().any(|event| is_it(&event.what))
}

/// The outcomes that the listener heard: the index, when, and what.
fn heard(events: &[Event]) -> impl Iterator<Item = (usize, SystemTime, &Outcome)> {
    events.iter().enumerate().filter_map(|(at, event)| match &event.what {
        What::Heard(outcome) => Some((at, event.at, &**outcome)),
        _ => None,
    })
}

fn first_sent(events: &[Event]) -> Option<SystemTime> {
    events.iter().find(|event| matches!(event.what, What::Sent)).map(|event| event.at)
}

fn may_wait(events: &[Event], known: &Known<'_>) -> bool {
    known.interrupted && has(events, |what| matches!(what, What::LeftWaiting))
}

fn is_transient(reason: &str) -> bool {
    let status = reason.strip_prefix("http_").and_then(|status| status.parse::<u16>().ok());
    match status {
        Some(status) => status >= 500 && status != 501,
        None => matches!(reason, "timeout" | "connection" | "unexpected_reply" | "rate_limited"),
    }
}

fn is_endpoint_fault(reason: &str) -> bool {
    let status = reason.strip_prefix("http_").and_then(|status| status.parse::<u16>().ok());
    status.is_some_and(|status| matches!(status, 300..=399 | 401 | 403 | 405 | 407 | 501))
}
