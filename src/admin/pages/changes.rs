//! Replay and discard: ticked letters become a plan, a confirmed plan becomes a job.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};

use super::view::{self, Age, Row};
use crate::{
    admin::{
        App, filters,
        frame::Frame,
        jobs::{End, Job},
        problem::{Problem, render},
        visitor::{Signed, Visitor},
    },
    dead_letters::{Action, Brief, Ended, Filter, Finish, Pace, Plan},
};

/// Letters of a plan, and steps of a job, that a page lists.
const LISTED: usize = 200;
/// Plans whose letters' descriptions are remembered.
const REMEMBERED: usize = 20;
/// The longest reason, in characters.
const REASON_CHARS: usize = 500;
/// Seconds between two looks at a job that is running.
const REFRESH_S: u32 = 2;

/// What was planned here of late: RabbitMQ keeps the plans, but not what their letters look like.
#[derive(Clone, Debug, Default)]
pub(in crate::admin) struct Plans(Arc<Mutex<VecDeque<Planned>>>);

#[derive(Clone, Debug)]
struct Planned {
    digest: String,
    letters: Arc<[Brief]>,
    short: Option<String>,
}

impl Plans {
    fn keep(&self, planned: Planned) {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|known| known.digest != planned.digest);
        plans.push_front(planned);
        plans.truncate(REMEMBERED);
    }

    fn find(&self, digest: &str) -> Option<Planned> {
        let plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.iter().find(|known| known.digest == digest).cloned()
    }
}

/// Plans a change of the ticked letters, or of all that match.
pub(super) async fn plan(State(app): State<App>, signed: Signed) -> Result<Response, Problem> {
    let actor = signed.operator()?;
    let fields = &signed.fields;
    let action = match fields.get("action") {
        Some("replay") => Action::Replay,
        Some("discard") => Action::Discard { reason: reason(fields.get("discard_reason"))? },
        _ => return Err(Problem::bad_request("It is neither a replay nor a discard.")),
    };
    let filter = if fields.get("all").is_some() {
        filters::read(fields)?
    } else {
        let ids: Vec<String> = fields.all("letter").map(str::to_owned).collect();
        if ids.is_empty() {
            return Err(Problem::bad_request("No letter was ticked."));
        }
        Filter { ids, ..Filter::default() }
    };
    let crate::dead_letters::Planned { plan, mut listing, unreadable } =
        app.looks.plan(&actor, action, &filter).await?;
    let left_out = (unreadable > 0)
        .then(|| format!("{unreadable} cannot be replayed, as they cannot be read: discard them."));
    if plan.ids.is_empty() {
        let why = left_out.unwrap_or_else(|| "None of these letters is there any more.".to_owned());
        return Err(Problem::not_found(why));
    }
    listing.letters.truncate(LISTED);
    let short: Vec<String> = view::short(&listing.extent).into_iter().chain(left_out).collect();
    let short = (!short.is_empty()).then(|| short.join(" "));
    app.plans.keep(Planned { digest: plan.digest.clone(), letters: listing.letters.into(), short });
    Ok(Redirect::to(&format!("/plans/{}", plan.digest)).into_response())
}

/// Why letters are discarded: it stands in their outcomes.
pub(in crate::admin) fn reason(text: Option<&str>) -> Result<String, Problem> {
    let reason = text.unwrap_or_default().trim();
    if reason.is_empty() {
        return Err(Problem::bad_request("A discard needs a reason: it stands in the outcome."));
    }
    if reason.chars().count() > REASON_CHARS || reason.chars().any(char::is_control) {
        let wrong = format!("The reason is longer than {REASON_CHARS} characters, or of several lines.");
        return Err(Problem::bad_request(wrong));
    }
    Ok(reason.to_owned())
}

#[derive(Template)]
#[template(path = "plan.html")]
struct PlanPage {
    frame: Frame,
    digest: String,
    action: &'static str,
    reason: Option<String>,
    count: usize,
    rows: Vec<Row>,
    /// Where their descriptions are no longer known.
    ids: Vec<String>,
    more: usize,
    short: Option<String>,
}

/// Shows a plan, and asks whether it is meant.
pub(super) async fn confirm(
    State(app): State<App>,
    visitor: Visitor,
    Path(digest): Path<String>,
) -> Result<Response, Problem> {
    let plan = app.looks.planned(&digest).await?;
    let known = app.plans.find(&digest);
    let rows: Vec<Row> = known.iter().flat_map(|known| known.letters.iter().map(Row::of)).collect();
    let ids = if rows.is_empty() {
        plan.ids.iter().take(LISTED).map(ToString::to_string).collect()
    } else {
        vec![]
    };
    Ok(render(&PlanPage {
        frame: Frame::new(format!("Confirm: {}", plan.action.name()), &visitor),
        action: plan.action.name(),
        reason: plan.action.reason().map(str::to_owned),
        count: plan.ids.len(),
        more: plan.ids.len().saturating_sub(LISTED),
        short: known.and_then(|known| known.short),
        rows,
        ids,
        digest,
    }))
}

/// Carries out a plan that was confirmed.
pub(super) async fn begin(
    State(app): State<App>,
    Path(digest): Path<String>,
    signed: Signed,
) -> Result<Response, Problem> {
    let actor = signed.operator()?;
    let plan = app.looks.planned(&digest).await?;
    let per_second = filters::number(&signed.fields, "per_second", 1.0, 0.01..=1000.0)?;
    let keep_going = signed.fields.get("keep_going").is_some();
    let job = {
        let pace = pace(&plan, per_second, keep_going);
        app.jobs.begin(actor, plan, pace)?
    };
    Ok(Redirect::to(&format!("/jobs/{}", job.id)).into_response())
}

/// A discard calls nobody, so it need not be slow.
pub(in crate::admin) fn pace(plan: &Plan, per_second: f64, keep_going: bool) -> Pace {
    let per_second = if plan.action == Action::Replay { per_second } else { f64::INFINITY };
    Pace { per_second, keep_going, ..Pace::default() }
}

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    frame: Frame,
    view: JobView,
    digest: String,
    reason: Option<String>,
    /// The newest first.
    steps: Vec<StepRow>,
    unlisted: usize,
    waiting: Vec<String>,
    waiting_count: usize,
    told_to_stop: bool,
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct JobsPage {
    frame: Frame,
    jobs: Vec<JobView>,
}

struct JobView {
    id: String,
    actor: String,
    action: &'static str,
    begun: Age,
    said: usize,
    of: usize,
    running: bool,
    state: String,
    /// `good`, `bad` or `open`, for its looks.
    kind: &'static str,
}

struct StepRow {
    id: String,
    request_id: Option<String>,
    result: String,
    kind: &'static str,
}

impl JobView {
    fn of(job: &Job, said: usize, end: Option<&End>) -> Self {
        let (state, kind) = match end {
            None if job.is_told_to_stop() => ("stopping".to_owned(), "open"),
            None => ("running".to_owned(), "open"),
            Some(End::Failed(why)) => (format!("failed: {why}"), "bad"),
            Some(End::Finished(finish)) => (self::finish(finish), kind(finish)),
        };
        Self {
            id: job.id.clone(),
            actor: job.actor.name.clone(),
            action: job.plan.action.name(),
            begun: Age::of(Some(job.begun)),
            said,
            of: job.plan.ids.len(),
            running: end.is_none(),
            state,
            kind,
        }
    }
}

fn kind(finish: &Finish) -> &'static str {
    match finish.ended {
        Ended::Complete => "good",
        Ended::Told => "open",
        _ => "bad",
    }
}

fn finish(finish: &Finish) -> String {
    let Finish { done, left, of, ended } = *finish;
    let why = match ended {
        Ended::Complete => return format!("done: {done} of {of} left the dead letters"),
        Ended::Told => "told to stop",
        Ended::Failure => "one failed again or has no outcome yet",
        Ended::Kept => "one could not be published",
    };
    format!("stopped: {why}; {done} of {of} left the dead letters, {left} are untouched")
}

pub(super) async fn jobs(State(app): State<App>, visitor: Visitor) -> Response {
    let jobs = app.jobs.all();
    let views = jobs.iter().map(|job| {
        let progress = job.progress();
        JobView::of(job, progress.steps.len(), progress.end.as_ref())
    });
    render(&JobsPage { jobs: views.collect(), frame: Frame::new("Jobs", &visitor) })
}

pub(super) async fn job(
    State(app): State<App>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let job = app.jobs.find(&id)?;
    let progress = job.progress();
    let view = JobView::of(&job, progress.steps.len(), progress.end.as_ref());
    let refresh_s = if view.running { REFRESH_S } else { 0 };
    let said: std::collections::HashSet<&str> = progress.steps.iter().map(|step| step.id.as_str()).collect();
    let waiting = job.plan.ids.iter().filter(|id| !said.contains(id.as_str()));
    let steps = progress.steps.iter().rev().take(LISTED).map(|step| {
        let (result, kind) = view::result(&step.result);
        StepRow { id: step.id.to_string(), request_id: step.request_id.clone(), result, kind }
    });
    let title = format!("{}: {} of {}", view.action, view.said, view.of);
    Ok(render(&JobPage {
        frame: Frame { refresh_s, ..Frame::new(title, &visitor) },
        digest: job.plan.digest.clone(),
        reason: job.plan.action.reason().map(str::to_owned),
        steps: steps.collect(),
        unlisted: progress.steps.len().saturating_sub(LISTED),
        waiting: waiting.clone().take(LISTED).map(ToString::to_string).collect(),
        waiting_count: waiting.count(),
        told_to_stop: job.is_told_to_stop(),
        view,
    }))
}

/// Tells a job to stop between two letters.
pub(super) async fn stop(
    State(app): State<App>,
    Path(id): Path<String>,
    signed: Signed,
) -> Result<Response, Problem> {
    signed.operator()?;
    app.jobs.find(&id)?.stop();
    Ok(Redirect::to(&format!("/jobs/{id}")).into_response())
}
