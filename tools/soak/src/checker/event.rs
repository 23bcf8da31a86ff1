//! What happened to one request, as the soak saw it.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, SystemTime};

use serde_json::Value;

/// At a time of the soak's own clock.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: SystemTime,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    /// It was given to RabbitMQ or to the gateway; once for each time.
    Sent,
    /// RabbitMQ has confirmed it and not returned it, or the gateway has answered that it has it.
    Accepted,
    /// The gateway has answered that what was sent is not taken, and why.
    NotTaken(String),
    /// The stand-in for Trackfinity was called, and answers this.
    Called(&'static str),
    /// A listener got a copy of its dead letter, with this status.
    DeadLetter(String),
    /// A listener got an outcome.
    Heard(Box<Outcome>),
    /// The gateway gave an outcome as its answer.
    Answered(Box<Outcome>),
    /// The gateway has answered that there is no outcome since then. When it was asked.
    Pending { since: SystemTime, asked: SystemTime },
    /// In the end the history has this outcome.
    Kept(Box<Outcome>),
    /// In the end it is among the dead letters; without a status if RabbitMQ put it there.
    LeftDead { status: Option<String>, reason: String },
    /// In the end it still waits in a queue.
    LeftWaiting,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// As it was published; where that is not known, as it has to be.
    pub message_id: String,
    pub request_id: String,
    pub status: String,
    pub reason: Option<String>,
    /// The identifiers, as JSON.
    pub request: Option<String>,
    pub requested_by: Option<String>,
    pub attempts: u64,
    pub http_status: Option<u64>,
    pub replays: u64,
    pub first_received_at: SystemTime,
    pub finished_at: SystemTime,
    /// Of its bytes: outcomes that have the same one are equal byte for byte.
    pub digest: u64,
}

impl Outcome {
    /// `None` if a field of the contract is missing, or is of another type.
    pub fn read(message_id: Option<&str>, body: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(body).ok()?;
        let text = |name: &str| Some(json.get(name)?.as_str()?.to_owned());
        let optional = |name: &str| match json.get(name)? {
            Value::Null => Some(None),
            value => value.as_str().map(|text| Some(text.to_owned())),
        };
        let time = |name: &str| humantime::parse_rfc3339(json.get(name)?.as_str()?).ok();
        let (request_id, replays) = (text("request_id")?, json.get("replays")?.as_u64()?);
        let mut digest = DefaultHasher::new();
        digest.write(body);
        Some(Self {
            message_id: message_id.map_or_else(|| format!("{request_id}/{replays}"), str::to_owned),
            status: text("status")?,
            reason: optional("reason")?,
            request: Some(json.get("request")?).filter(|request| !request.is_null()).map(Value::to_string),
            requested_by: optional("requested_by")?,
            attempts: json.get("attempts")?.as_u64()?,
            http_status: json.get("http_status")?.as_u64(),
            replays,
            first_received_at: time("first_received_at")?,
            finished_at: time("finished_at")?,
            digest: digest.finish(),
            request_id,
        })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent => write!(f, "sent"),
            Self::Accepted => write!(f, "accepted"),
            Self::NotTaken(why) => write!(f, "not taken: {why}"),
            Self::Called(answer) => write!(f, "Trackfinity called, answers: {answer}"),
            Self::DeadLetter(status) => write!(f, "dead letter heard: {status}"),
            Self::Heard(outcome) => write!(f, "outcome heard: {outcome}"),
            Self::Answered(outcome) => write!(f, "the gateway answers: {outcome}"),
            Self::Pending { since, .. } => {
                write!(f, "the gateway answers: pending, since {}", humantime::format_rfc3339_millis(*since))
            }
            Self::Kept(outcome) => write!(f, "in the history: {outcome}"),
            Self::LeftDead { status, reason } => {
                write!(
                    f,
                    "among the dead letters: {} {reason}",
                    status.as_deref().unwrap_or("put there by RabbitMQ")
                )
            }
            Self::LeftWaiting => write!(f, "still waits in a queue"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message_id, status, attempts, digest, .. } = self;
        let reason = self.reason.as_deref().unwrap_or("-");
        let request = self.request.as_deref().unwrap_or("null");
        let by = self.requested_by.as_deref().unwrap_or("-");
        let [first, last] = [self.first_received_at, self.finished_at].map(humantime::format_rfc3339_millis);
        write!(
            f,
            "{message_id} {status} {reason}, {request} by {by}, {attempts} attempts, {first} to {last}, bytes {digest:016x}"
        )
    }
}

/// How much later, or zero.
pub fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}
