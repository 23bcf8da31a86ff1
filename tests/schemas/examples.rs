//! docs/examples: requests, and one outcome for each status and each family of reasons, made by the
//! code that makes them in production. `UPDATE_DOCS=1` writes the outcomes again.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::Value;
use trackfinity_unlocker::{
    message::{Envelope, Outcome, Status, Timestamp, XDeath, headers, schema},
    policy::{HttpResponse, Reason, Reply, Verdict},
    settle::{self, Publication},
};

use super::validator;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/examples")
}

/// The files whose names begin like this, with their contents.
pub fn files(prefix: &str) -> BTreeMap<String, Value> {
    let entries = fs::read_dir(folder()).expect("docs/examples").map(|entry| entry.expect("an entry"));
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    named
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, path)| {
            let text = fs::read_to_string(path).expect("a file");
            let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, json)
        })
        .collect()
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn received(body: &[u8]) -> Envelope {
    let properties =
        lapin::BasicProperties::default().with_message_id("order-4711".into()).with_app_id("billing".into());
    Envelope::decode(properties, body.to_vec(), at("2026-11-23T09:00:00.000Z"), String::new)
}

fn answer(status: u16, body: &str) -> Reply {
    Reply::Response(HttpResponse { status, body: body.as_bytes().to_vec(), cut: false, retry_after: None })
}

/// The outcomes, by the name of their file.
fn outcomes() -> BTreeMap<String, Outcome> {
    let request = received(br#"{"customer_id":"191"}"#);
    let now = at("2026-11-23T09:00:00.120Z");
    let called = |verdict, reply: &Reply| settle::publications(verdict, &request, reply, now);
    let refused = |reason, reply: &Reply| called(Verdict::Refused { attempts: 1, reason }, reply);
    let abandoned = |reason, reply: &Reply| {
        let later = at("2026-11-23T09:41:07.052Z");
        settle::publications(Verdict::Abandoned { attempts: 12, reason }, &request, reply, later)
    };
    let invalid = |body: &[u8]| {
        let message = received(body);
        settle::rejected(message.request.as_ref().expect_err("a fault"), &message, now)
    };
    let given_up = |reason: &str| {
        let death =
            XDeath { queue: "trackfinity.unlock.requests".to_owned(), reason: reason.to_owned(), time: None };
        let at_once = at("2026-11-23T09:00:00.000Z");
        let properties = request.properties.clone();
        let message = Envelope::undecoded(properties, request.body.clone(), at_once, String::new);
        settle::given_up(Some(&death), &message, now)
    };
    let mut wrong_type = lapin::BasicProperties::default();
    wrong_type = wrong_type.with_message_id("order-4711".into()).with_content_type("application/xml".into());
    let wrong_type = Envelope::decode(wrong_type, b"<customer/>".to_vec(), now, String::new);
    let expired = received(br#"{"customer_id":"191","expires_at":"2026-11-23T09:00:00Z"}"#);
    let timeout = Reply::Timeout;
    let made = [
        called(Verdict::Unlocked { attempts: 1 }, &answer(200, "true")),
        refused(Reason::Http(404), &answer(404, "no such customer")),
        refused(Reason::NotTrue, &answer(200, "false")),
        abandoned(Reason::Timeout, &timeout),
        abandoned(Reason::Http(503), &answer(503, "down for maintenance")),
        settle::without_call(&expired, false, now).expect("it has expired"),
        given_up("delivery_limit"),
        invalid(b"{\"customer_id\": "),
        invalid(br#"{"customer":"191"}"#),
        invalid(br#"{"customer_id":1.5,"orderid":"EV-42"}"#),
        invalid(&vec![b' '; 65 * 1024]),
        settle::rejected(wrong_type.request.as_ref().expect_err("a fault"), &wrong_type, now),
    ];
    let mut outcomes: Vec<Outcome> = made
        .into_iter()
        .filter_map(|publications| match publications.into_iter().last() {
            Some(Publication::Outcome(outcome)) => Some(outcome),
            _ => None,
        })
        .collect();
    let sample = outcomes.first().expect("an outcome").clone();
    outcomes.push(Outcome {
        status: Status::Discarded,
        http_status: Some(404),
        reason: Some("the customer has left".to_owned()),
        finished_at: at("2026-11-24T08:15:00.000Z"),
        ..sample
    });
    let named = outcomes.into_iter().map(|outcome| {
        let reason = outcome.reason.as_deref().filter(|_| outcome.status != Status::Discarded);
        let reason = reason.map(|reason| format!("-{reason}")).unwrap_or_default();
        (format!("outcome-{}{reason}.json", outcome.status.as_str()), outcome)
    });
    named.collect()
}

#[test]
fn the_examples_of_outcomes_are_what_the_worker_publishes() {
    assert!(headers::is_own(headers::REQUESTED_BY));
    let made: BTreeMap<String, Value> = outcomes()
        .into_iter()
        .map(|(name, outcome)| {
            let body = outcome.encode().expect("JSON");
            (name, serde_json::from_slice(&body).expect("JSON"))
        })
        .collect();
    let statuses: std::collections::BTreeSet<_> =
        made.values().map(|outcome| outcome["status"].as_str()).collect();
    assert_eq!(statuses.len(), Status::ALL.len(), "each status has an example");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        for name in files("outcome-").keys() {
            fs::remove_file(folder().join(name)).expect("removed");
        }
        for (name, outcome) in &made {
            let text = serde_json::to_string_pretty(outcome).expect("JSON") + "\n";
            fs::write(folder().join(name), text).expect("written");
        }
    }
    assert_eq!(files("outcome-"), made, "UPDATE_DOCS=1 cargo test --test schemas writes docs/examples again");
}

#[test]
fn every_example_is_valid() {
    let (outcome, request, strict) =
        (validator(&schema::outcome()), validator(&schema::request()), validator(&schema::strict_request()));
    for (name, example) in files("outcome-") {
        assert!(outcome.is_valid(&example), "{name}");
    }
    let requests = files("request-");
    assert!(!requests.is_empty());
    for (name, example) in requests {
        if name.contains("cloudevent") {
            assert!(strict.is_valid(&example["data"]), "{name}");
            continue;
        }
        assert!(request.is_valid(&example), "{name}");
        assert_eq!(strict.is_valid(&example), !name.contains("tolerant"), "{name}");
    }
}
