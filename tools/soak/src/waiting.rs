//! What is left in the queues.

use std::collections::BTreeSet;
use std::time::Duration;

use kit::Amqp;
use serde_json::Value;

use crate::names::waiting_queues;
use crate::{crew, requests};

const EXPORT_TIMEOUT: Duration = Duration::from_secs(120);

pub struct DeadLetter {
    /// The request's number, if it has one.
    pub n: Option<u64>,
    /// As the worker stamped it; none if the broker dead-lettered it.
    pub status: Option<String>,
    pub reason: String,
    /// For people.
    pub shown: String,
}

impl DeadLetter {
    /// From a line of `unlocker dead-letters export`.
    fn read(line: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(line).ok()?;
        let dead_letter = &json["dead_letter"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        // What cannot be read was given an id, and is known by its customer.
        let body: Value = serde_json::from_str(&text(&json["body"])).unwrap_or_default();
        let customer = || requests::number(body["customer_id"].as_str()?);
        Some(Self {
            n: requests::number(&text(&dead_letter["request_id"])).or_else(customer),
            status: status(dead_letter["status"].as_str()),
            reason: text(&dead_letter["reason"]),
            shown: format!("{} with {}", json["body"], json["headers"]),
        })
    }
}

fn status(shown: Option<&str>) -> Option<String> {
    match shown? {
        "unknown" => None,
        // The program cannot read what the worker wrote either; it wrote this status with the reason.
        "unreadable" => Some("invalid".into()),
        status => Some(status.into()),
    }
}

/// Ready messages where requests wait.
pub async fn count(amqp: &Amqp) -> u64 {
    let mut count = 0;
    for queue in waiting_queues() {
        count += u64::from(amqp.ready_count(&queue).await);
    }
    count
}

/// Takes out whatever still waits: by queue how many, and which requests.
pub async fn take(amqp: &Amqp) -> (Vec<(String, usize)>, BTreeSet<u64>) {
    let (mut counts, mut requests) = (Vec::new(), BTreeSet::new());
    for queue in waiting_queues() {
        let messages = amqp.drain(&queue).await;
        if !messages.is_empty() {
            counts.push((queue, messages.len()));
        }
        let ids = messages.iter().filter_map(|message| message.properties.message_id().as_ref());
        requests.extend(ids.filter_map(|id| requests::number(id.as_str())));
    }
    (counts, requests)
}

/// All dead letters, as the program shows them: a client library could not read them all. `Err` says what is wrong.
pub async fn export_dead_letters(url: &str) -> Result<Vec<DeadLetter>, String> {
    let export = crew::dead_letters(url, "export").start();
    let status = export.wait_exit(EXPORT_TIMEOUT).await;
    if !status.success() {
        return Err(format!("dead letters could not be exported: {status}: {}", export.stderr().join(" ")));
    }
    let lines = export.stdout();
    let read = |line: &String| DeadLetter::read(line).ok_or_else(|| format!("a strange dead letter: {line}"));
    lines.iter().map(read).collect()
}
