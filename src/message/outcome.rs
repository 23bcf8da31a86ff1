//! The outcome of a request, as it is published to the results exchange.

use std::borrow::Cow;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    Identifiers, Timestamp,
    headers::{MAX_SHORT_STRING, REQUESTED_BY},
};

/// The `type` property of every outcome.
pub const MESSAGE_TYPE: &str = "trackfinity.unlock.outcome.v1";
/// The header by which RabbitMQ filters a stream, from 3.13 on (RabbitMQ docs, "Stream filtering").
pub const STREAM_FILTER_VALUE: &str = "x-stream-filter-value";
/// The `app_id` property of every outcome.
pub const APP_ID: &str = "trackfinity-unlocker";

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Trackfinity answered `true`.
    Unlocked,
    /// The message is not a request; Trackfinity was not called.
    Invalid,
    /// Trackfinity answered, but not with `true`.
    Refused,
    /// Temporary failures went on until the retry limit was reached, or the request expired, or RabbitMQ
    /// gave it up.
    Abandoned,
    /// A person discarded the dead letter.
    Discarded,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 5] =
        [Self::Unlocked, Self::Invalid, Self::Refused, Self::Abandoned, Self::Discarded];

    /// The status of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// The status as written in outcomes, headers, routing keys and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unlocked => "unlocked",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
            Self::Discarded => "discarded",
        }
    }

    /// The routing key of an outcome with this status.
    pub fn routing_key(self) -> &'static str {
        match self {
            Self::Unlocked => "unlock.unlocked",
            Self::Invalid => "unlock.invalid",
            Self::Refused => "unlock.refused",
            Self::Abandoned => "unlock.abandoned",
            Self::Discarded => "unlock.discarded",
        }
    }
}

/// The outcome of a request. There is one per request and replay. After a crash it may be published
/// again, with the same `message_id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Outcome {
    /// How the request ended. New statuses may come: treat one that you do not know as not unlocked.
    pub status: Status,
    /// The request's `message_id`, or else the CloudEvent's id, or else the body's `request_id`, or else
    /// a UUID made by the worker.
    pub request_id: String,
    /// The identifiers as they were read; null if nothing could be read.
    pub request: Option<Identifiers>,
    /// Calls to Trackfinity that counted as attempts.
    pub attempts: u32,
    /// The HTTP status of Trackfinity's last response; null if there was none.
    pub http_status: Option<u16>,
    /// A stable code that says why; null for `unlocked`.
    pub reason: Option<String>,
    /// The reason in words, for people; may change at any time.
    pub detail: Option<String>,
    /// How often the request was replayed from the dead letters before.
    pub replays: u32,
    /// When a worker first received the request.
    pub first_received_at: Timestamp,
    /// When the outcome was decided.
    pub finished_at: Timestamp,
    /// Who asked for the request: its `user_id`, or else its `app_id`; null if it has neither.
    pub requested_by: Option<String>,
}

impl Outcome {
    /// The body, JSON.
    ///
    /// # Errors
    /// None that can happen for these types; serde's signature has one.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// The `message_id` property, see [`message_id()`].
    pub fn message_id(&self) -> String {
        message_id(&self.request_id, self.replays)
    }

    /// The message's properties without headers. `correlation_id` is the request's. If the request
    /// has none, its id is used.
    pub fn properties(&self, correlation_id: Option<&str>) -> BasicProperties {
        let correlation_id =
            correlation_id.map_or_else(|| short_id(&self.request_id), Cow::from).into_owned();
        BasicProperties::default()
            .with_message_id(self.message_id().into())
            .with_correlation_id(correlation_id.into())
            .with_content_type("application/json".into())
            .with_type(MESSAGE_TYPE.into())
            .with_app_id(APP_ID.into())
            .with_timestamp(self.finished_at.as_secs())
            .with_delivery_mode(2)
    }

    /// These properties with headers: those of the trace, who asked, so that a listener can bind its own,
    /// and what the history is searched by, if it is kept.
    pub fn with_headers(
        &self,
        properties: BasicProperties,
        mut trace: FieldTable,
        keeps_history: bool,
    ) -> BasicProperties {
        if keeps_history && let Some(value) = self.filter_value() {
            trace.insert(STREAM_FILTER_VALUE.into(), AMQPValue::LongString(value.into()));
        }
        if let Some(requested_by) = &self.requested_by {
            trace.insert(REQUESTED_BY.into(), AMQPValue::LongString(requested_by.as_str().into()));
        }
        if trace.inner().is_empty() { properties } else { properties.with_headers(trace) }
    }
}

impl Outcome {
    /// The value by which a stream is filtered. A message has one at most, so an outcome with several
    /// identifiers has none, and is found by every search.
    fn filter_value(&self) -> Option<String> {
        let mut given = self.request.as_ref()?.given();
        match (given.next(), given.next()) {
            (Some((name, value)), None) => filter_value(name, value),
            _ => None,
        }
    }
}

/// The value of [`STREAM_FILTER_VALUE`] of the outcomes with one identifier; `None` if it would be longer than
/// RabbitMQ allows.
pub fn filter_value(name: &str, value: &str) -> Option<String> {
    Some(format!("{name}={value}")).filter(|text| text.len() <= MAX_SHORT_STRING)
}

/// `<request_id>/<replays>`, by which listeners deduplicate. If that is longer than AMQP's limit of
/// 255 bytes, the hex SHA-256 of the request id is used instead of the id.
pub fn message_id(request_id: &str, replays: u32) -> String {
    let plain = format!("{request_id}/{replays}");
    if plain.len() <= MAX_SHORT_STRING {
        return plain;
    }
    format!("{}/{replays}", digest(request_id))
}

/// A request's id, or its hex SHA-256 if it has over 255 bytes.
pub fn short_id(request_id: &str) -> Cow<'_, str> {
    if request_id.len() <= MAX_SHORT_STRING {
        return request_id.into();
    }
    digest(request_id).into()
}

fn digest(text: &str) -> String {
    format!("{:x}", Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::request;

    fn outcome(request_id: &str) -> Outcome {
        let decoded = request::decode(None, br#"{"customer_id":191}"#);
        Outcome {
            status: Status::Unlocked,
            request_id: request_id.to_owned(),
            request: decoded.request.ok().map(|request| request.identifiers().clone()),
            attempts: 1,
            http_status: Some(200),
            reason: None,
            detail: None,
            replays: 0,
            first_received_at: "2026-11-23T09:00:00.000Z".parse().expect("a time"),
            finished_at: "2026-11-23T09:00:00.120Z".parse().expect("a time"),
            requested_by: None,
        }
    }

    #[test]
    fn an_outcome_is_encoded_as_the_contract_shows_it() {
        let body = outcome("m-1").encode().expect("encodes");
        assert_eq!(
            String::from_utf8(body).expect("UTF-8"),
            r#"{"status":"unlocked","request_id":"m-1","request":{"customer_id":"191"},"attempts":1,"http_status":200,"reason":null,"detail":null,"replays":0,"first_received_at":"2026-11-23T09:00:00.000Z","finished_at":"2026-11-23T09:00:00.120Z","requested_by":null}"#
        );
    }

    #[test]
    fn a_message_id_that_would_not_fit_holds_a_digest() {
        assert_eq!(outcome("m-1").message_id(), "m-1/0");
        assert_eq!(outcome(&"x".repeat(253)).message_id().len(), 255);
        let digested = outcome(&"x".repeat(254)).message_id();
        assert_eq!(digested.len(), 64 + 2);
        assert!(digested.ends_with("/0"));
    }

    #[test]
    fn the_correlation_id_falls_back_to_the_request_id_and_always_fits() {
        let correlation = |id: &str, given| {
            let properties = outcome(id).properties(given);
            properties.correlation_id().as_ref().map(|id| id.as_str().to_owned())
        };
        assert_eq!(correlation("m-1", Some("c-1")).as_deref(), Some("c-1"));
        assert_eq!(correlation("m-1", None).as_deref(), Some("m-1"));
        assert_eq!(correlation(&"x".repeat(300), None).map(|id| id.len()), Some(64));
    }
}
