//! What went wrong, as `application/problem+json` (RFC 9457).

use std::time::Duration;

use axum::{
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// The media type of a problem.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Why an HTTP request was rejected or failed.
#[derive(Clone, Debug)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    body: Body,
    retry_after: Option<Duration>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A problem, as RFC 9457 describes it. Its `type` is absent, and so `about:blank`: `code` tells what it
/// is.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct Body {
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What the HTTP status is called.
    title: &'static str,
    /// For programs: what is wrong.
    code: &'static str,
    /// For people: what is wrong, and what to do.
    detail: String,
    /// Which parts of the body are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// Whether the request was taken all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    taken: Option<Taken>,
    /// The trace of the request, 32 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

/// What is wrong with one part of the body.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Where, as a JSON pointer (RFC 6901).
    pointer: String,
    detail: String,
}

/// Whether a request was taken although the answer is a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// Certainly not: it may be sent again.
    No,
    /// Perhaps: to send it again with the same key is safe.
    Unknown,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let body = Body {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Problem"),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            taken: None,
            trace_id: None,
        };
        Self(Box::new(Parts { status, body, retry_after: None, headers: Vec::new() }))
    }

    /// Adds a part of the body that is wrong.
    #[must_use]
    pub fn with_error(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.0.body.errors.push(FieldError { pointer: pointer.into(), detail: detail.into() });
        self
    }

    /// Whether the request may have been taken all the same.
    pub fn may_be_taken(&self) -> bool {
        self.body().taken == Some(Taken::Unknown)
    }

    #[must_use]
    pub fn with_taken(mut self, taken: Taken) -> Self {
        self.0.body.taken = Some(taken);
        self
    }

    /// Says when to try again, rounded up to whole seconds.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    #[must_use]
    pub fn with_trace_id(mut self, trace_id: Option<&str>) -> Self {
        self.0.body.trace_id = trace_id.map(str::to_owned);
        self
    }

    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub fn code(&self) -> &'static str {
        self.0.body.code
    }

    /// When to try again, in whole seconds from 1.
    pub fn retry_after_s(&self) -> Option<u64> {
        let wait = self.0.retry_after?;
        Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
    }

    /// What is sent as JSON.
    pub fn body(&self) -> &Body {
        &self.0.body
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after_s();
        let Parts { status, body, headers, .. } = *self.0;
        // Its types rule a failure out.
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let content_type = (CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        let mut response = (status, [content_type], json).into_response();
        response.headers_mut().extend(headers);
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// A text as a sentence, with a capital and a full stop.
pub fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().collect::<String>());
    format!("{}{}.", first.unwrap_or_default(), characters.as_str().trim_end_matches('.'))
}
