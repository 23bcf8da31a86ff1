//! Decodes a request. One decoder for all who read requests, so that all agree.

use super::{
    cloud_event,
    content::Content,
    encoding,
    fault::{Fault, FaultCode},
    fields::Decoded,
    form, json,
    media_type::{MediaType, unsupported},
};

/// Decodes a body by what is said about it: its [`Content`], or only its content type. Any bytes give
/// a request or a fault.
pub fn decode<'a>(content: impl Into<Content<'a>>, body: &[u8]) -> Decoded {
    let content = content.into();
    let body = match encoding::unpack(&content, body) {
        Ok(body) => body,
        Err(fault) => return Decoded::from(fault).with_event(&content.event),
    };
    match MediaType::new(content.content_type) {
        MediaType::Json | MediaType::Unspecific => json::decode(&body, "the body"),
        MediaType::Form => form::decode(&body),
        MediaType::CloudEvent => return cloud_event::decode(&body, content.event),
        MediaType::CloudEventBatch => Decoded::from(Fault::new(
            FaultCode::UnsupportedContentType,
            "the content type is application/cloudevents-batch+json: a batch is not read; send each \
             CloudEvent as a message of its own",
        )),
        MediaType::Unsupported => unsupported("content type", content.content_type).into(),
    }
    .with_event(&content.event)
}
