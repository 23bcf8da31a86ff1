//! The pages: an overview, the list, a letter, a plan, a job.

mod changes;
mod letters;
mod view;

use askama::Template;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};

pub(super) use self::changes::{Plans, pace, reason};
use self::view::{Age, LetterLinks};
use super::{
    App,
    frame::Frame,
    problem::{Problem, render},
    visitor::Visitor,
    worker_state::WorkerState,
};
use crate::dead_letters::Filter;

const STYLE: &str = include_str!("style.css");

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    worker: WorkerState,
    summary: Result<Groups, Problem>,
    job: Option<RunningJob>,
}

/// The summary, ready to be shown.
struct Groups {
    count: u64,
    oldest: Age,
    newest: Age,
    groups: Vec<GroupRow>,
    /// Where not all letters were looked at.
    short: Option<String>,
}

struct GroupRow {
    status: &'static str,
    reason: Option<String>,
    count: u64,
    oldest: Age,
    newest: Age,
    href: String,
}

struct RunningJob {
    id: String,
    actor: String,
    action: &'static str,
}

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/", get(overview))
        .route("/style.css", get(style))
        .route("/letters", get(letters::list))
        .route("/letters/{id}", get(letters::letter))
        .route("/letters/{id}/show", post(letters::show))
        .route("/plans", post(changes::plan))
        .route("/plans/{digest}", get(changes::confirm).post(changes::begin))
        .route("/jobs", get(changes::jobs))
        .route("/jobs/{id}", get(changes::job))
        .route("/jobs/{id}/stop", post(changes::stop))
}

async fn overview(State(app): State<App>, visitor: Visitor) -> Response {
    let worker = WorkerState::look(&app.handles).await;
    let job = app.jobs.all().into_iter().find(|job| job.is_running()).map(|job| RunningJob {
        id: job.id.clone(),
        actor: job.actor.name.clone(),
        action: job.plan.action.name(),
    });
    let looked = app.looks.summary(&visitor.actor(), &Filter::default()).await;
    let summary = looked.map(|summary| Groups {
        count: summary.count,
        oldest: Age::of(summary.oldest),
        newest: Age::of(summary.newest),
        groups: summary
            .groups
            .iter()
            .map(|group| GroupRow {
                status: group.status.as_str(),
                reason: group.reason.clone(),
                count: group.count,
                oldest: Age::of(group.oldest),
                newest: Age::of(group.newest),
                href: LetterLinks::group(group.status.as_str(), group.reason.as_deref()),
            })
            .collect(),
        short: view::short(&summary.extent),
    });
    render(&Overview { frame: Frame::new("Overview", &visitor), worker, summary, job })
}

async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}

pub(super) async fn not_found(uri: axum::http::Uri) -> Response {
    let what = "There is nothing here.";
    let advice = "Begin at the overview, /, or for the API at /api/v1/openapi.json.";
    let problem = Problem::new(StatusCode::NOT_FOUND, "not_found", what, advice);
    if uri.path().starts_with("/api/") { problem.json() } else { problem.page() }
}

pub(super) async fn not_allowed(uri: axum::http::Uri) -> Response {
    let what = "This address does not take this method.";
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        what,
        "What changes something is a POST.",
    );
    if uri.path().starts_with("/api/") { problem.json() } else { problem.page() }
}
