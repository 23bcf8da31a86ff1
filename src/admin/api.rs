//! The JSON API: the same rules as for the page, with a token in a header.

mod bodies;
mod caller;
mod changes;
mod letters;

use axum::{
    Json, Router,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{App, problem::Problem};

/// A problem as the API tells it.
#[derive(Debug)]
struct ApiProblem(Problem);

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

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/openapi.json", get(async || Json(Document::openapi())))
        .route("/worker", get(letters::worker))
        .route("/summary", get(letters::summary))
        .route("/letters", get(letters::list))
        .route("/letters/{id}", get(letters::show))
        .route("/plans", post(changes::plan))
        .route("/plans/{digest}", get(changes::planned))
        .route("/plans/{digest}/jobs", post(changes::begin))
        .route("/jobs", get(changes::jobs))
        .route("/jobs/{id}", get(changes::job))
        .route("/jobs/{id}/stop", post(changes::stop))
}

/// The API, described.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "The dead letters of trackfinity-unlocker",
        description = "Looks at dead letters, replays and discards them. Whatever changes a letter, or shows its \
                       body and identifiers, takes the operator's token and is written to the audit log first. \
                       One plan is carried out at a time.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    servers((url = "/api/v1")),
    paths(
        letters::worker, letters::summary, letters::list, letters::show,
        changes::plan, changes::planned, changes::begin, changes::jobs, changes::job, changes::stop
    ),
    security(("token" = [])),
    modifiers(&Bearer)
)]
struct Document;

/// How a caller says who they are.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let description =
            "admin.viewer_token or admin.operator_token. The header X-Actor may name who calls.";
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The OpenAPI document, as `docs/openapi.json` holds it.
///
/// # Errors
/// None to be expected: it is made of texts.
pub fn openapi() -> serde_json::Result<String> {
    serde_json::to_string_pretty(&Document::openapi()).map(|text| text + "\n")
}
