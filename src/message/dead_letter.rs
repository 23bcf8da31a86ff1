//! A dead letter: the original message, stamped with why it died; and the request it becomes again
//! when it is replayed.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde::Serialize;

use super::{
    Envelope, History, Status, Timestamp,
    headers::{self, Stamp},
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
        headers::succeed(&envelope.properties, stamp, room)
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
    /// RabbitMQ dead-lettered it: the worker died while holding it, again and again.
    Crashed,
    /// Neither the worker nor RabbitMQ says; somebody published it here.
    Unknown,
}

impl LetterStatus {
    pub const ALL: [Self; 5] = [Self::Invalid, Self::Refused, Self::Abandoned, Self::Crashed, Self::Unknown];

    /// The status as it stands in headers and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
            Self::Crashed => "crashed",
            Self::Unknown => "unknown",
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

/// What RabbitMQ gives as the reason when it dead-letters what was delivered too often.
const DELIVERY_LIMIT: &str = "delivery_limit";

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
    /// Reads the record from a letter's properties.
    #[must_use]
    pub fn read(properties: &BasicProperties) -> Self {
        let table = properties.headers().as_ref();
        let get = |name| table.and_then(|table| table.inner().get(name));
        let text = |name| get(name).and_then(headers::text).map(str::to_owned);
        let history = History::read(table);
        let message_id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        let stamped = get(headers::STATUS).and_then(headers::text).and_then(LetterStatus::named);
        let crash = table.and_then(crash);
        let (status, reason, detail, dead_at) = match (stamped, crash) {
            (Some(status), _) => (
                status,
                text(headers::REASON),
                text(headers::DETAIL),
                text(headers::DEAD_AT).and_then(|at| at.parse().ok()),
            ),
            (None, Some(crash)) => (
                LetterStatus::Crashed,
                Some(DELIVERY_LIMIT.to_owned()),
                Some("the worker died while holding it, again and again".to_owned()),
                crash.time,
            ),
            (None, None) => (LetterStatus::Unknown, None, None, None),
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

/// A dead-lettering by RabbitMQ for too many deliveries.
struct Crash {
    time: Option<Timestamp>,
}

fn crash(table: &FieldTable) -> Option<Crash> {
    let Some(AMQPValue::FieldArray(deaths)) = table.inner().get("x-death") else {
        return None;
    };
    deaths.as_slice().iter().find_map(|death| {
        let AMQPValue::FieldTable(death) = death else {
            return None;
        };
        let reason = death.inner().get("reason").and_then(headers::text);
        let time = match death.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds)
                .ok()
                .map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000))),
            _ => None,
        };
        (reason == Some(DELIVERY_LIMIT)).then_some(Crash { time })
    })
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
