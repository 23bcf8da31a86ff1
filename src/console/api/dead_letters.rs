//! Reading by the API.

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};

use super::{
    api_user::ApiUser,
    bodies::{DeadLetterDetails, DeadLetterList, DeadLetterSummary},
};
use crate::{
    console::{app::App, fields::Fields, filters, problem::Problem, queues::Queues},
    dead_letters::{DeadLetter, Summary},
    http,
};

/// The most dead letters in one response.
const MAX_LIMIT: usize = 1000;

/// Counts the messages in the queues, and the workers that consume.
#[utoipa::path(get, path = "/queues", responses(
    (status = 200, body = Queues), (status = 401),
    (status = 503, description = "RabbitMQ cannot be reached")
))]
pub(super) async fn queues(State(app): State<App>, _user: ApiUser) -> Result<Json<Queues>, http::Problem> {
    Ok(Json(app.queues.read().await?))
}

/// Counts dead letters by status and reason.
#[utoipa::path(get, path = "/summary", params(
    ("status" = Option<String>, Query, description = "one of these: invalid, refused, abandoned, unreadable, unknown; separated by commas, or repeated"),
    ("reason" = Option<String>, Query, description = "one of these, such as http_404"),
    ("since" = Option<String>, Query, description = "dead-lettered at this time or later: 2026-11-23T09:00:00Z, or 2h for two hours ago"),
    ("until" = Option<String>, Query, description = "dead-lettered at this time or earlier"),
    ("id" = Option<String>, Query, description = "one of these ids, of the dead letter or of its request"),
), responses(
    (status = 200, body = Summary), (status = 400), (status = 401),
    (status = 409, description = "someone else has locked the dead letters"),
    (status = 503, description = "RabbitMQ cannot be reached")
))]
pub(super) async fn summary(
    State(app): State<App>,
    user: ApiUser,
    RawQuery(query): RawQuery,
) -> Result<Json<Summary>, http::Problem> {
    let filter = filters::read(&Fields::parse(query.unwrap_or_default().as_bytes()))?;
    let summary = app.reader.summary(&user.actor(), &filter).await?;
    Ok(Json(Summary::clone(&summary)))
}

/// Lists dead letters, oldest first, without what is masked.
#[utoipa::path(get, path = "/dead-letters", params(
    ("status" = Option<String>, Query, description = "as in /summary"),
    ("reason" = Option<String>, Query, description = "as in /summary"),
    ("since" = Option<String>, Query, description = "as in /summary"),
    ("until" = Option<String>, Query, description = "as in /summary"),
    ("id" = Option<String>, Query, description = "as in /summary"),
    ("offset" = Option<usize>, Query, description = "dead letters to skip at the beginning; default 0"),
    ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "1 to 1000; default 100"),
), responses(
    (status = 200, body = DeadLetterList), (status = 400), (status = 401),
    (status = 409, description = "someone else has locked the dead letters"),
    (status = 503, description = "RabbitMQ cannot be reached")
))]
pub(super) async fn list(
    State(app): State<App>,
    user: ApiUser,
    RawQuery(query): RawQuery,
) -> Result<Json<DeadLetterList>, http::Problem> {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let filter = filters::read(&fields)?;
    let offset = filters::number(&fields, "offset", 0, 0..=10_000_000)?;
    let limit = filters::number(&fields, "limit", 100, 1..=MAX_LIMIT)?;
    let page = app.reader.page(&user.actor(), &filter, offset, limit).await?;
    let dead_letters = page.dead_letters.iter().map(DeadLetterSummary::from).collect();
    Ok(Json(DeadLetterList { dead_letters, count: page.count, coverage: page.coverage.clone() }))
}

/// Returns everything about a dead letter. Operators only. Writes to the audit log first.
#[utoipa::path(get, path = "/dead-letters/{id}", params(
    ("id" = String, Path, description = "the id of the dead letter or of its request"),
), responses(
    (status = 200, description = "the dead letters with this id; the newest 100 if there are more", body = DeadLetterDetails),
    (status = 401), (status = 403), (status = 404),
    (status = 409, description = "someone else has locked the dead letters"),
    (status = 503, description = "RabbitMQ cannot be reached, or the audit log cannot be written")
))]
pub(super) async fn show(
    State(app): State<App>,
    user: ApiUser,
    Path(id): Path<String>,
) -> Result<Json<DeadLetterDetails>, http::Problem> {
    let shown = app.reader.show(&user.operator()?, &id).await?;
    if shown.dead_letters.is_empty() {
        return Err(Problem::not_found(format!("There is no dead letter {id}.")).into());
    }
    let dead_letters = shown.dead_letters.iter().map(DeadLetter::to_json).collect();
    Ok(Json(DeadLetterDetails { dead_letters, count: shown.count, coverage: shown.coverage }))
}
