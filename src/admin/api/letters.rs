//! Looking, by the API.

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};

use super::{
    ApiProblem,
    bodies::{Letters, Masked, Shown},
    caller::Caller,
};
use crate::{
    admin::{
        App, filters,
        problem::{Problem, ProblemBody},
        visitor::Fields,
        worker_state::WorkerState,
    },
    dead_letters::Summary,
};

/// The most letters in one answer.
const MOST: usize = 1000;

/// How the worker is that answers.
#[utoipa::path(get, path = "/worker", responses(
    (status = 200, body = WorkerState), (status = 401, body = ProblemBody)
))]
pub(super) async fn worker(State(app): State<App>, _caller: Caller) -> Json<WorkerState> {
    Json(WorkerState::look(&app.handles).await)
}

/// How many letters there are, by status and reason.
#[utoipa::path(get, path = "/summary", params(
    ("status" = Option<String>, Query, description = "any of these: invalid, refused, abandoned, unreadable, unknown; with commas, or given several times"),
    ("reason" = Option<String>, Query, description = "any of these, such as http_404"),
    ("since" = Option<String>, Query, description = "died at or after this time, such as 2026-11-23T09:00:00Z, or since that long ago, such as 2h"),
    ("until" = Option<String>, Query, description = "died at or before this time, or that long ago"),
    ("id" = Option<String>, Query, description = "any of these, letters' ids or requests'"),
), responses(
    (status = 200, body = Summary), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
    (status = 409, description = "somebody else works on the letters", body = ProblemBody),
    (status = 503, description = "RabbitMQ cannot be reached", body = ProblemBody)
))]
pub(super) async fn summary(
    State(app): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Summary>, ApiProblem> {
    let filter = filters::read(&Fields::parse(query.unwrap_or_default().as_bytes()))?;
    let summary = app.looks.summary(&caller.actor(), &filter).await?;
    Ok(Json(Summary::clone(&summary)))
}

/// Letters, oldest first, without what is masked.
#[utoipa::path(get, path = "/letters", params(
    ("status" = Option<String>, Query, description = "as in /summary"),
    ("reason" = Option<String>, Query, description = "as in /summary"),
    ("since" = Option<String>, Query, description = "as in /summary"),
    ("until" = Option<String>, Query, description = "as in /summary"),
    ("id" = Option<String>, Query, description = "as in /summary"),
    ("offset" = Option<usize>, Query, description = "letters to leave out at the beginning; 0 if absent"),
    ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if absent"),
), responses(
    (status = 200, body = Letters), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
    (status = 409, description = "somebody else works on the letters", body = ProblemBody),
    (status = 503, description = "RabbitMQ cannot be reached", body = ProblemBody)
))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Letters>, ApiProblem> {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let filter = filters::read(&fields)?;
    let offset = filters::number(&fields, "offset", 0, 0..=10_000_000)?;
    let limit = filters::number(&fields, "limit", 100, 1..=MOST)?;
    let page = app.looks.page(&caller.actor(), &filter, offset, limit).await?;
    let letters = page.letters.iter().map(Masked::from).collect();
    Ok(Json(Letters { letters, count: page.count, extent: page.extent.clone() }))
}

/// Everything about a letter. Operators only; written to the audit log first.
#[utoipa::path(get, path = "/letters/{id}", params(
    ("id" = String, Path, description = "the letter's id, or the request's"),
), responses(
    (status = 200, description = "the letters with this id; of more than 100 the newest", body = Shown),
    (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody),
    (status = 409, description = "somebody else works on the letters", body = ProblemBody),
    (status = 503, description = "RabbitMQ cannot be reached, or the audit log not be written", body = ProblemBody)
))]
pub(super) async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Shown>, ApiProblem> {
    let shown = app.looks.show(&caller.operator()?, &id).await?;
    if shown.letters.is_empty() {
        return Err(Problem::not_found(format!("There is no dead letter {id}.")).into());
    }
    let letters = shown.letters.iter().map(crate::dead_letters::Letter::to_json).collect();
    Ok(Json(Shown { letters, count: shown.count, extent: shown.extent }))
}
