//! The pages: overview, list, dead letter, plan, job.

mod changes;
mod chart;
mod correction;
mod dead_letters;
mod overview;
mod search;
mod view;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use super::{app::App, problem::Problem};

/// A form with a new body of 64 KiB, most of whose bytes are written as three.
const MAX_PLAN_BYTES: usize = 256 * 1024;

const STYLE: &str = include_str!("style.css");

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/", get(overview::overview))
        .route("/search", get(search::search))
        .route("/style.css", get(style))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", get(dead_letters::dead_letter))
        .route("/dead-letters/{id}/show", post(dead_letters::show))
        .route("/plans", post(changes::plan).layer(DefaultBodyLimit::max(MAX_PLAN_BYTES)))
        .route("/plans/{digest}", get(changes::confirm).post(changes::start))
        .route("/jobs", get(changes::jobs))
        .route("/jobs/{id}", get(changes::job))
        .route("/jobs/{id}/stop", post(changes::stop))
        .route("/jobs/{id}/resume", post(changes::resume))
}

async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}

pub(super) async fn not_found(uri: axum::http::Uri) -> Response {
    let what = "There is nothing here.";
    let advice = "Start at the overview, /, or for the API at /api/v1/openapi.json.";
    let problem = Problem::new(StatusCode::NOT_FOUND, "not_found", what, advice);
    if uri.path().starts_with("/api/") { problem.json() } else { problem.into_response() }
}

pub(super) async fn not_allowed(uri: axum::http::Uri) -> Response {
    let what = "This address does not allow this method.";
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        what,
        "Changes are made with POST.",
    );
    if uri.path().starts_with("/api/") { problem.json() } else { problem.into_response() }
}
