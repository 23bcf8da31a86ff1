//! Errors with advice: a page for people, `application/problem+json` for scripts.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header::RETRY_AFTER, header::WWW_AUTHENTICATE},
    response::{Html, IntoResponse, Response},
};

use super::page_layout::PageLayout;
use crate::{
    dead_letters::{AccessError, Error, InvalidOption},
    http::{self, Wait, sentence},
};

/// Why a request was rejected or failed.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// For programs.
    pub(super) code: &'static str,
    /// What was wrong.
    pub(super) what: String,
    /// What to do.
    pub(super) advice: String,
    /// The wrong part of the body, as a JSON pointer.
    pointer: Option<String>,
    wait: Option<Wait>,
}

/// A problem as a page.
#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    layout: PageLayout,
    problem: Problem,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { status, code, what: what.into(), advice: advice.into(), pointer: None, wait: None }
    }

    /// The same problem with the wrong part of the body, as a JSON pointer (RFC 6901).
    pub(super) fn at(self, pointer: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), ..self }
    }

    pub(super) fn bad_request(what: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", what, "Correct it and try again.")
    }

    pub(super) fn not_found(what: impl Into<String>) -> Self {
        let advice = "It may have been replayed or discarded meanwhile. Reload the list.";
        Self::new(StatusCode::NOT_FOUND, "not_found", what, advice)
    }

    pub(super) fn no_operator() -> Self {
        let advice = "Log in, or call, with the operator's token (console.operator_token).";
        Self::new(StatusCode::FORBIDDEN, "operators_only", "Only operators may do this.", advice)
    }

    pub(super) fn internal(error: &dyn std::fmt::Display) -> Self {
        let advice = "Try again. The console's log may say more.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string(), advice)
    }

    /// The problem as a page for someone of whom nothing is known.
    pub(super) fn page(self) -> Response {
        self.page_in(PageLayout::default())
    }

    /// The problem as a page in this layout.
    pub(super) fn page_in(self, layout: PageLayout) -> Response {
        let (status, wait) = (self.status, self.wait);
        let title = status.canonical_reason().unwrap_or("Problem").to_owned();
        let layout = PageLayout { title, ..layout };
        let mut response = (status, render(&ProblemPage { layout, problem: self })).into_response();
        if let Some(wait) = wait {
            response.headers_mut().insert(RETRY_AFTER, wait.seconds().into());
        }
        response
    }

    /// The problem as JSON.
    pub(super) fn json(self) -> Response {
        http::Problem::from(self).into_response()
    }
}

/// For the API.
impl From<Problem> for http::Problem {
    fn from(Problem { status, code, what, advice, pointer, wait }: Problem) -> Self {
        let mut problem = Self::new(status, code, format!("{what} {advice}"));
        if let Some(pointer) = pointer {
            problem = problem.with_error(pointer, what);
        }
        if let Some(wait) = wait {
            problem = problem.with_retry_after(wait.0);
        }
        if status == StatusCode::UNAUTHORIZED {
            problem = problem.with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        problem
    }
}

/// For pages. The response has the problem with it, for who knows the user's layout.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.clone().page();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Wait> for Problem {
    fn from(wait: Wait) -> Self {
        let advice = "Wait, and check the token.";
        let problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_attempts",
            sentence(&wait.to_string()),
            advice,
        );
        Self { wait: Some(wait), ..problem }
    }
}

impl From<InvalidOption> for Problem {
    fn from(error: InvalidOption) -> Self {
        Self::bad_request(sentence(&error.to_string()))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, code, advice) = match &error {
            Error::Access(AccessError::Locked(_)) => {
                (StatusCode::CONFLICT, "locked", "Try again when they have finished.")
            }
            Error::Access(AccessError::Connect(_) | AccessError::Amqp(_) | AccessError::Wire(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "broker_unreachable", "Try again when RabbitMQ is back.")
            }
            Error::Access(_) => (StatusCode::BAD_GATEWAY, "broker", "Run `unlocker check` for details."),
            Error::Audit(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "audit_log",
                "Make the file in console.audit_log writable; no restart is needed.",
            ),
            Error::Refused(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "not_correctable",
                "Change something else, or discard them.",
            ),
            Error::NoPlan(_) => {
                let what = "There is no such plan. It may be older than a day.";
                return Self::new(StatusCode::NOT_FOUND, "no_plan", what, "Plan again.");
            }
            _ => return Self::internal(&error),
        };
        Self::new(status, code, sentence(&error.to_string()), advice)
    }
}

/// Renders a page.
pub(super) fn render(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::wire::WireError;

    #[test]
    fn a_connection_that_is_lost_meanwhile_is_a_broker_that_is_away() {
        let problem = Problem::from(Error::Access(AccessError::Wire(WireError::Timeout)));
        assert_eq!((problem.status.as_u16(), problem.code), (503, "broker_unreachable"));
    }
}
