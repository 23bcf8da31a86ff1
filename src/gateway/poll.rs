//! Answers `GET /v1/unlocks/{id}`: the outcome of a request, if there is one.

use std::borrow::Cow;

use axum::{
    http::{StatusCode, Uri},
    response::Response,
};
use percent_encoding::percent_decode_str;

use super::{answers, app::App, clients::Denied, intake::Exchange};
use crate::{http::Problem, message::Timestamp};

const PATH: &str = "/v1/unlocks/";

/// Whether the path may be that of an outcome.
pub(super) fn is_outcome(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|id| !id.is_empty())
}

/// Finds the outcome of a request.
///
/// A client sees the outcomes of its own requests. There are none where the history is switched off.
#[utoipa::path(
    get,
    path = "/v1/unlocks/{id}",
    operation_id = "getOutcome",
    tag = "unlocks",
    params(
        ("id" = String, Path, description = "the id of the request; its `/` written as `%2F`, as in `Location`",
            example = "shop/8e03978e-40d5", min_length = 1),
        ("since" = Option<String>, Query, description = "the outcome is not older, which bounds the search: RFC 3339, as \
            in `Location`", format = DateTime, example = "2026-11-23T09:00:00.000Z"),
    ),
    responses(),
    security(("bearer" = []))
)]
pub(super) async fn get(app: &App, exchange: &mut Exchange<'_>, uri: &Uri) -> Result<Response, Problem> {
    // There is no body that a signature could be about.
    let (None, Some(client)) = (exchange.identify(app)?, &exchange.client) else {
        return Err(answers::denied(Denied::Unauthorized));
    };
    let Some(history) = &app.history else {
        return Err(answers::history_off());
    };
    let id = uri.path().strip_prefix(PATH).and_then(decoded).ok_or_else(answers::not_found)?;
    // A client sees its own alone.
    let is_own =
        client.is_local() || id.strip_prefix(client.name()).is_some_and(|rest| rest.starts_with('/'));
    if !is_own {
        return Err(answers::not_own());
    }
    let since = since(uri.query().unwrap_or_default())?;
    exchange.has_waited = true;
    Ok(match Box::pin(history.find(&id, since)).await? {
        Some(outcome) => answers::json_body(outcome),
        None => answers::pending(),
    })
}

fn decoded(text: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().ok()
}

fn since(query: &str) -> Result<Option<Timestamp>, Problem> {
    let given = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "since");
    // A `+` before an offset means a space here, unless it is escaped.
    let time = |value: &str| value.parse().or_else(|_| value.replace(' ', "+").parse());
    given.map(|(_, value)| time(&value).map_err(|_| bad_parameter())).transpose()
}

pub(super) fn bad_parameter() -> Problem {
    let detail = "The parameter since is not a time as RFC 3339 writes it. Take it from the Location.";
    Problem::new(StatusCode::BAD_REQUEST, "bad_parameter", detail)
}
