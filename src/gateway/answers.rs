//! The answers to requests.

use std::time::Duration;

use axum::{
    body::Body,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{ALLOW, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::{clients::Denied, publish, taken::Taken};
use crate::{
    http::{self, Problem},
    message::{Fault, request::FaultCode},
};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
/// What a request may be.
pub(super) const ACCEPTED_TYPES: &str = "application/json, application/x-www-form-urlencoded, application/cloudevents+json, \
                              application/x-ndjson";
/// What needs no escape in a segment of a path (RFC 3986, `unreserved`).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The answer to a request that was accepted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Accepted<'a> {
    /// The request's id, by which its outcome is found.
    #[schema(example = "shop/8e03978e-40d5")]
    pub(super) id: &'a str,
    /// Always `accepted`.
    #[schema(example = "accepted")]
    pub(super) status: &'static str,
}

/// The request is stored; its outcome is not known.
pub(super) fn accepted(taken: &Taken) -> Response {
    // Its types rule a failure out.
    let body = serde_json::to_vec(&Accepted { id: &taken.id, status: "accepted" }).unwrap_or_default();
    let mut response = (StatusCode::ACCEPTED, json(), body).into_response();
    if let Ok(location) = HeaderValue::from_str(&location(taken)) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Where the outcome can be asked for.
pub(super) fn location(taken: &Taken) -> String {
    format!("/v1/unlocks/{}?since={}", utf8_percent_encode(&taken.id, SEGMENT), taken.since)
}

/// The outcome, as it was published.
pub(super) fn outcome(outcome: &[u8], wait: Duration) -> Response {
    let mut response = (StatusCode::OK, json(), Body::from(outcome.to_vec())).into_response();
    if let Ok(applied) = HeaderValue::from_str(&format!("wait={}", wait.as_secs())) {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    response
}

/// An outcome that was asked for.
pub(super) fn json_body(outcome: Vec<u8>) -> Response {
    (StatusCode::OK, json(), outcome).into_response()
}

/// There is no outcome yet.
pub(super) fn pending() -> Response {
    (StatusCode::OK, json(), r#"{"status":"pending"}"#).into_response()
}

/// The id is another client's.
pub(super) fn not_own() -> Problem {
    let detail = "This client can ask only for its own requests, whose ids begin with its name.";
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
}

fn json() -> [(HeaderName, HeaderValue); 1] {
    [(CONTENT_TYPE, HeaderValue::from_static("application/json"))]
}

/// The problem of a body that is no request: what would end `invalid` in the worker. `pointer`: where its
/// fields stand in the body.
pub(super) fn invalid(fault: &Fault, pointer: &str) -> Problem {
    let status = match fault.code {
        FaultCode::Malformed | FaultCode::Unreadable => StatusCode::BAD_REQUEST,
        FaultCode::NoIdentifier | FaultCode::BadIdentifier => StatusCode::UNPROCESSABLE_ENTITY,
        FaultCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        FaultCode::UnsupportedContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
    };
    let mut problem = Problem::new(status, fault.code.as_str(), sentence(&fault.detail));
    for (field, why) in &fault.fields {
        problem = problem.with_error(format!("{pointer}/{field}"), sentence(&format!("it {why}")));
    }
    match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => with_accepted_types(problem),
        _ => problem,
    }
}

fn with_accepted_types(problem: Problem) -> Problem {
    problem.with_header(ACCEPT_POST, HeaderValue::from_static(ACCEPTED_TYPES))
}

/// A batch is compressed.
pub(super) fn unsupported_batch_encoding() -> Problem {
    let detail = "A batch cannot be compressed: send it without a Content-Encoding.";
    let code = FaultCode::UnsupportedContentType.as_str();
    with_accepted_types(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, detail))
}

/// A detail as a sentence. The name of a field at its beginning stays as it is.
fn sentence(text: &str) -> String {
    match text.split(' ').next() {
        Some(word) if word.contains('_') || word == "orderid" => format!("{}.", text.trim_end_matches('.')),
        _ => http::sentence(text),
    }
}

/// Not all lines of a batch were answered in time.
pub(super) fn slow_batch() -> Problem {
    let detail = "The batch took longer than 60 s. Send it again with the same key.";
    publish::no_confirm(detail)
}

/// The key came with another body.
pub(super) fn key_reused() -> Problem {
    let detail = "This key came with another body in the last 10 minutes: use one key for each request.";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", detail)
}

/// The problem of a stranger: the same for every cause, so that nobody learns which part was right.
pub(super) fn denied(denied: Denied) -> Problem {
    match denied {
        Denied::Unauthorized => {
            let detail = "Send a token of one of the gateway's clients as `Authorization: Bearer TOKEN`, or a signature \
                          as Standard Webhooks describes, not older than 5 minutes.";
            Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
                .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
        }
        Denied::Browser => {
            let detail = "A browser sends this for a page: it has the header Origin, says that it is cross-site, or names \
                          another host than this machine. Without clients, this gateway takes no requests of pages. Set \
                          gateway.clients_dir, and send a token.";
            Problem::new(StatusCode::FORBIDDEN, "browser_refused", detail)
        }
        Denied::TooManyFailures(wait) => {
            let detail =
                "Too many wrong credentials came from this address. Wait, and check the token or the secret.";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", detail).with_retry_after(wait)
        }
    }
}

/// The client's rate is used up.
pub(super) fn over_rate(wait: Duration) -> Problem {
    let detail = "This client sends more requests than its rate allows. Wait, and send the request again.";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
        .with_taken(http::Taken::No)
        .with_retry_after(wait)
}

pub(super) fn not_found() -> Problem {
    let detail = "There is nothing here. POST /v1/unlocks takes requests; GET /openapi.json describes all.";
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
}

pub(super) fn not_allowed(allow: &'static str) -> Problem {
    let detail = format!("This method is not allowed here. Use {allow}.");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        .with_header(ALLOW, HeaderValue::from_static(allow))
}

/// Outcomes are not kept.
pub(super) fn history_off() -> Problem {
    let detail = "This installation keeps no history, so no outcome can be asked for. Wait for it with `Prefer: wait=30`.";
    Problem::new(StatusCode::NOT_FOUND, "history_off", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_begins_with_a_capital_or_with_the_name_of_a_field() {
        assert_eq!(sentence("the body is not JSON"), "The body is not JSON.");
        assert_eq!(
            sentence("customer_id is longer than 255 bytes."),
            "customer_id is longer than 255 bytes."
        );
        assert_eq!(sentence("orderid is blank"), "orderid is blank.");
        assert_eq!(sentence(""), ".");
    }
}
