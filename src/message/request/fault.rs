//! Why a message is not a request.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::identifiers::Identifiers;

/// How much of what came a detail quotes, in characters.
const MAX_QUOTED_CHARS: usize = 64;

/// Why a message is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// Not JSON, not an object, a field given twice, a time that is none, or not gzip.
    Malformed,
    /// No identifier, or only blank ones.
    NoIdentifier,
    /// An identifier or a `request_id` of the wrong type, too long, or with control characters.
    BadIdentifier,
    /// The body is over 64 KiB.
    TooLarge,
    /// The content type or the content encoding is not supported.
    UnsupportedContentType,
    /// A text in the message's AMQP properties is not UTF-8.
    Unreadable,
}

impl FaultCode {
    /// The code as written in outcomes, headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoIdentifier => "no_identifier",
            Self::BadIdentifier => "bad_identifier",
            Self::TooLarge => "too_large",
            Self::UnsupportedContentType => "unsupported_content_type",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A fault, with the identifiers that could be read. The detail never repeats an identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: FaultCode,
    pub detail: String,
    pub readable: Option<Identifiers>,
    /// The fields that are wrong, and why, as far as single fields are.
    pub fields: Box<[(&'static str, &'static str)]>,
}

impl Fault {
    pub(super) fn new(code: FaultCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), readable: None, fields: Box::default() }
    }

    /// The fault of a message whose body was not decoded.
    pub(in crate::message) fn not_decoded() -> Self {
        Self::new(FaultCode::Unreadable, "the body was not decoded")
    }

    pub(super) fn malformed(detail: impl fmt::Display) -> Self {
        Self::new(FaultCode::Malformed, detail.to_string())
    }
}

/// The beginning of what came, in quotes and escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let mut quoted: String = chars.by_ref().take(MAX_QUOTED_CHARS).flat_map(char::escape_debug).collect();
    if chars.next().is_some() {
        quoted.push('…');
    }
    format!("\"{quoted}\"")
}
