//! What is left in the queues.

use std::collections::BTreeSet;

use kit::{Amqp, Message};

use crate::names::{DEAD, waiting_queues};
use crate::requests;

pub struct Letter {
    /// The request's number, if it has one.
    pub n: Option<u64>,
    /// As the worker stamped it; none if the broker dead-lettered it.
    pub status: Option<String>,
    pub reason: String,
    /// For people.
    pub shown: String,
}

impl Letter {
    fn read(message: &Message) -> Self {
        let id = message.properties.message_id().as_ref().map(|id| id.to_string());
        Self {
            n: id.as_deref().and_then(requests::number),
            status: message.text_header("unlocker-status"),
            reason: message.text_header("unlocker-reason").unwrap_or_default(),
            shown: shown(message),
        }
    }
}

/// The body and the headers, on one line.
fn shown(message: &Message) -> String {
    let headers = message.properties.headers().iter().flat_map(|headers| headers.inner());
    let headers = headers.map(|(name, value)| match message.text_header(name.as_str()) {
        Some(text) => format!("{name}={text}"),
        None => format!("{name}={value:?}"),
    });
    format!("{} with {}", message.text(), headers.collect::<Vec<_>>().join(", "))
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

pub async fn take_dead_letters(amqp: &Amqp) -> Vec<Letter> {
    amqp.drain(DEAD).await.iter().map(Letter::read).collect()
}
