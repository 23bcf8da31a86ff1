//! A dead letter: the original message with headers that say why it was dead-lettered; and the
//! request that it becomes again when it is replayed.

use lapin::{BasicProperties, types::AMQPValue};
use serde::Serialize;

use super::{
    Envelope, History, Properties, Status, Timestamp, XDeath,
    headers::{self, AddedHeaders},
    x_death,
};

/// The longest excerpt of Trackfinity's response in a dead letter, in bytes.
pub const MAX_EXCERPT_BYTES: usize = 1024;

/// Why a request is dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterInfo {
    pub status: Status,
    /// A stable code, as in the outcome.
    pub reason: String,
    pub detail: Option<String>,
    pub http_status: Option<u16>,
    /// The beginning of Trackfinity's response.
    pub response: Option<String>,
    /// Calls that counted as attempts, the last one included.
    pub attempts: u32,
    pub dead_at: Timestamp,
}

impl DeadLetterInfo {
    /// The properties of the dead letter, at most `max_len` bytes. Its body is the original's.
    /// `trace` is the trace context to add if the message has none.
    pub fn properties(&self, envelope: &Envelope, trace: Option<&str>, max_len: usize) -> BasicProperties {
        headers::copy_for_dead_letters(&envelope.properties, self.all_headers(envelope, trace), max_len)
    }

    /// The headers to add to a message whose properties are copied byte by byte.
    pub fn headers(&self, envelope: &Envelope, trace: Option<&str>) -> Vec<(&'static str, AMQPValue)> {
        self.all_headers(envelope, trace).into_headers()
    }

    fn all_headers(&self, envelope: &Envelope, trace: Option<&str>) -> AddedHeaders {
        let mut added = envelope.history_headers(self.attempts, envelope.first_received_at, trace);
        added.required(headers::STATUS, self.status.as_str());
        added.required(headers::REASON, self.reason.as_str());
        added.required(headers::DEAD_AT, self.dead_at.to_string());
        if let Some(http_status) = self.http_status {
            added.count(headers::HTTP_STATUS, http_status.into());
        }
        if let Some(detail) = &self.detail {
            added.optional(headers::DETAIL, detail.as_str());
        }
        if let Some(response) = &self.response {
            added.optional(headers::RESPONSE, headers::truncate(response.clone(), MAX_EXCERPT_BYTES));
        }
        added
    }
}

/// How the request of a dead letter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterStatus {
    /// The message was not a request.
    Invalid,
    /// Trackfinity refused it.
    Refused,
    /// Temporary failures went on until the retry limit was reached.
    Abandoned,
    /// Its AMQP fields cannot be read, for example because an id is not UTF-8.
    Unreadable,
    /// No worker wrote it: RabbitMQ dead-lettered it, or someone published it to the queue.
    Unknown,
}

impl DeadLetterStatus {
    pub const ALL: [Self; 5] =
        [Self::Invalid, Self::Refused, Self::Abandoned, Self::Unreadable, Self::Unknown];

    /// The status as written in headers and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
        }
    }

    /// The status of that name, if a worker can have written it.
    fn written(name: &str) -> Option<Self> {
        match Self::named(name) {
            Some(Self::Unreadable | Self::Unknown) | None => None,
            written => written,
        }
    }

    /// The status of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl std::fmt::Display for DeadLetterStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the headers of a dead letter say. Headers of the wrong type count as absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterHeaders {
    pub status: DeadLetterStatus,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub http_status: Option<u16>,
    /// The beginning of Trackfinity's response.
    pub response: Option<String>,
    pub attempts: u32,
    pub replays: u32,
    pub first_received_at: Option<Timestamp>,
    pub dead_at: Option<Timestamp>,
    /// The request's id, if the message has one.
    pub request_id: Option<String>,
}

impl DeadLetterHeaders {
    /// Reads the headers as far as they can be read.
    pub fn from_properties(properties: &Properties) -> Self {
        let raw = match properties {
            Properties::Readable(properties) => return Self::read(properties),
            Properties::Unreadable(raw) => raw,
        };
        let lossy = raw.lossy();
        let headers = Self::read(lossy);
        let flaw = raw.flaw().to_string();
        let detail = match headers.detail {
            Some(detail) if detail != flaw => format!("{flaw}; {detail}"),
            _ => flaw,
        };
        // If the id itself cannot be read, there is none.
        let request_id = History::read(lossy.headers().as_ref()).request_id;
        let request_id = request_id.or(headers.request_id).filter(|id| !id.contains('\u{fffd}'));
        Self {
            status: DeadLetterStatus::Unreadable,
            reason: headers.reason.or_else(|| Some(DeadLetterStatus::Unreadable.as_str().to_owned())),
            detail: Some(detail),
            request_id,
            ..headers
        }
    }

    /// Reads the headers of properties that can be read whole.
    pub fn read(properties: &BasicProperties) -> Self {
        let table = properties.headers().as_ref();
        let get = |name| table.and_then(|table| table.inner().get(name));
        let text = |name| get(name).and_then(headers::text).map(str::to_owned);
        let history = History::read(table);
        let message_id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        let (status, reason, detail, dead_at) = match table.filter(|table| x_death::is_present(table)) {
            // A worker never writes x-death. So RabbitMQ dead-lettered this message, and its
            // `unlocker-*` headers are forged or older (decision 104).
            Some(table) => {
                let death = x_death::latest(table);
                let detail = death.as_ref().map(explain);
                let time = death.as_ref().and_then(|death| death.time);
                (DeadLetterStatus::Unknown, death.map(|death| death.reason), detail, time)
            }
            None => match text(headers::STATUS).as_deref().and_then(DeadLetterStatus::written) {
                Some(status) => (
                    status,
                    text(headers::REASON),
                    text(headers::DETAIL),
                    text(headers::DEAD_AT).and_then(|at| at.parse().ok()),
                ),
                None => (DeadLetterStatus::Unknown, None, None, None),
            },
        };
        Self {
            status,
            reason,
            detail,
            http_status: get(headers::HTTP_STATUS).and_then(headers::count).and_then(|n| n.try_into().ok()),
            response: text(headers::RESPONSE),
            attempts: history.attempts,
            replays: history.replays,
            first_received_at: history.first_received_at,
            dead_at,
            request_id: message_id.filter(|id| !id.is_empty()).or(history.request_id),
        }
    }
}

/// Explains RabbitMQ's reason.
fn explain(death: &XDeath) -> String {
    let meaning = match death.reason.as_str() {
        "delivery_limit" => {
            "it was redelivered again and again and never settled, for example because it crashes its worker"
        }
        "expired" => "it waited longer than its expiration or the queue's TTL",
        "maxlen" => "the queue was full",
        "rejected" => {
            "a consumer rejected it, as workers do if it was redelivered again and again and never settled"
        }
        _ => "RabbitMQ does not say why",
    };
    format!("dead-lettered by RabbitMQ from {}: {meaning}", death.queue)
}

/// The properties of the request that a dead letter becomes when it is replayed, at most `max_len`
/// bytes. Its body is the dead letter's. Attempts and age restart at zero, and the number of replays
/// is increased. All headers that are not the worker's stay as they were.
pub fn replay_properties(envelope: &Envelope, max_len: usize) -> BasicProperties {
    let mut added = AddedHeaders::default();
    added.count(headers::REPLAYS, envelope.replays.saturating_add(1));
    // Listeners recognise the outcome by it, also if the message came without an id.
    added.required(headers::REQUEST_ID, super::outcome::short_id(&envelope.request_id));
    headers::copy_for_replay(&envelope.properties, added, max_len)
}

#[cfg(test)]
mod tests;
