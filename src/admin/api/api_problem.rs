//! A problem as a JSON response.

use axum::response::{IntoResponse, Response};

use crate::admin::problem::Problem;

/// A problem as a JSON response.
#[derive(Debug)]
pub(super) struct ApiProblem(Problem);

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        self.0.json()
    }
}

impl From<Problem> for ApiProblem {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}
