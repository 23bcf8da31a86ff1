//! A request as a structured CloudEvent, `application/cloudevents+json`.

use std::borrow::Cow;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    content::{EventAttributes, EventTime},
    fault::Fault,
    fields::Decoded,
    form, json,
    media_type::{MediaType, is_media_type, unsupported},
};

/// Padding is not required: some encoders leave it out.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Deserialize)]
struct CloudEvent<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<&'a RawValue>,
    #[serde(borrow)]
    datacontenttype: Option<&'a RawValue>,
    #[serde(borrow)]
    expirytime: Option<&'a RawValue>,
}

/// `header`: the attributes in the message's headers, which count where the event itself has none.
pub(super) fn decode(body: &[u8], header: EventAttributes<'_>) -> Decoded {
    let event =
        json::utf8(body, "the CloudEvent").and_then(|text| json::parse_object(text, "the CloudEvent"));
    match event {
        Ok(event) => CloudEvent::decode(&event, header),
        Err(fault) => Decoded::from(fault).with_event(&header),
    }
}

impl CloudEvent<'_> {
    fn decode(&self, header: EventAttributes<'_>) -> Decoded {
        let decoded = self.decode_data().unwrap_or_else(Decoded::from);
        // What is not a text counts as no id.
        let id = self.id.and_then(|id| json::string("id", id).ok().flatten()).filter(|id| !id.is_empty());
        let time = self.expirytime.map(|raw| (json::string("expirytime", raw).ok().flatten(), raw.get()));
        let time = time.as_ref().map(|(text, raw)| EventTime::Text(text.as_deref().unwrap_or(raw)));
        decoded.with_event(&EventAttributes {
            id: id.as_deref().or(header.id),
            expirytime: time.or(header.expirytime),
        })
    }

    fn decode_data(&self) -> Result<Decoded, Fault> {
        let content_type =
            self.datacontenttype.map(|raw| json::string("datacontenttype", raw)).transpose()?;
        let content_type = content_type.flatten();
        let media_type = MediaType::new(content_type.as_deref());
        let bytes: Cow<'_, [u8]> = match (self.data, self.data_base64) {
            (Some(data), _) => match json::string("data", data)? {
                // Data that is JSON stands in the event as it is, not as a text.
                Some(text) if media_type != MediaType::Json => text.into_owned().into_bytes().into(),
                _ => return Ok(json::decode(data.get().as_bytes(), "the CloudEvent's data")),
            },
            (None, Some(data)) => {
                let text = json::string("data_base64", data)?;
                let bytes = text.and_then(|text| BASE64.decode(text.as_bytes()).ok());
                let fault = || Fault::malformed("the CloudEvent's data_base64 is not base64");
                bytes.ok_or_else(fault)?.into()
            }
            (None, None) => return Err(Fault::malformed("the CloudEvent has no data")),
        };
        Ok(match media_type {
            MediaType::Json | MediaType::Unspecific => json::decode(&bytes, "the CloudEvent's data"),
            MediaType::Form => form::decode(&bytes),
            MediaType::CloudEvent | MediaType::CloudEventBatch | MediaType::Unsupported => {
                // It is a value in the body: only what cannot be an identifier is quoted.
                let shown = content_type.as_deref().filter(|given| is_media_type(given));
                unsupported("CloudEvent's datacontenttype", shown).into()
            }
        })
    }
}
