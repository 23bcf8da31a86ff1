//! Broken histories: each rule finds its own, and shows the shortest.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{Event, Finding, Known, Outcome, What, check};
use crate::journal::{Fault, Postponed};
use crate::requests::Kind;

/// A time of the test's own, in milliseconds.
fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_millis(millis)
}

fn outcome(status: &str, reason: Option<&str>, finished: u64) -> Outcome {
    Outcome {
        message_id: "soak-7/0".into(),
        request_id: "soak-7".into(),
        status: status.into(),
        reason: reason.map(str::to_owned),
        request: Some(r#"{"customer_id":"7"}"#.into()),
        requested_by: None,
        attempts: 1,
        http_status: Some(200),
        replays: 0,
        first_received_at: at(2),
        finished_at: at(finished),
        digest: finished,
    }
}

fn unlocked(finished: u64) -> Box<Outcome> {
    Box::new(outcome("unlocked", None, finished))
}

fn refused(finished: u64) -> Box<Outcome> {
    Box::new(outcome("refused", Some("http_400"), finished))
}

fn left(status: &str) -> What {
    What::LeftDead { status: Some(status.into()), reason: "http_400".into() }
}

/// A request that went as it should; it was heard at 20, and was decided at 15.
fn good() -> Vec<(u64, What)> {
    vec![
        (0, What::Sent),
        (1, What::Accepted),
        (10, What::Called("true")),
        (20, What::Heard(unlocked(15))),
        (90, What::Kept(unlocked(15))),
    ]
}

fn bad() -> Vec<(u64, What)> {
    vec![
        (0, What::Sent),
        (1, What::Accepted),
        (10, What::Called("400")),
        (18, What::DeadLetter("refused".into())),
        (20, What::Heard(refused(15))),
        (90, What::Kept(refused(15))),
        (91, left("refused")),
    ]
}

fn with(mut events: Vec<(u64, What)>, more: impl IntoIterator<Item = (u64, What)>) -> Vec<(u64, What)> {
    events.extend(more);
    events.sort_by_key(|(at, _)| *at);
    events
}

fn without(events: Vec<(u64, What)>, is_it: impl Fn(&What) -> bool) -> Vec<(u64, What)> {
    events.into_iter().filter(|(_, what)| !is_it(what)).collect()
}

/// What is found in these histories, which have the numbers from 7.
fn findings(histories: &[Vec<(u64, What)>], kind: Kind, faults: &[Fault]) -> Vec<Finding> {
    let events = |history: &Vec<(u64, What)>| -> Vec<Event> {
        history.iter().map(|(millis, what)| Event { at: at(*millis), what: what.clone() }).collect()
    };
    let histories: BTreeMap<u64, Vec<Event>> = (7..).zip(histories.iter().map(events)).collect();
    check(&histories, &Known { kind: &|_| kind, faults, has_history: true, interrupted: false })
}

/// The only finding, which must be of that rule, and show so many events of the history.
fn only(history: Vec<(u64, What)>, kind: Kind, rule: &str, events: usize) -> Finding {
    let found = findings(&[history], kind, &[]);
    let rules: Vec<_> = found.iter().map(|finding| (finding.rule, finding.why.clone())).collect();
    assert_eq!(found.len(), 1, "{rules:?}");
    let finding = found.into_iter().next().unwrap();
    assert!(finding.rule.contains(rule), "{rules:?}");
    assert_eq!(finding.shortest.len(), events, "{finding}");
    finding
}

fn crash(began: u64, healed: u64) -> Fault {
    let fault = Fault::new("SIGKILL of a worker", "kill -9 worker A").cutting_off(1);
    Fault { began: at(began), healed: Some(at(healed)), ..fault }
}

#[test]
fn histories_as_they_should_be_break_no_rule() {
    assert!(findings(&[good()], Kind::Good, &[]).is_empty());
    assert!(findings(&[bad()], Kind::Refused, &[]).is_empty());
}

#[test]
fn an_accepted_request_without_an_outcome_is_found() {
    let history = vec![(0, What::Sent), (1, What::Accepted), (10, What::Called("503"))];
    only(history, Kind::Good, "has an outcome", 3);
    let history = without(good(), |what| matches!(what, What::Kept(_)));
    let finding = only(history, Kind::Good, "has an outcome", 4);
    assert!(finding.why.contains("history"), "{finding}");
}

#[test]
fn a_request_that_nobody_confirmed_needs_no_outcome() {
    assert!(findings(&[vec![(0, What::Sent)]], Kind::Good, &[]).is_empty());
}

#[test]
fn an_outcome_of_nothing_that_was_sent_is_found() {
    let history = without(good(), |what| matches!(what, What::Sent | What::Accepted));
    let finding = only(history, Kind::Good, "was not sent", 1);
    assert!(matches!(finding.shortest[0].what, What::Called(_)), "{finding}");
}

#[test]
fn an_outcome_of_what_the_gateway_did_not_take_is_found_when_it_says_so() {
    let not_taken = (30, What::NotTaken("503 broker_unreachable".into()));
    let history = with(without(good(), |what| matches!(what, What::Accepted)), [not_taken.clone()]);
    only(history, Kind::Good, "was not sent", 4);
    // It was sent again.
    let history = with(good(), [(21, What::Sent), not_taken]);
    assert!(findings(&[history], Kind::Good, &[]).is_empty());
}

#[test]
fn outcomes_of_one_id_that_differ_are_found() {
    let again = |change: fn(&mut Outcome)| {
        let mut outcome = unlocked(15);
        change(&mut outcome);
        with(good(), [(25, What::Heard(outcome))])
    };
    only(again(|outcome| outcome.digest = 1), Kind::Good, "are equal", 5);
    only(again(|outcome| outcome.requested_by = Some("another".into())), Kind::Good, "are equal", 5);
    only(again(|outcome| outcome.request = Some("{}".into())), Kind::Good, "are equal", 5);
    only(again(|outcome| outcome.message_id = "soak-7/1".into()), Kind::Good, "are equal", 5);
    // Two runs that ended in the same millisecond.
    let another_run = again(|outcome| (outcome.digest, outcome.attempts) = (1, 2));
    assert!(findings(&[another_run], Kind::Good, &[]).is_empty());
    // RabbitMQ gave it up, and the worker did not read it.
    assert!(findings(&[again(|outcome| outcome.request = None)], Kind::Good, &[]).is_empty());
}

#[test]
fn a_history_that_has_another_outcome_than_the_listener_is_found() {
    let history =
        with(without(good(), |what| matches!(what, What::Kept(_))), [(90, What::Kept(unlocked(17)))]);
    only(history, Kind::Good, "are equal", 5);
}

#[test]
fn a_dead_letter_after_its_outcome_is_found() {
    let history = without(bad(), |what| matches!(what, What::DeadLetter(_)));
    let history = with(history, [(22, What::DeadLetter("refused".into()))]);
    only(history, Kind::Refused, "stands before", 4);
}

#[test]
fn a_dead_letter_or_an_outcome_alone_is_found() {
    only(with(good(), [(91, left("refused"))]), Kind::Good, "belong together", 6);
    only(without(bad(), |what| matches!(what, What::LeftDead { .. })), Kind::Refused, "belong together", 6);
    let by_rabbitmq = What::LeftDead { status: None, reason: "delivery_limit".into() };
    only(with(good(), [(91, by_rabbitmq)]), Kind::Good, "belong together", 6);
}

#[test]
fn a_dead_letter_alone_is_found_unless_a_crash_came_before_its_outcome() {
    let history = with(
        without(good(), |what| matches!(what, What::Heard(_) | What::Kept(_))),
        [
            (12, What::DeadLetter("refused".into())),
            (20_000, What::Heard(unlocked(15))),
            (30_000, What::Kept(unlocked(15))),
            (30_001, left("refused")),
        ],
    );
    assert!(findings(std::slice::from_ref(&history), Kind::Good, &[crash(11, 13)]).is_empty());
    // Long before, and long after.
    only(history.clone(), Kind::Good, "belong together", 7);
    let late = crash(25_000, 25_001);
    assert_eq!(findings(&[history], Kind::Good, &[late]).len(), 1);
}

#[test]
fn a_call_after_a_postponed_outcome_is_found_unless_the_key_changed() {
    let postponing = Fault::new("a full queue", "a full queue").postponing(Postponed::Refused);
    let postponing = Fault { began: at(5), healed: Some(at(30)), ..postponing };
    let changing = Fault { changes_key: true, ..Fault::new("a wrong key", "a wrong key") };
    let changing = Fault { began: at(40), healed: Some(at(50)), ..changing };
    let mut last = outcome("unlocked", None, 75);
    last.attempts = 11;
    let last = Box::new(last);
    let history =
        with(good(), [(70, What::Called("true")), (80, What::Heard(last.clone())), (91, What::Kept(last))]);
    assert!(
        findings(std::slice::from_ref(&history), Kind::Good, &[postponing.clone(), changing.clone()])
            .is_empty()
    );
    for alone in [postponing, changing] {
        let found = findings(std::slice::from_ref(&history), Kind::Good, &[alone]);
        let rules: Vec<_> = found.iter().map(|finding| finding.rule).collect();
        assert_eq!(found.len(), 2, "{rules:?}");
    }
}

#[test]
fn times_that_run_backwards_are_found_unless_a_clock_was_wrong() {
    let changed = |change: fn(&mut Outcome)| {
        let mut history = good();
        for (_, what) in &mut history {
            if let What::Heard(outcome) | What::Kept(outcome) = what {
                change(outcome);
            }
        }
        history
    };
    let before_it_was_sent =
        || changed(|outcome| outcome.first_received_at = at(0) - Duration::from_millis(40));
    let finding = only(before_it_was_sent(), Kind::Good, "in order", 4);
    assert!(finding.why.contains("received 40ms before it is sent"), "{finding}");
    only(changed(|outcome| outcome.first_received_at = at(19)), Kind::Good, "in order", 4);
    only(changed(|outcome| outcome.finished_at = at(2_000)), Kind::Good, "in order", 4);
    let clock = Fault { clock_off: Duration::from_millis(40), cut_off: 0, ..crash(5, 12) };
    assert!(findings(&[before_it_was_sent()], Kind::Good, &[clock]).is_empty());
}

#[test]
fn attempts_that_do_not_fit_the_calls_are_found() {
    let mut outcome = unlocked(15);
    outcome.attempts = 0;
    let history = with(
        without(good(), |what| matches!(what, What::Heard(_) | What::Kept(_))),
        [(20, What::Heard(outcome.clone())), (90, What::Kept(outcome))],
    );
    only(history, Kind::Good, "in order", 4);
    let found = findings(&[without(bad(), |what| matches!(what, What::Called(_)))], Kind::Refused, &[]);
    assert!(found.iter().any(|finding| finding.why == "Trackfinity was not called before"));
    let invalid = vec![(0, What::Sent), (10, What::Called("400"))];
    only(invalid, Kind::Invalid, "in order", 2);
}

#[test]
fn a_call_after_an_outcome_is_found_unless_a_crash_is_listed() {
    let history = || with(good(), [(40, What::Called("true"))]);
    only(history(), Kind::Good, "done again", 5);
    assert!(findings(&[history()], Kind::Good, &[crash(30, 35)]).is_empty());
    // SIGTERM is no crash, and a crash of another time explains nothing.
    let stop = Fault { cut_off: 0, ..crash(30, 35) };
    assert_eq!(findings(&[history()], Kind::Good, &[stop]).len(), 1);
    assert_eq!(findings(&[history()], Kind::Good, &[crash(50, 60)]).len(), 1);
    assert!(findings(&[with(history(), [(5, What::Sent)])], Kind::Good, &[]).is_empty());
}

#[test]
fn another_outcome_is_found_unless_a_crash_is_listed() {
    let history = || with(good(), [(40, What::Heard(unlocked(35)))]);
    only(history(), Kind::Good, "done again", 5);
    assert!(findings(&[history()], Kind::Good, &[crash(30, 35)]).is_empty());
}

#[test]
fn an_outcome_that_is_not_true_is_found() {
    let history = || {
        let mut history = good();
        history[2].1 = What::Called("503");
        history
    };
    only(history(), Kind::Good, "is true", 4);
    only(good(), Kind::Refused, "is true", 4);
    only(bad(), Kind::Good, "is true", 5);
}

#[test]
fn answers_of_the_gateway_that_do_not_agree_are_found() {
    only(with(good(), [(30, What::Answered(unlocked(16)))]), Kind::Good, "gateway", 5);
    let pending = |asked: u64, since: u64| (asked, What::Pending { since: at(since), asked: at(asked) });
    let history = with(good(), [(30, What::Answered(unlocked(15))), pending(40, 0)]);
    only(history, Kind::Good, "gateway", 6);
    only(with(good(), [pending(6_000, 0)]), Kind::Good, "gateway", 6);
    // Just heard; or decided more than a minute before what was asked for.
    assert!(findings(&[with(good(), [pending(4_000, 0)])], Kind::Good, &[]).is_empty());
    assert!(findings(&[with(good(), [pending(6_000, 61_000)])], Kind::Good, &[]).is_empty());
    // Asked before, and answered when the gateway was thawed.
    let late = (11_000, What::Pending { since: at(0), asked: at(4_000) });
    assert!(findings(&[with(good(), [late])], Kind::Good, &[]).is_empty());
}

#[test]
fn an_outcome_that_only_the_gateway_has_needs_a_fault_after_which_the_request_was_done_again() {
    let history = || with(good(), [(5, What::Called("true")), (6, What::Answered(unlocked(6)))]);
    assert!(!findings(&[history()], Kind::Good, &[]).is_empty());
    let postponed = Fault { postpones: Some(Postponed::Late), ..crash(2, 4) };
    let postponed = Fault { cut_off: 0, ..postponed };
    let key = Fault { changes_key: true, cut_off: 0, ..crash(7, 8) };
    assert!(!findings(&[history()], Kind::Good, std::slice::from_ref(&postponed)).is_empty());
    for faults in [vec![crash(7, 8)], vec![postponed, key]] {
        let found = findings(&[history()], Kind::Good, &faults);
        assert!(found.is_empty(), "{}", found[0]);
    }
}

#[test]
fn the_shortest_of_several_histories_is_shown_with_what_was_done_meanwhile() {
    let long = with(good(), [(24, What::Heard(unlocked(15))), (40, What::Called("true"))]);
    let short = with(good(), [(40, What::Called("true"))]);
    let stop = Fault { cut_off: 0, ..crash(30, 35) };
    let found = findings(&[long, good(), short], Kind::Good, &[stop]);
    assert_eq!(found.len(), 1);
    let (finding, shown) = (&found[0], found[0].to_string());
    assert_eq!((finding.requests.as_slice(), finding.n, finding.shortest.len()), (&[7, 9][..], 9, 5));
    let lines = [
        "2 histories break the rule that nothing is done again after an outcome but by a listed crash: soak-7 soak-9",
        "  the shortest one, of soak-9:",
        "       0.000 s  sent",
        "       0.001 s  accepted",
        "       0.010 s  Trackfinity called, answers: true",
        "       0.020 s  outcome heard: soak-7/0 unlocked -",
        "       0.040 s  Trackfinity called, answers: true",
        "  Trackfinity is called after an outcome was heard, it was sent once, no worker was cut off, and no key changed",
        "  meanwhile:     0.0 s  kill -9 worker A",
    ];
    for (line, shown) in lines.iter().zip(shown.lines()) {
        assert!(shown.starts_with(line), "{line}\n{shown}");
    }
    assert_eq!(shown.lines().count(), lines.len());
}
