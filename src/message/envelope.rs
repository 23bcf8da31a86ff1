//! A message as it was delivered, with its request decoded.

use lapin::BasicProperties;

use super::{
    Fault, History, Timestamp, UnlockRequest,
    headers::AddedHeaders,
    request::{self, Decoded},
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
    /// Calls that counted as attempts so far.
    pub attempts: u32,
    /// Replays from the dead letters so far.
    pub replays: u32,
}

impl Envelope {
    /// Decodes a message. `new_id` makes an id if the message has none.
    #[must_use]
    pub fn decode(
        properties: BasicProperties,
        body: Vec<u8>,
        now: Timestamp,
        new_id: impl FnOnce() -> String,
    ) -> Self {
        let content_type = properties.content_type().as_ref();
        let decoded = request::decode(content_type.map(|given| given.as_str()), &body);
        Self::with_request(properties, body, decoded, now, new_id)
    }

    /// Wraps a message without decoding its body, because decoding may be what crashes workers.
    #[must_use]
    pub fn undecoded(
        properties: BasicProperties,
        body: Vec<u8>,
        now: Timestamp,
        new_id: impl FnOnce() -> String,
    ) -> Self {
        Self::with_request(properties, body, Err(Fault::not_decoded()).into(), now, new_id)
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
            .or(decoded.event_id)
            .or(history.request_id)
            .unwrap_or_else(new_id);
        Self {
            request: decoded.request,
            request_id,
            // A time in the future is forged, or comes from a clock that is ahead of this one.
            first_received_at: history.first_received_at.map_or(now, |first| first.min(now)),
            attempts: history.attempts,
            replays: history.replays,
            properties,
            body,
        }
    }

    /// The request's own correlation id.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        let given = self.properties.correlation_id().as_ref().map(|id| id.as_str());
        given.filter(|id| !id.is_empty())
    }

    /// The history headers that every copy of this message has. `trace` is the trace context to add
    /// if the message has none.
    pub(super) fn history_headers(&self, attempts: u32, trace: Option<&str>) -> AddedHeaders {
        let mut added = AddedHeaders::default();
        added.count(super::headers::ATTEMPTS, attempts);
        added.count(super::headers::REPLAYS, self.replays);
        added.required(super::headers::FIRST_RECEIVED_AT, self.first_received_at.to_string());
        // A longer id can only be a CloudEvent's. It is read from the body again.
        added.required(super::headers::REQUEST_ID, super::outcome::short_id(&self.request_id));
        if let Some(trace) = trace {
            added.required(super::headers::TRACEPARENT, trace);
        }
        added
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::EPOCH;

    fn decode(properties: BasicProperties, body: &str) -> Envelope {
        Envelope::decode(properties, body.as_bytes().to_vec(), NOW, || "given".to_owned())
    }

    #[test]
    fn the_request_id_is_the_message_id_else_the_events_else_a_given_one() {
        let event = r#"{"id":"e-1","data":{"customer_id":1}}"#;
        let cloud_event = BasicProperties::default().with_content_type("application/cloudevents+json".into());
        let with_id = cloud_event.clone().with_message_id("m-1".into());
        let with_empty_id = cloud_event.clone().with_message_id("".into());
        assert_eq!(decode(with_id, event).request_id, "m-1");
        assert_eq!(decode(with_empty_id, event).request_id, "e-1");
        assert_eq!(decode(cloud_event, event).request_id, "e-1");
        assert_eq!(decode(BasicProperties::default(), "{}").request_id, "given");
    }
}
