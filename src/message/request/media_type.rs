//! Which form a content type stands for.

use super::fault::{Fault, FaultCode, quoted};

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
        let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let is = |known: &str| media_type.eq_ignore_ascii_case(known);
        let has_json_suffix = || {
            let suffix = media_type.len().checked_sub(5).and_then(|at| media_type.get(at..));
            suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
        };
        match () {
            () if media_type.is_empty() || is("application/json") => Self::Json,
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

/// The fault of a content type that is not read. `what` is where it was found.
pub(super) fn unsupported(what: &str, content_type: Option<&str>) -> Fault {
    let given = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let detail = format!(
        "the {what} is {}; supported are application/json, …+json, text/plain, application/octet-stream, \
         application/x-www-form-urlencoded and application/cloudevents+json",
        quoted(given)
    );
    Fault::new(FaultCode::UnsupportedContentType, detail)
}
