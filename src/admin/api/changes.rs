//! Replay and discard, by the API: a plan first, then the job that carries it out.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

use super::{
    ApiProblem,
    bodies::{JobState, Masked, Planned, Wanted, Wish, WishedAction},
    caller::{Caller, Sent},
};
use crate::{
    admin::{
        App, pages,
        problem::{Problem, ProblemBody},
    },
    dead_letters::{Action, Plan},
};

/// Plans a replay or a discard of the letters that match now. Operators only. Nothing is done yet.
#[utoipa::path(post, path = "/plans", request_body = Wish, responses(
    (status = 201, description = "the plan, which can be carried out for a day", body = Planned),
    (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
    (status = 404, description = "no letter matches", body = ProblemBody),
    (status = 409, description = "somebody else works on the letters", body = ProblemBody)
))]
pub(super) async fn plan(
    State(app): State<App>,
    caller: Caller,
    Sent(wish): Sent<Wish>,
) -> Result<(StatusCode, Json<Planned>), ApiProblem> {
    let actor = caller.operator()?;
    let action = match (wish.action, wish.reason.as_deref()) {
        (WishedAction::Replay, None) => Action::Replay,
        (WishedAction::Replay, Some(_)) => {
            return Err(Problem::bad_request("A replay takes no reason.").into());
        }
        (WishedAction::Discard, text) => Action::Discard { reason: pages::reason(text)? },
    };
    let planned = app.looks.plan(&actor, action, &wish.filter.filter()?).await?;
    let crate::dead_letters::Planned { plan, listing, unreadable } = planned;
    if plan.ids.is_empty() {
        return Err(Problem::not_found(match unreadable {
            0 => "No letter matches.".to_owned(),
            count => format!("No letter matches that can be replayed; {count} cannot be read."),
        })
        .into());
    }
    let letters = listing.letters.iter().map(Masked::from).collect();
    Ok((StatusCode::CREATED, Json(Planned { plan, letters, unreadable, extent: listing.extent })))
}

/// A plan.
#[utoipa::path(get, path = "/plans/{digest}", params(("digest" = String, Path)), responses(
    (status = 200, body = Plan), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)
))]
pub(super) async fn planned(
    State(app): State<App>,
    _caller: Caller,
    Path(digest): Path<String>,
) -> Result<Json<Plan>, ApiProblem> {
    Ok(Json(app.looks.planned(&digest).await?))
}

/// Begins to carry a plan out. Operators only; each letter is written to the audit log first.
#[utoipa::path(post, path = "/plans/{digest}/jobs", params(("digest" = String, Path)), request_body = Wanted, responses(
    (status = 202, description = "the job; ask for it again to see how far it has come", body = JobState),
    (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
    (status = 404, body = ProblemBody),
    (status = 409, description = "another job is running", body = ProblemBody)
))]
pub(super) async fn begin(
    State(app): State<App>,
    caller: Caller,
    Path(digest): Path<String>,
    Sent(wanted): Sent<Wanted>,
) -> Result<(StatusCode, Json<JobState>), ApiProblem> {
    let actor = caller.operator()?;
    let per_second = wanted.per_second.unwrap_or(1.0);
    if !(0.01..=1000.0).contains(&per_second) {
        return Err(Problem::bad_request("per_second is not between 0.01 and 1000.").into());
    }
    let plan = app.looks.planned(&digest).await?;
    let pace = pages::pace(&plan, per_second, wanted.keep_going);
    let job = app.jobs.begin(actor, plan, pace)?;
    Ok((StatusCode::ACCEPTED, Json(JobState::from(job.as_ref()))))
}

/// Jobs since the worker started, the newest first.
#[utoipa::path(get, path = "/jobs", responses(
    (status = 200, body = Vec<JobState>), (status = 401, body = ProblemBody)
))]
pub(super) async fn jobs(State(app): State<App>, _caller: Caller) -> Json<Vec<JobState>> {
    Json(app.jobs.all().iter().map(|job| JobState::from(job.as_ref())).collect())
}

/// How far a job has come.
#[utoipa::path(get, path = "/jobs/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = JobState), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)
))]
pub(super) async fn job(
    State(app): State<App>,
    _caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<JobState>, ApiProblem> {
    Ok(Json(JobState::from(app.jobs.find(&id)?.as_ref())))
}

/// Tells a job to stop between two letters. Operators only.
#[utoipa::path(post, path = "/jobs/{id}/stop", params(("id" = String, Path)), responses(
    (status = 202, body = JobState), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
    (status = 404, body = ProblemBody)
))]
pub(super) async fn stop(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<JobState>), ApiProblem> {
    caller.operator()?;
    let job = app.jobs.find(&id)?;
    job.stop();
    Ok((StatusCode::ACCEPTED, Json(JobState::from(job.as_ref()))))
}
