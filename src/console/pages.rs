//! The pages: overview, list, dead letter, plan, job.

mod changes;
mod dead_letters;
mod view;

use askama::Template;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use self::view::TimeView;
use super::{
    app::App,
    jobs::Phase,
    page_layout::PageLayout,
    page_user::PageUser,
    problem::{Problem, render},
    queues::Queues,
};
use crate::dead_letters::Filter;

const STYLE: &str = include_str!("style.css");

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    layout: PageLayout,
    queues: Result<Queues, Problem>,
    metrics_url: Option<String>,
    summary: Result<Groups, Problem>,
    job: Option<RunningJob>,
}

/// The summary, ready to be shown.
struct Groups {
    count: u64,
    oldest: TimeView,
    newest: TimeView,
    groups: Vec<GroupRow>,
    /// A note if not all dead letters were seen.
    note: Option<String>,
}

struct GroupRow {
    status: &'static str,
    reason: Option<String>,
    count: u64,
    oldest: TimeView,
    newest: TimeView,
    href: String,
}

struct RunningJob {
    id: String,
    actor: String,
    is_interrupted: bool,
    action: &'static str,
}

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/", get(overview))
        .route("/style.css", get(style))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", get(dead_letters::dead_letter))
        .route("/dead-letters/{id}/show", post(dead_letters::show))
        .route("/plans", post(changes::plan))
        .route("/plans/{digest}", get(changes::confirm).post(changes::start))
        .route("/jobs", get(changes::jobs))
        .route("/jobs/{id}", get(changes::job))
        .route("/jobs/{id}/stop", post(changes::stop))
        .route("/jobs/{id}/resume", post(changes::resume))
}

async fn overview(State(app): State<App>, page_user: PageUser) -> Response {
    let queues = app.queues.read().await;
    // The overview is there also while jobs cannot be read; then it says so elsewhere.
    let jobs = app.jobs.all().await.unwrap_or_default();
    let job = jobs.into_iter().find(|now| now.phase != Phase::Ended).map(|now| RunningJob {
        is_interrupted: now.phase == Phase::Interrupted,
        id: now.job.id.clone(),
        actor: now.job.actor.clone(),
        action: now.job.plan.action.name(),
    });
    let summary = app.reader.summary(&page_user.actor(), &Filter::default()).await;
    let summary = summary.map(|summary| Groups {
        count: summary.count,
        oldest: summary.oldest.into(),
        newest: summary.newest.into(),
        groups: summary
            .groups
            .iter()
            .map(|group| GroupRow {
                status: group.status.as_str(),
                reason: group.reason.clone(),
                count: group.count,
                oldest: group.oldest.into(),
                newest: group.newest.into(),
                href: view::group_link(group.status.as_str(), group.reason.as_deref()),
            })
            .collect(),
        note: view::incomplete_note(&summary.coverage),
    });
    let metrics_url = app.metrics_url.as_deref().map(str::to_owned);
    render(&Overview { layout: page_user.layout("Overview"), queues, metrics_url, summary, job })
}

async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}

pub(super) async fn not_found(uri: axum::http::Uri) -> Response {
    let what = "There is nothing here.";
    let advice = "Start at the overview, /, or for the API at /api/v1/openapi.json.";
    let problem = Problem::new(StatusCode::NOT_FOUND, "not_found", what, advice);
    if uri.path().starts_with("/api/") { problem.json() } else { problem.page() }
}

pub(super) async fn not_allowed(uri: axum::http::Uri) -> Response {
    let what = "This address does not allow this method.";
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        what,
        "Changes are made with POST.",
    );
    if uri.path().starts_with("/api/") { problem.json() } else { problem.page() }
}
