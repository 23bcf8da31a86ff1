//! Canaries: messages by which `unlocker check --probe` sees that a request would reach a worker. A
//! worker answers them, and does nothing else with them (decision 157).

use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde::{Deserialize, Serialize};

/// Marks a canary. Its value is the canary's id.
const CANARY: &str = "unlocker-canary";

/// What a worker answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The canary's id.
    pub canary: String,
    /// The queue that the worker received it from.
    pub queue: String,
    /// Why RabbitMQ gave the canary up, such as `expired`, if it did.
    pub gave_up: Option<String>,
}

/// The properties of a canary. Its body is empty.
pub fn properties(id: &str, reply_to: &str) -> BasicProperties {
    let headers = BTreeMap::from([(CANARY.into(), AMQPValue::LongString(id.into()))]);
    BasicProperties::default()
        .with_message_id(id.into())
        .with_reply_to(reply_to.into())
        .with_headers(FieldTable::from(headers))
        // From RabbitMQ 4.0 on it need not wait behind a backlog.
        .with_priority(5)
        .with_delivery_mode(2)
}

/// The id of a canary; `None` if the message is none. A message with a body never is, so that a
/// request with the header by mistake stays a request.
pub fn id<'a>(properties: &'a BasicProperties, body: &[u8]) -> Option<&'a str> {
    let headers = properties.headers().as_ref().filter(|_| body.is_empty())?;
    headers.inner().get(CANARY).and_then(super::headers::text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_message_with_the_header_is_a_canary() {
        let canary = properties("c-1", "amq.rabbitmq.reply-to");
        assert_eq!(id(&canary, b""), Some("c-1"));
        assert_eq!(id(&canary, br#"{"customer_id":1}"#), None);
        assert_eq!(id(&BasicProperties::default(), b""), None);
        let forged = AMQPValue::FieldTable(FieldTable::default());
        let forged = FieldTable::from(BTreeMap::from([(CANARY.into(), forged)]));
        assert_eq!(id(&BasicProperties::default().with_headers(forged), b""), None);
    }
}
