//! The JSON API: the same rules as the page, with a token in a header.

mod api_user;
mod bodies;
mod changes;
mod dead_letters;
mod outcomes;

use axum::{
    Json, Router,
    routing::{get, post},
};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, Ref, RefOr, Response,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::app::App;
use crate::http::ProblemBody;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/openapi.json", get(async || Json(Document::openapi())))
        .route("/queues", get(dead_letters::queues))
        .route("/summary", get(dead_letters::summary))
        .route("/outcomes", get(outcomes::outcomes))
        .route("/search", get(outcomes::search))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", get(dead_letters::show))
        .route("/plans", post(changes::plan))
        .route("/plans/{digest}", get(changes::find_plan))
        .route("/plans/{digest}/jobs", post(changes::start))
        .route("/jobs", get(changes::jobs))
        .route("/jobs/{id}", get(changes::job))
        .route("/jobs/{id}/stop", post(changes::stop))
        .route("/jobs/{id}/resume", post(changes::resume))
}

/// The OpenAPI document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "The console of trackfinity-unlocker",
        description = "Finds what happened to requests; browses, replays and discards dead letters. Changing a dead letter, or showing its body and \
                       identifiers, needs the operator's token and is written to the audit log first. Plans run \
                       one at a time.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    servers((url = "/api/v1")),
    paths(
        dead_letters::queues, dead_letters::summary, outcomes::outcomes, outcomes::search, dead_letters::list, dead_letters::show,
        changes::plan, changes::find_plan, changes::start, changes::jobs, changes::job, changes::stop, changes::resume
    ),
    components(schemas(ProblemBody)),
    security(("token" = [])),
    modifiers(&Bearer, &Answers)
)]
struct Document;

/// Authentication by bearer token.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let description =
            "console.viewer_token or console.operator_token. The header X-Actor may name the caller.";
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The responses that several operations share, with a description for each.
struct Answers;

impl Answers {
    fn describe(status: &str) -> &'static str {
        match status {
            "200" => "the answer",
            "202" => "it stops soon",
            "400" => "the request is wrong; the problem says what",
            "401" => "there is no token, or a wrong one",
            "403" => "the token is a viewer's, and only operators may do this",
            "404" => "there is none with this name",
            "413" => "the body has more than 64 KiB",
            "415" => "the content type is not application/json",
            "421" => "the header Host names another page; see console.allowed_hosts",
            "422" => "the body is JSON, but not what is described here",
            "429" => "too many wrong tokens; the header Retry-After says when to try again",
            _ => "the request failed; the problem says why",
        }
    }

    /// The statuses of all operations, and of those that have a body.
    const SHARED: [&str; 3] = ["401", "421", "429"];
    const WITH_BODY: [&str; 3] = ["413", "415", "422"];
}

impl Modify for Answers {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let operations = document.paths.paths.values_mut().flat_map(|path| [&mut path.get, &mut path.post]);
        for operation in operations.flatten() {
            let with_body: &[&str] = if operation.request_body.is_some() { &Self::WITH_BODY } else { &[] };
            for status in Self::SHARED.iter().chain(with_body) {
                operation.responses.responses.entry((*status).to_owned()).or_insert(Response::new("").into());
            }
            for (status, response) in &mut operation.responses.responses {
                let RefOr::T(response) = response else { continue };
                if response.description.is_empty() {
                    response.description = Self::describe(status).to_owned();
                }
                if !status.starts_with('2') {
                    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
                    response.content.insert("application/problem+json".to_owned(), problem.into());
                }
            }
        }
    }
}

/// The OpenAPI document, as it is in `docs/openapi.json`.
///
/// # Errors
/// If the document cannot be encoded, which is not expected.
pub fn openapi() -> serde_json::Result<String> {
    serde_json::to_string_pretty(&Document::openapi()).map(|text| text + "\n")
}
