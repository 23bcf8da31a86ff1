//! A message as it was delivered, with its request decoded.

use std::time::Duration;

use lapin::BasicProperties;

use super::{
    Fault, History, Timestamp, UnlockRequest,
    headers::{self, AddedHeaders},
    queue_wait,
    request::{self, Content, Decoded},
};

/// A decoded message: its request, and the history of that request.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub properties: BasicProperties,
    pub body: Vec<u8>,
    pub request: Result<UnlockRequest, Fault>,
    /// Identifies the request everywhere; any length.
    pub request_id: String,
    pub first_received_at: Timestamp,
    /// How long it waited in the queue before a worker first received it, if that is known.
    pub queue_wait: Option<Duration>,
    /// From then on it is not tried any more. `None` if it does not expire.
    pub expires_at: Option<Timestamp>,
    /// Calls that counted as attempts so far.
    pub attempts: u32,
    /// Replays from the dead letters so far.
    pub replays: u32,
}

impl Envelope {
    /// Decodes a message. `new_id` makes an id if the message has none.
    pub fn decode(
        properties: BasicProperties,
        body: Vec<u8>,
        now: Timestamp,
        new_id: impl FnOnce() -> String,
    ) -> Self {
        let decoded = request::decode(Content::from_properties(&properties), &body);
        Self::with_request(properties, body, decoded, now, new_id)
    }

    /// Wraps a message without decoding its body, because decoding may be what crashes workers.
    pub fn undecoded(
        properties: BasicProperties,
        body: Vec<u8>,
        now: Timestamp,
        new_id: impl FnOnce() -> String,
    ) -> Self {
        // A CloudEvent in binary mode has its id in the headers.
        let given_id = Content::from_properties(&properties).event.id.map(str::to_owned);
        let decoded = Decoded { given_id, ..Fault::not_decoded().into() };
        Self::with_request(properties, body, decoded, now, new_id)
    }

    fn with_request(
        properties: BasicProperties,
        body: Vec<u8>,
        decoded: Decoded,
        now: Timestamp,
        new_id: impl FnOnce() -> String,
    ) -> Self {
        let history = History::read(properties.headers().as_ref());
        let message_id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        let request_id = message_id
            .filter(|id| !id.is_empty())
            .or(decoded.given_id)
            .or(history.request_id)
            .unwrap_or_else(new_id);
        // A time in the future is forged, or comes from a clock that is ahead of this one.
        let first_received_at = history.first_received_at.map_or(now, |first| first.min(now));
        let is_first_receipt = history.first_received_at.is_none() && history.replays == 0;
        // A person who replays a request wants it tried.
        let expires_at = if history.replays > 0 {
            None
        } else {
            let end = headers::lifetime(&properties).map(|lifetime| first_received_at.plus(lifetime));
            decoded.expires_at.into_iter().chain(end).min()
        };
        Self {
            request: decoded.request,
            request_id,
            first_received_at,
            queue_wait: if is_first_receipt { queue_wait::since_queued(&properties, now) } else { None },
            expires_at,
            attempts: history.attempts,
            replays: history.replays,
            properties,
            body,
        }
    }

    /// The request's own correlation id.
    pub fn correlation_id(&self) -> Option<&str> {
        let given = self.properties.correlation_id().as_ref().map(|id| id.as_str());
        given.filter(|id| !id.is_empty())
    }

    /// Who asked for it: the `user_id`, else the `app_id`. RabbitMQ checks a `user_id` when it is
    /// published; nobody checks an `app_id` (decision 145).
    pub fn requested_by(&self) -> Option<&str> {
        let app_id = || self.properties.app_id().as_ref().map(|id| id.as_str()).filter(|id| !id.is_empty());
        headers::user_id(&self.properties).or_else(app_id)
    }

    /// Whether it is not to be tried any more.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// The history headers that every copy of this message has. `trace` is the trace context to add
    /// if the message has none.
    pub(super) fn history_headers(
        &self,
        attempts: u32,
        first_received_at: Timestamp,
        trace: Option<&str>,
    ) -> AddedHeaders {
        let mut added = AddedHeaders::default();
        added.count(super::headers::ATTEMPTS, attempts);
        added.count(super::headers::REPLAYS, self.replays);
        added.required(super::headers::FIRST_RECEIVED_AT, first_received_at.to_string());
        // A longer id can only come from the body. It is read from there again.
        added.required(super::headers::REQUEST_ID, super::outcome::short_id(&self.request_id));
        if let Some(trace) = trace {
            added.required(super::headers::TRACEPARENT, trace);
        }
        added
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{AMQPValue, FieldTable};

    use super::*;
    use crate::message::{RetryInfo, dead_letter::replay_properties};

    const NOW: Timestamp = Timestamp::EPOCH;

    fn decode(properties: BasicProperties, body: &str) -> Envelope {
        Envelope::decode(properties, body.as_bytes().to_vec(), NOW, || "given".to_owned())
    }

    fn headers(entries: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn the_user_asked_else_the_application_and_a_forged_id_counts_for_nothing() {
        let by = |properties| decode(properties, "{}").requested_by().map(str::to_owned);
        let app = BasicProperties::default().with_app_id("billing".into());
        let carried =
            |user: &str| headers(&[(headers::ORIGINAL_USER_ID, AMQPValue::LongString(user.into()))]);
        assert_eq!(by(app.clone().with_user_id("shop".into())).as_deref(), Some("shop"));
        assert_eq!(by(app).as_deref(), Some("billing"));
        assert_eq!(by(carried("shop").with_app_id("billing".into())).as_deref(), Some("shop"));
        assert_eq!(by(carried(&"x".repeat(256))), None);
        assert_eq!(by(BasicProperties::default().with_app_id("".into())), None);
    }

    #[test]
    fn the_request_id_is_the_message_id_else_the_events_else_its_own_else_a_given_one() {
        let event = r#"{"id":"e-1","data":{"customer_id":1,"request_id":"r-1"}}"#;
        let own = r#"{"customer_id":1,"request_id":"r-1"}"#;
        let cloud_event = BasicProperties::default().with_content_type("application/cloudevents+json".into());
        let binary = headers(&[("ce-id", long("e-2"))]);
        for (properties, body, request_id) in [
            (cloud_event.clone().with_message_id("m-1".into()), event, "m-1"),
            (cloud_event.clone().with_message_id("".into()), event, "e-1"),
            (cloud_event, event, "e-1"),
            (binary.clone().with_message_id("m-1".into()), own, "m-1"),
            (binary.clone(), own, "e-2"),
            (BasicProperties::default().with_message_id("m-1".into()), own, "m-1"),
            (BasicProperties::default(), own, "r-1"),
            (headers(&[(headers::REQUEST_ID, long("first"))]), own, "r-1"),
            (headers(&[(headers::REQUEST_ID, long("first"))]), "{}", "first"),
            (BasicProperties::default(), "{}", "given"),
        ] {
            assert_eq!(decode(properties, body).request_id, request_id, "{body}");
        }
        let undecoded = Envelope::undecoded(binary, Vec::new(), NOW, || "given".to_owned());
        assert_eq!(undecoded.request_id, "e-2", "it is in the headers");
    }

    #[test]
    fn the_earliest_of_all_times_given_is_when_a_request_expires() {
        let body = r#"{"customer_id":1,"expires_at":"1970-01-01T00:00:30Z"}"#;
        let at = |properties, body| decode(properties, body).expires_at.map(Timestamp::as_millis);
        let expiration = |text: &str| BasicProperties::default().with_expiration(text.into());
        let event = || headers(&[("ce-expirytime", long("1970-01-01T00:00:20Z"))]);
        assert_eq!(at(BasicProperties::default(), "{}"), None);
        assert_eq!(at(BasicProperties::default(), body), Some(30_000));
        assert_eq!(at(event(), body), Some(20_000));
        assert_eq!(at(event().with_expiration("10000".into()), body), Some(10_000));
        assert_eq!(at(expiration("40000"), body), Some(30_000));
        assert_eq!(at(expiration("40000"), "{}"), Some(40_000));
        for forged in ["", "-1", "1e3", "soon", "99999999999999999999"] {
            assert_eq!(at(expiration(forged), "{}"), None, "{forged}");
        }
        assert!(decode(expiration("0"), "{}").is_expired(NOW));
        assert!(!decode(expiration("1"), "{}").is_expired(NOW));
    }

    #[test]
    fn an_expiration_counts_from_the_first_receipt_in_every_copy_and_not_after_a_replay() {
        let original = BasicProperties::default().with_expiration("5000".into());
        let first = decode(original, r#"{"customer_id":1,"expires_at":"1970-01-02T00:00:00Z"}"#);
        let retry = RetryInfo { reason: None, detail: None, http_status: None, attempts: 1 };
        let copy = retry.properties(&first, None, 10_000);
        let again = Envelope::decode(copy, first.body.clone(), Timestamp::from_millis(3_000), String::new);
        assert_eq!(again.expires_at, Some(Timestamp::from_millis(5_000)));
        assert_eq!((first.queue_wait, again.queue_wait), (None, None));
        let replayed = decode(replay_properties(&again, 10_000), r#"{"customer_id":1}"#);
        assert_eq!((replayed.replays, replayed.expires_at), (1, None));
    }

    #[test]
    fn the_wait_in_the_queue_is_known_at_the_first_receipt_alone() {
        let now = Timestamp::from_secs(1_700_000_010);
        let at = |properties| Envelope::decode(properties, Vec::new(), now, String::new).queue_wait;
        let sent = |properties: BasicProperties| properties.with_timestamp(1_700_000_000);
        assert_eq!(at(sent(BasicProperties::default())), Some(Duration::from_secs(10)));
        assert_eq!(at(sent(headers(&[(headers::REPLAYS, AMQPValue::LongLongInt(1))]))), None);
        let received = (headers::FIRST_RECEIVED_AT, long("2023-11-14T22:13:25.000Z"));
        assert_eq!(at(sent(headers(&[received]))), None);
    }
}
