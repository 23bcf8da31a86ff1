//! What a message says about its body, apart from the body.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

use crate::message::{Timestamp, headers};

/// The prefixes of a CloudEvent's attributes in headers: both of the AMQP binding, and the one of the
/// HTTP binding.
const EVENT_PREFIXES: [&str; 3] = ["cloudEvents:", "cloudEvents_", "ce-"];
/// The header in which kombu says how it has compressed the body.
const COMPRESSION: &str = "compression";

/// What a message, or an HTTP request, says about its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content<'a> {
    pub content_type: Option<&'a str>,
    pub content_encoding: Option<&'a str>,
    /// kombu's header `compression`, which it writes in place of a content encoding.
    pub compression: Option<&'a str>,
    /// The attributes of a CloudEvent in binary mode, whose data is the body.
    pub event: EventAttributes<'a>,
}

/// The attributes of a CloudEvent that a request has a use for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventAttributes<'a> {
    pub id: Option<&'a str>,
    pub expirytime: Option<EventTime<'a>>,
}

/// A time in an attribute of a CloudEvent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventTime<'a> {
    Text(&'a str),
    Moment(Timestamp),
}

/// A body about which only its content type is known.
impl<'a> From<Option<&'a str>> for Content<'a> {
    fn from(content_type: Option<&'a str>) -> Self {
        Self { content_type, ..Self::default() }
    }
}

impl<'a> Content<'a> {
    /// Reads the properties and headers of a message.
    pub fn from_properties(properties: &'a BasicProperties) -> Self {
        let mut content = Self {
            content_type: properties.content_type().as_ref().map(|given| given.as_str()),
            content_encoding: properties.content_encoding().as_ref().map(|given| given.as_str()),
            ..Self::default()
        };
        if let Some(headers) = properties.headers() {
            content.read_headers(headers);
        }
        content
    }

    fn read_headers(&mut self, headers: &'a FieldTable) {
        for (name, value) in headers {
            let name = name.as_str();
            // All the names below begin so, and hardly any other.
            if !name.starts_with(['c', 'C']) {
                continue;
            }
            if name == COMPRESSION {
                self.compression = headers::text(value);
            } else if let Some(attribute) = event_attribute(name) {
                self.event.read(attribute, value);
            }
        }
    }
}

impl<'a> EventAttributes<'a> {
    /// The first one counts if an attribute is given with several prefixes. What is of the wrong type
    /// counts as absent.
    fn read(&mut self, attribute: &str, value: &'a AMQPValue) {
        if attribute.eq_ignore_ascii_case("id") {
            self.id = self.id.or_else(|| headers::text(value).filter(|id| !id.is_empty()));
        } else if attribute.eq_ignore_ascii_case("expirytime") {
            let moment = match value {
                AMQPValue::Timestamp(seconds) => Some(EventTime::Moment(Timestamp::from_secs(*seconds))),
                value => headers::text(value).map(EventTime::Text),
            };
            self.expirytime = self.expirytime.or(moment);
        }
    }
}

/// The attribute's name, in any case: HTTP header names have none of their own.
fn event_attribute(name: &str) -> Option<&str> {
    EVENT_PREFIXES.into_iter().find_map(|prefix| {
        let (start, attribute) = name.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some(attribute)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(headers: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn a_cloud_events_attributes_are_read_with_each_prefix_in_any_case() {
        for prefix in ["cloudEvents:", "cloudEvents_", "ce-", "CE-", "Ce-", "CLOUDEVENTS:"] {
            let (id, time) = (format!("{prefix}id"), format!("{prefix}ExpiryTime"));
            let given = content(&[(&id, long("e-1")), (&time, long("soon")), ("ce_id", long("no"))]);
            let event = Content::from_properties(&given).event;
            assert_eq!(event.id, Some("e-1"), "{prefix}");
            assert_eq!(event.expirytime, Some(EventTime::Text("soon")), "{prefix}");
        }
    }

    #[test]
    fn attributes_of_the_wrong_type_count_as_absent_and_an_amqp_timestamp_is_a_time() {
        let given = content(&[
            ("ce-id", AMQPValue::LongLongInt(7)),
            ("ce-expirytime", AMQPValue::Boolean(true)),
            ("cloudEvents:expirytime", AMQPValue::Timestamp(1_795_424_400)),
            ("compression", AMQPValue::Void),
            ("CC", AMQPValue::Void),
        ]);
        let content = Content::from_properties(&given);
        let moment = Timestamp::from_millis(1_795_424_400_000);
        let event = EventAttributes { id: None, expirytime: Some(EventTime::Moment(moment)) };
        assert_eq!(content, Content { event, ..Content::default() });
        assert_eq!(Content::from_properties(&BasicProperties::default()), Content::default());
    }
}
