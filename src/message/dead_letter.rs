//! A dead letter: the original message, stamped with why it died; and the request it becomes again
//! when it is replayed.

use lapin::{BasicProperties, types::AMQPValue};
use serde::Serialize;

use super::{
    Envelope, History, Properties, Status, Timestamp, XDeath,
    headers::{self, Stamp},
    x_death,
};

/// The most of Trackfinity's answer that is kept with a dead letter, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 1024;

/// Why and how a request died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    pub status: Status,
    /// A stable code, as in the outcome.
    pub reason: String,
    pub detail: Option<String>,
    pub http_status: Option<u16>,
    /// The beginning of Trackfinity's answer.
    pub response: Option<String>,
    /// Calls that counted as attempts, the last one included.
    pub attempts: u32,
    pub dead_at: Timestamp,
}

impl Death {
    /// The properties of the dead letter; its body is the original's. `trace` is the context to
    /// carry where the message came without one. Takes at most `room` bytes.
    #[must_use]
    pub fn stamp(&self, envelope: &Envelope, trace: Option<&str>, room: usize) -> BasicProperties {
        headers::succeed(&envelope.properties, self.all_headers(envelope, trace), room)
    }

    /// The headers that make a dead letter of a message, for one whose properties are copied byte by
    /// byte.
    #[must_use]
    pub fn headers(&self, envelope: &Envelope, trace: Option<&str>) -> Vec<(&'static str, AMQPValue)> {
        self.all_headers(envelope, trace).into_headers()
    }

    fn all_headers(&self, envelope: &Envelope, trace: Option<&str>) -> Stamp {
        let mut stamp = envelope.stamp(self.attempts);
        stamp.fact(headers::STATUS, self.status.as_str());
        stamp.fact(headers::REASON, self.reason.as_str());
        stamp.fact(headers::DEAD_AT, self.dead_at.to_string());
        if let Some(http_status) = self.http_status {
            stamp.count(headers::HTTP_STATUS, http_status.into());
        }
        if let Some(trace) = trace {
            stamp.fact(headers::TRACEPARENT, trace);
        }
        if let Some(detail) = &self.detail {
            stamp.text(headers::DETAIL, detail.as_str());
        }
        if let Some(response) = &self.response {
            stamp.text(headers::RESPONSE, headers::truncate(response.clone(), MAX_RESPONSE_BYTES));
        }
        stamp
    }
}

/// Where a letter comes from: how its request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LetterStatus {
    /// The message was no request.
    Invalid,
    /// Trackfinity said no.
    Refused,
    /// Transient failures outlasted the retries.
    Abandoned,
    /// Its AMQP fields cannot be read, as where an id is not UTF-8.
    Unreadable,
    /// No worker put it here: RabbitMQ did, or somebody published it.
    Unknown,
}

impl LetterStatus {
    pub const ALL: [Self; 5] =
        [Self::Invalid, Self::Refused, Self::Abandoned, Self::Unreadable, Self::Unknown];

    /// The status as it stands in headers and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
        }
    }

    /// The status of that name where a worker may have written it.
    fn written(name: &str) -> Option<Self> {
        match Self::named(name) {
            Some(Self::Unreadable | Self::Unknown) | None => None,
            written => written,
        }
    }

    /// The status of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl std::fmt::Display for LetterStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a dead letter's headers tell. Headers of the wrong type count as absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub status: LetterStatus,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub http_status: Option<u16>,
    /// The beginning of Trackfinity's answer.
    pub response: Option<String>,
    pub attempts: u32,
    pub replays: u32,
    pub first_received_at: Option<Timestamp>,
    pub dead_at: Option<Timestamp>,
    /// The request's id, where the message has one.
    pub request_id: Option<String>,
}

impl Record {
    /// Reads the record from a letter's properties, as far as they can be read.
    #[must_use]
    pub fn of(properties: &Properties) -> Self {
        let raw = match properties {
            Properties::Readable(properties) => return Self::read(properties),
            Properties::Unreadable(raw) => raw,
        };
        let lossy = raw.lossy();
        let record = Self::read(lossy);
        let flaw = raw.flaw().to_string();
        let detail = match record.detail {
            Some(detail) if detail != flaw => format!("{flaw}; {detail}"),
            _ => flaw,
        };
        // Where the message's own id is what cannot be read, there is none.
        let request_id = History::read(lossy.headers().as_ref()).request_id;
        let request_id = request_id.or(record.request_id).filter(|id| !id.contains('\u{fffd}'));
        Self {
            status: LetterStatus::Unreadable,
            reason: record.reason.or_else(|| Some(LetterStatus::Unreadable.as_str().to_owned())),
            detail: Some(detail),
            request_id,
            ..record
        }
    }

    /// Reads the record from a letter's properties.
    #[must_use]
    pub fn read(properties: &BasicProperties) -> Self {
        let table = properties.headers().as_ref();
        let get = |name| table.and_then(|table| table.inner().get(name));
        let text = |name| get(name).and_then(headers::text).map(str::to_owned);
        let history = History::read(table);
        let message_id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        let (status, reason, detail, dead_at) = match table.filter(|table| x_death::is_present(table)) {
            // A worker removes x-death from all it writes. So RabbitMQ put the message here as it
            // was, and headers of a worker's are forged or older.
            Some(table) => {
                let death = x_death::latest(table);
                let detail = death.as_ref().map(explain);
                let time = death.as_ref().and_then(|death| death.time);
                (LetterStatus::Unknown, death.map(|death| death.reason), detail, time)
            }
            None => match text(headers::STATUS).as_deref().and_then(LetterStatus::written) {
                Some(status) => (
                    status,
                    text(headers::REASON),
                    text(headers::DETAIL),
                    text(headers::DEAD_AT).and_then(|at| at.parse().ok()),
                ),
                None => (LetterStatus::Unknown, None, None, None),
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

/// What RabbitMQ's reason means.
fn explain(death: &XDeath) -> String {
    let meaning = match death.reason.as_str() {
        "delivery_limit" => {
            "it was delivered again and again and never settled, as when it brings its worker down"
        }
        "expired" => "it waited for longer than it or the queue allows",
        "maxlen" => "the queue was full",
        "rejected" => "a consumer rejected it",
        _ => "RabbitMQ says no more about why",
    };
    format!("dead-lettered by RabbitMQ from {}: {meaning}", death.queue)
}

/// The properties of the request that a letter becomes when it is replayed; its body is the
/// letter's. Attempts and age start anew, the count of replays goes on, and everything that is not
/// the worker's own is as it was. Takes at most `room` bytes.
#[must_use]
pub fn revive(envelope: &Envelope, room: usize) -> BasicProperties {
    let mut stamp = Stamp::default();
    stamp.count(headers::REPLAYS, envelope.replays.saturating_add(1));
    // By which the outcome is known, also where the message came without an id.
    stamp.fact(headers::REQUEST_ID, super::outcome::short_id(&envelope.request_id));
    headers::succeed(&envelope.properties, stamp, room)
}

#[cfg(test)]
mod tests;
