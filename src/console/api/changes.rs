//! Replay and discard by the API: first a plan, then a job that executes it.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

use super::{
    api_user::{ApiUser, JsonBody},
    bodies::{JobOptions, JobState, PlanAction, PlanRequest, PlanResponse},
};
use crate::{
    console::{app::App, problem::Problem},
    dead_letters::{Action, Plan, ReplayOptions, ReplayRate},
    http,
    message::Correction,
};

/// Plans a replay or a discard of the dead letters that match now. Operators only. Changes nothing.
#[utoipa::path(post, path = "/plans", request_body(content = PlanRequest, example = json!({"action": "replay", "filter": {"status": ["abandoned"], "reason": ["http_503"]}})), responses(
    (status = 201, description = "the plan; it can be executed for a day", body = PlanResponse),
    (status = 400), (status = 401), (status = 403),
    (status = 404, description = "no dead letter matches"),
    (status = 409, description = "someone else has locked the dead letters"),
    (status = 422, description = "the body is not what is described here, or a dead letter cannot be corrected so")
))]
pub(super) async fn plan(
    State(app): State<App>,
    user: ApiUser,
    JsonBody(request): JsonBody<PlanRequest>,
) -> Result<(StatusCode, Json<PlanResponse>), http::Problem> {
    let actor = user.operator()?;
    let action = match (request.action, request.reason.as_deref()) {
        (PlanAction::Discard, _) if !request.set.is_empty() => {
            return Err(Problem::bad_request("A discard changes nothing.").at("/set").into());
        }
        (PlanAction::Replay, None) => Action::Replay { correction: correction(request.set)? },
        (PlanAction::Replay, Some(_)) => {
            return Err(Problem::bad_request("A replay has no reason.").at("/reason").into());
        }
        (PlanAction::Discard, reason) => {
            let reason = reason.unwrap_or_default().parse();
            Action::Discard { reason: reason.map_err(|error| Problem::from(error).at("/reason"))? }
        }
    };
    let preview = app.reader.plan(&actor, action, &request.filter.filter()?).await?;
    if preview.plan.ids.is_empty() {
        return Err(Problem::not_found(match preview.unreadable {
            0 => "No dead letter matches.".to_owned(),
            count => format!("No dead letter matches that can be replayed; {count} are unreadable."),
        })
        .into());
    }
    Ok((StatusCode::CREATED, Json(preview.into())))
}

fn correction(set: BTreeMap<String, String>) -> Result<Correction, Problem> {
    let mut correction = Correction::default();
    for (field, value) in set {
        let set = match field.as_str() {
            "body" => correction.set_body(value.into_bytes()),
            name => correction.set(name, &value),
        };
        set.map_err(|error| Problem::bad_request(format!("set: {error}.")).at("/set"))?;
    }
    Ok(correction)
}

/// Returns a plan.
#[utoipa::path(get, path = "/plans/{digest}", params(("digest" = String, Path)), responses(
    (status = 200, body = Plan), (status = 401), (status = 404)
))]
pub(super) async fn find_plan(
    State(app): State<App>,
    _user: ApiUser,
    Path(digest): Path<String>,
) -> Result<Json<Plan>, http::Problem> {
    Ok(Json(app.reader.find_plan(&digest).await?))
}

/// Starts to execute a plan. Operators only. Each dead letter is written to the audit log first.
#[utoipa::path(post, path = "/plans/{digest}/jobs", params(("digest" = String, Path)), request_body(content = JobOptions, example = json!({"per_second": 1.0, "keep_going": false})), responses(
    (status = 202, description = "the job; get it again to see its progress", body = JobState),
    (status = 400), (status = 401), (status = 403),
    (status = 404),
    (status = 409, description = "another job is running"),
    (status = 503, description = "RabbitMQ cannot be reached")
))]
pub(super) async fn start(
    State(app): State<App>,
    user: ApiUser,
    Path(digest): Path<String>,
    JsonBody(options): JsonBody<JobOptions>,
) -> Result<(StatusCode, Json<JobState>), http::Problem> {
    let (actor, options) = (user.operator()?, replay_options(&options)?);
    let plan = app.reader.find_plan(&digest).await?;
    let started = app.jobs.start(actor, plan, options, None).await?;
    Ok((StatusCode::ACCEPTED, Json(JobState::from(&started))))
}

fn replay_options(options: &JobOptions) -> Result<ReplayOptions, Problem> {
    let rate = options.per_second.map(ReplayRate::try_from).transpose();
    let rate = rate.map_err(|error| Problem::from(error).at("/per_second"))?.unwrap_or_default();
    Ok(ReplayOptions { rate, keep_going: options.keep_going, ..ReplayOptions::default() })
}

/// Lists the last jobs of all consoles, newest first.
#[utoipa::path(get, path = "/jobs", responses(
    (status = 200, body = Vec<JobState>), (status = 401),
    (status = 503, description = "RabbitMQ cannot be reached")
))]
pub(super) async fn jobs(
    State(app): State<App>,
    _user: ApiUser,
) -> Result<Json<Vec<JobState>>, http::Problem> {
    Ok(Json(app.jobs.all().await?.iter().map(JobState::from).collect()))
}

/// Returns a job and its progress, whichever process executes it.
#[utoipa::path(get, path = "/jobs/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = JobState), (status = 401), (status = 404),
    (status = 503, description = "RabbitMQ cannot be reached")
))]
pub(super) async fn job(
    State(app): State<App>,
    _user: ApiUser,
    Path(id): Path<String>,
) -> Result<Json<JobState>, http::Problem> {
    Ok(Json(JobState::from(&app.jobs.find(&id).await?)))
}

/// Stops a job after the current dead letter. Operators only.
#[utoipa::path(post, path = "/jobs/{id}/stop", params(("id" = String, Path)), responses(
    (status = 202, body = JobState), (status = 401), (status = 403),
    (status = 404),
    (status = 503, description = "RabbitMQ cannot be reached")
))]
pub(super) async fn stop(
    State(app): State<App>,
    user: ApiUser,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<JobState>), http::Problem> {
    let stopped = app.jobs.stop(&user.operator()?, &id).await?;
    Ok((StatusCode::ACCEPTED, Json(JobState::from(&stopped))))
}

/// Continues with what remains of a job that was interrupted or stopped. Operators only.
#[utoipa::path(post, path = "/jobs/{id}/resume", params(("id" = String, Path)), request_body(content = JobOptions, example = json!({"per_second": 1.0, "keep_going": false})), responses(
    (status = 202, description = "the new job", body = JobState),
    (status = 400), (status = 401), (status = 403),
    (status = 404),
    (status = 409, description = "another job is running, or nothing remains"),
    (status = 503, description = "RabbitMQ cannot be reached")
))]
pub(super) async fn resume(
    State(app): State<App>,
    user: ApiUser,
    Path(id): Path<String>,
    JsonBody(options): JsonBody<JobOptions>,
) -> Result<(StatusCode, Json<JobState>), http::Problem> {
    let (actor, options) = (user.operator()?, replay_options(&options)?);
    let resumed = app.jobs.resume(actor, &id, options).await?;
    Ok((StatusCode::ACCEPTED, Json(JobState::from(&resumed))))
}
