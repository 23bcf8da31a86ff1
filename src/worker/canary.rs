//! Answers canaries, which `unlocker check --probe` sends (decision 157).

use lapin::BasicProperties;

use super::publish::SessionPublisher;
use crate::{
    broker::{Mandatory, publisher::Outgoing, replies},
    message::canary::{self, Answer},
};

/// A message that is a canary, and who asks.
pub(super) struct Canary<'a> {
    id: &'a str,
    reply_to: &'a str,
}

impl<'a> Canary<'a> {
    /// The canary that a message is, if it is one. It must ask for a direct reply, which only its
    /// sender can receive.
    pub(super) fn read(properties: &'a BasicProperties, body: &[u8]) -> Option<Self> {
        let id = canary::id(properties, body)?;
        let reply_to = properties.reply_to().as_ref()?.as_str();
        let is_direct = replies::routing(reply_to, &[]) == Some(Mandatory::Off);
        is_direct.then_some(Self { id, reply_to })
    }

    /// Says where it was received. `gave_up`: why RabbitMQ gave it up, if it did. It may be
    /// acknowledged also if the answer cannot be delivered: its check has ended then, and it is
    /// worth nothing to anyone else.
    pub(super) async fn answer(&self, queue: &str, gave_up: Option<&str>, publisher: &SessionPublisher) {
        let answer = Answer {
            canary: self.id.to_owned(),
            queue: queue.to_owned(),
            gave_up: gave_up.map(str::to_owned),
        };
        let Ok(body) = serde_json::to_vec(&answer) else { return };
        let properties = BasicProperties::default().with_content_type("application/json".into());
        let reply = Outgoing { exchange: "", routing_key: self.reply_to, properties, body: &body };
        match publisher.replies.send(&reply, Mandatory::Off).await {
            Ok(()) => tracing::debug!(queue, "a canary was answered"),
            Err(error) => {
                if let Some(left_out) = publisher.config.throttle.due("canary_unanswered") {
                    tracing::warn!(
                        event = "canary_unanswered",
                        %error,
                        left_out,
                        "the answer to a canary could not be sent"
                    );
                }
            }
        }
    }
}
