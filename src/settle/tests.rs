use super::*;
use crate::{
    message::FaultCode,
    policy::{HttpResponse, RetryAfter},
};

const NOW: Timestamp = Timestamp::EPOCH;

fn message(body: &str) -> Envelope {
    let properties = lapin::BasicProperties::default().with_message_id("m-1".into());
    Envelope::decode(properties, body.as_bytes().to_vec(), NOW, || unreachable!("it has an id"))
}

fn reply(status: u16, body: &str) -> Reply {
    let retry_after = None::<RetryAfter>;
    Reply::Response(HttpResponse { status, body: body.as_bytes().to_vec(), cut: false, retry_after })
}

fn request() -> Envelope {
    message(r#"{"customer_id":"191"}"#)
}

#[test]
fn an_unlocked_request_gets_its_outcome_alone() {
    let published = publications(Verdict::Unlocked { attempts: 2 }, &request(), &reply(200, "true"), NOW);
    let [Publication::Outcome(outcome)] = published.as_slice() else { panic!("{published:?}") };
    assert_eq!((outcome.status, outcome.attempts), (Status::Unlocked, 2));
    assert_eq!((outcome.reason.as_deref(), outcome.http_status), (None, Some(200)));
    assert!(outcome.request.is_some());
    assert_eq!(published[0].reason(), None);
}

#[test]
fn a_failed_request_gets_its_dead_letter_before_its_outcome() {
    let (attempts, reason) = (3, Reason::Http(422));
    let answer = reply(422, "no such customer");
    for (verdict, status) in [
        (Verdict::Refused { attempts, reason }, Status::Refused),
        (Verdict::Abandoned { attempts, reason }, Status::Abandoned),
    ] {
        let published = publications(verdict, &request(), &answer, NOW);
        let [Publication::DeadLetter(info), Publication::Outcome(outcome)] = published.as_slice() else {
            panic!("{published:?}")
        };
        assert_eq!((outcome.status, outcome.attempts), (status, 3));
        assert_eq!(outcome.detail.as_deref(), Some("Trackfinity answered 422: no such customer"));
        assert_eq!((info.status, info.attempts, info.dead_at), (status, 3, NOW));
        assert_eq!(info.response.as_deref(), Some("no such customer"));
        assert!(published.iter().all(|publication| publication.reason().as_deref() == Some("http_422")));
    }
}

#[test]
fn a_request_that_may_succeed_later_gets_a_copy_for_a_retry() {
    let verdict = Verdict::Retry { attempts: 1, reason: Reason::Timeout, tier: Tier::SHORTEST };
    let published = publications(verdict, &request(), &Reply::Timeout, NOW);
    let [Publication::Retry(info, Tier::SHORTEST)] = published.as_slice() else { panic!("{published:?}") };
    assert_eq!((info.reason.as_deref(), info.attempts), (Some("timeout"), 1));
}

#[test]
fn a_request_that_comes_during_a_pause_waits_without_a_reason() {
    let published = without_call(&request(), true, NOW).expect("no call");
    let [Publication::Retry(info, Tier::SHORTEST)] = published.as_slice() else { panic!("{published:?}") };
    assert_eq!((info.reason.as_deref(), info.attempts), (None, 0));
    assert_eq!(published[0].reason().as_deref(), Some("paused"));
}

#[test]
fn a_request_that_has_expired_is_abandoned_without_a_call_also_while_calls_are_paused() {
    let at = Timestamp::from_millis(1_000);
    let request = Envelope { expires_at: Some(at), ..request() };
    assert_eq!(without_call(&request, false, Timestamp::from_millis(999)), None);
    for (is_paused, attempts, detail) in
        [(false, 0, "it expired before its first attempt"), (true, 2, "it expired after 2 failed attempts")]
    {
        let request = Envelope { attempts, ..request.clone() };
        let published = without_call(&request, is_paused, at).expect("no call");
        let [Publication::DeadLetter(info), Publication::Outcome(outcome)] = published.as_slice() else {
            panic!("{published:?}")
        };
        assert_eq!((info.status, info.reason.as_str()), (Status::Abandoned, "expired"));
        assert_eq!((outcome.status, outcome.reason.as_deref()), (Status::Abandoned, Some("expired")));
        assert_eq!((outcome.attempts, outcome.detail.as_deref()), (attempts, Some(detail)));
        assert!(outcome.request.is_some());
    }
    let unlimited = Envelope { expires_at: None, ..request };
    assert_eq!(without_call(&unlimited, false, NOW), None);
}

#[test]
fn a_request_that_would_expire_before_its_next_attempt_says_why_the_last_one_failed() {
    let verdict = Verdict::Expired { attempts: 2, reason: Reason::Http(503) };
    let published = publications(verdict, &request(), &reply(503, "busy"), NOW);
    let [Publication::DeadLetter(info), Publication::Outcome(outcome)] = published.as_slice() else {
        panic!("{published:?}")
    };
    assert_eq!((info.reason.as_str(), info.response.as_deref()), ("expired", Some("busy")));
    assert_eq!((outcome.status, outcome.reason.as_deref()), (Status::Abandoned, Some("expired")));
    assert_eq!((outcome.attempts, outcome.http_status), (2, Some(503)));
    assert_eq!(
        outcome.detail.as_deref(),
        Some("it expires before it can be tried again; the last attempt: Trackfinity answered 503: busy")
    );
}

#[test]
fn a_message_that_is_no_request_is_rejected_with_what_was_readable() {
    let message = message(r#"{"customer_id":" "}"#);
    let fault = message.request.as_ref().expect_err("it has no identifier");
    assert_eq!(fault.code, FaultCode::NoIdentifier);
    let published = rejected(fault, &message, NOW);
    let [Publication::DeadLetter(_), Publication::Outcome(outcome)] = published.as_slice() else {
        panic!("{published:?}")
    };
    assert_eq!((outcome.status, outcome.reason.as_deref()), (Status::Invalid, Some("no_identifier")));
}

#[test]
fn what_rabbitmq_gave_up_is_abandoned_with_rabbitmqs_reason() {
    let death = |reason: &str| XDeath { queue: "requests".to_owned(), reason: reason.to_owned(), time: None };
    for (death, reason) in [
        (Some(death("delivery_limit")), "delivery_limit"),
        (Some(death("expired")), "expired"),
        (Some(death("maxlen")), "maxlen"),
        (None, "undeliverable"),
    ] {
        let published = given_up(death.as_ref(), &request(), NOW);
        let [Publication::DeadLetter(info), Publication::Outcome(outcome)] = published.as_slice() else {
            panic!("{published:?}")
        };
        assert_eq!((info.status, info.reason.as_str()), (Status::Abandoned, reason));
        assert_eq!(outcome.reason.as_deref(), Some(reason));
    }
}
