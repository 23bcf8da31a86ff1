//! Which form a content type stands for.

use super::fault::{Fault, FaultCode, quoted};

const JSON: &str = "application/json";

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    /// JSON, or nothing said.
    Json,
    /// What client libraries write unless their user chooses something: the body is JSON, too.
    Unspecific,
    Form,
    CloudEvent,
    CloudEventBatch,
    Unsupported,
}

impl MediaType {
    /// Case and parameters do not matter: JSON is UTF-8, whatever a charset says.
    pub(super) fn new(content_type: Option<&str>) -> Self {
        // Nearly all requests say just this.
        let Some(content_type) = content_type.filter(|given| *given != JSON) else {
            return Self::Json;
        };
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let is = |known: &str| media_type.eq_ignore_ascii_case(known);
        let has_json_suffix = || {
            let suffix = media_type.len().checked_sub(5).and_then(|at| media_type.get(at..));
            suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
        };
        match () {
            () if media_type.is_empty() || is(JSON) => Self::Json,
            // kombu writes the last one for bytes.
            () if is("text/plain") || is("application/octet-stream") || is("application/data") => {
                Self::Unspecific
            }
            () if is("application/x-www-form-urlencoded") => Self::Form,
            () if is("application/cloudevents+json") => Self::CloudEvent,
            () if is("application/cloudevents-batch+json") => Self::CloudEventBatch,
            () if has_json_suffix() => Self::Json,
            () => Self::Unsupported,
        }
    }
}

/// Whether a text is a media type with one of the registered top-level types (RFC 6838), and few digits.
/// Anything else may be an identifier in the wrong place.
pub(super) fn is_media_type(text: &str) -> bool {
    const TOP_LEVEL: [&str; 5] = ["application", "text", "image", "multipart", "message"];
    let name = text.split(';').next().unwrap_or_default().trim();
    let Some((kind, subtype)) = name.split_once('/') else {
        return false;
    };
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-' | b'_');
    TOP_LEVEL.iter().any(|known| kind.eq_ignore_ascii_case(known))
        && subtype.bytes().all(is_usual)
        && subtype.bytes().filter(u8::is_ascii_digit).count() <= 2
}

/// The fault of a content type that is not read. `what` is where it was found; what is
/// not to be quoted is `None`.
pub(super) fn unsupported(what: &str, content_type: Option<&str>) -> Fault {
    let shown = content_type.map(|given| quoted(given.split(';').next().unwrap_or_default().trim()));
    let detail = format!(
        "the {what} is {}; supported are application/json, …+json, text/plain, application/octet-stream, \
         application/x-www-form-urlencoded and application/cloudevents+json",
        shown.as_deref().unwrap_or("no media type")
    );
    Fault::new(FaultCode::UnsupportedContentType, detail)
}
