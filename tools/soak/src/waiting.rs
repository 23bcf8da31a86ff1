//! What is left in the queues.

use std::time::Duration;

use kit::Amqp;
use serde_json::Value;

use crate::checker::What;
use crate::journal::Journal;
use crate::names::waiting_queues;
use crate::recorder::Recorder;
use crate::requests::SHOWN;
use crate::{crew, requests};

const EXPORT_TIMEOUT: Duration = Duration::from_secs(300);

/// Ready messages where requests wait.
pub async fn count(amqp: &Amqp) -> u64 {
    let mut count = 0;
    for queue in waiting_queues() {
        count += u64::from(amqp.ready_count(&queue).await);
    }
    count
}

/// Takes out and records whatever still waits; by queue how many.
pub async fn take(amqp: &Amqp, recorder: &Recorder) -> Vec<(String, usize)> {
    let mut counts = Vec::new();
    for queue in waiting_queues() {
        let messages = amqp.drain(&queue).await;
        let ids = messages.iter().filter_map(|message| message.properties.message_id().as_ref());
        for n in ids.filter_map(|id| requests::number(id.as_str())) {
            recorder.record(n, What::LeftWaiting);
        }
        if !messages.is_empty() {
            counts.push((queue, messages.len()));
        }
    }
    counts
}

/// Records all dead letters, as the program shows them: a client library could not read them all. Returns how many
/// there are. What cannot be read is a complaint.
pub async fn record_dead_letters(urls: &str, recorder: &Recorder, journal: &Journal) -> usize {
    let export = crew::dead_letters(urls, "export").start();
    let status = export.wait_exit(EXPORT_TIMEOUT).await;
    if !status.success() {
        let said = export.stderr().join(" ");
        journal.complain(format!("dead letters could not be exported: {status}: {said}"));
    }
    let lines = export.stdout();
    let mut strange = Vec::new();
    for line in &lines {
        match read(line) {
            Some((n, what)) => recorder.record(n, what),
            None => strange.push(line),
        }
    }
    for line in strange.iter().take(SHOWN) {
        journal.complain(format!("a strange dead letter: {line}"));
    }
    lines.len()
}

/// A line of `unlocker dead-letters export`: the request's number, and what is left of it.
fn read(line: &str) -> Option<(u64, What)> {
    let json: Value = serde_json::from_str(line).ok()?;
    let dead_letter = &json["dead_letter"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // What cannot be read was given an id, and is known by its customer.
    let body: Value = serde_json::from_str(&text(&json["body"])).unwrap_or_default();
    let customer = || requests::number(body["customer_id"].as_str()?);
    let n = requests::number(&text(&dead_letter["request_id"])).or_else(customer)?;
    let status = match dead_letter["status"].as_str()? {
        "unknown" => None,
        // The program cannot read what the worker wrote either; it wrote this status with the reason.
        "unreadable" => Some("invalid".into()),
        status => Some(status.into()),
    };
    Some((n, What::LeftDead { status, reason: text(&dead_letter["reason"]) }))
}
