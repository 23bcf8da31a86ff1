//! What the history knows, by the API.

use axum::{
    Json,
    extract::{RawQuery, State},
    http::StatusCode,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::api_user::ApiUser;
use crate::{
    console::{
        app::App,
        fields::Fields,
        outcome_counts::{Change, Interval, Window},
        problem::Problem,
        recent::Phase,
        search::SearchResult,
    },
    http,
    message::Timestamp,
};

/// Outcomes over time.
#[derive(Serialize, ToSchema)]
pub(super) struct OutcomeTrend {
    /// The oldest first; the last one ends in the future.
    intervals: Vec<Interval>,
    /// Seconds of one interval.
    interval_s: u64,
    /// What differs between the last hour and the hour before, the largest difference first.
    changes: Vec<Change>,
    /// Whether the history is read up to its end.
    up_to_date: bool,
    /// Why not.
    note: Option<String>,
}

/// Counts outcomes over time, by status, and says what has changed in the last hour.
#[utoipa::path(get, path = "/outcomes", params(
    ("window" = Option<String>, Query, description = "hour, day or week; default day"),
), responses(
    (status = 200, body = OutcomeTrend), (status = 400), (status = 401),
    (status = 404, description = "the history is off")
))]
pub(super) async fn outcomes(
    State(app): State<App>,
    _user: ApiUser,
    RawQuery(query): RawQuery,
) -> Result<Json<OutcomeTrend>, http::Problem> {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let window = fields.get("window").map_or(Some(Window::default()), Window::named);
    let window = window.ok_or_else(|| Problem::bad_request("window: it is one of hour, day, week."))?;
    let off = || {
        let advice = "Set history.enabled = true for the workers and for the console.";
        Problem::new(StatusCode::NOT_FOUND, "history_off", "The history is off.", advice)
    };
    let recent = app.recent.as_ref().ok_or_else(off)?;
    let now = Timestamp::now();
    let (up_to_date, note) = match recent.phase() {
        Phase::UpToDate => (true, None),
        Phase::Reading { read, total } => (false, Some(format!("{read} of {total} outcomes are read"))),
        Phase::Failed(why) => (false, Some(why.to_string())),
    };
    let intervals = recent.intervals(window, now);
    let interval_s = window.interval().as_secs();
    Ok(Json(OutcomeTrend { intervals, interval_s, changes: recent.changes(now), up_to_date, note }))
}

/// Finds what happened to a customer, subscription, order, request or trace, in the history of a week and among
/// the dead letters.
#[utoipa::path(get, path = "/search", params(
    ("q" = String, Query, min_length = 1, max_length = 255, pattern = r"\S", description = "an identifier, or the id of a request, a trace or a dead letter; complete, at most 255 bytes"),
), responses(
    (status = 200, body = SearchResult), (status = 400), (status = 401)
))]
pub(super) async fn search(
    State(app): State<App>,
    user: ApiUser,
    RawQuery(query): RawQuery,
) -> Result<Json<SearchResult>, http::Problem> {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let text = fields.get("q").ok_or_else(|| Problem::bad_request("q: is missing."))?;
    let found = app.search.find(&user.actor(), text).await?;
    Ok(Json(SearchResult::clone(&found)))
}
