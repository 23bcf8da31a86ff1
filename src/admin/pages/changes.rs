//! Replay and discard: the selected dead letters become a plan, and a confirmed plan becomes a job.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};

use super::view::{self, Row, TimeView};
use crate::{
    admin::{
        app::App,
        fields::Fields,
        filters,
        jobs::{Job, JobEnd},
        page_layout::PageLayout,
        page_user::{PageUser, SignedForm},
        problem::{Problem, render},
        recent_plans::RecentPlan,
    },
    dead_letters::{Action, Ended, Filter, Finish, PlanPreview, ReplayOptions, ReplayRate},
};

/// Dead letters of a plan, and results of a job, that a page lists.
const MAX_LISTED: usize = 200;
/// Seconds until the page of a running job reloads.
const REFRESH_S: u32 = 2;

/// Plans a change of the selected dead letters, or of all that match the filter.
pub(super) async fn plan(State(app): State<App>, form: SignedForm) -> Result<Response, Problem> {
    let actor = form.operator()?;
    let fields = &form.fields;
    let action = match fields.get("action") {
        Some("replay") => Action::replay(),
        Some("discard") => {
            Action::Discard { reason: fields.get("discard_reason").unwrap_or_default().parse()? }
        }
        _ => return Err(Problem::bad_request("The action is neither a replay nor a discard.")),
    };
    let filter = if fields.get("all").is_some() {
        filters::read(fields)?
    } else {
        let ids: Vec<String> = fields.all("dead_letter").map(str::to_owned).collect();
        if ids.is_empty() {
            return Err(Problem::bad_request("No dead letter was selected."));
        }
        Filter { ids, ..Filter::default() }
    };
    let PlanPreview { plan, mut listing, unreadable, corrections: _ } =
        app.reader.plan(&actor, action, &filter).await?;
    let unreadable = (unreadable > 0)
        .then(|| format!("{unreadable} are unreadable and cannot be replayed; discard them instead."));
    if plan.ids.is_empty() {
        let why = unreadable.unwrap_or_else(|| "None of these dead letters exists any more.".to_owned());
        return Err(Problem::not_found(why));
    }
    listing.dead_letters.truncate(MAX_LISTED);
    let notes: Vec<String> = view::incomplete_note(&listing.coverage).into_iter().chain(unreadable).collect();
    let note = (!notes.is_empty()).then(|| notes.join(" "));
    let digest = plan.digest.clone();
    app.plans.insert(RecentPlan { digest, dead_letters: listing.dead_letters.into(), note });
    Ok(Redirect::to(&format!("/plans/{}", plan.digest)).into_response())
}

#[derive(Template)]
#[template(path = "plan.html")]
struct PlanPage {
    layout: PageLayout,
    digest: String,
    action: &'static str,
    reason: Option<String>,
    count: usize,
    rows: Vec<Row>,
    /// Shown instead of rows if the summaries are no longer in memory.
    ids: Vec<String>,
    more: usize,
    note: Option<String>,
}

/// Shows a plan and asks for confirmation.
pub(super) async fn confirm(
    State(app): State<App>,
    page_user: PageUser,
    Path(digest): Path<String>,
) -> Result<Response, Problem> {
    let plan = app.reader.find_plan(&digest).await?;
    let recent = app.plans.find(&digest);
    let rows: Vec<Row> = recent.iter().flat_map(|recent| recent.dead_letters.iter().map(Row::from)).collect();
    let ids = if rows.is_empty() {
        plan.ids.iter().take(MAX_LISTED).map(ToString::to_string).collect()
    } else {
        vec![]
    };
    Ok(render(&PlanPage {
        layout: page_user.layout(format!("Confirm: {}", plan.action.name())),
        action: plan.action.name(),
        reason: plan.action.reason().map(str::to_owned),
        count: plan.ids.len(),
        more: plan.ids.len().saturating_sub(MAX_LISTED),
        note: recent.and_then(|recent| recent.note),
        rows,
        ids,
        digest,
    }))
}

/// Starts to execute a plan that was confirmed.
pub(super) async fn start(
    State(app): State<App>,
    Path(digest): Path<String>,
    form: SignedForm,
) -> Result<Response, Problem> {
    let actor = form.operator()?;
    let plan = app.reader.find_plan(&digest).await?;
    let options = ReplayOptions {
        rate: rate(&form.fields)?,
        keep_going: form.fields.get("keep_going").is_some(),
        ..ReplayOptions::default()
    };
    let job = app.jobs.start(actor, plan, options)?;
    Ok(Redirect::to(&format!("/jobs/{}", job.id)).into_response())
}

fn rate(fields: &Fields) -> Result<ReplayRate, Problem> {
    let Some(text) = fields.get("per_second") else {
        return Ok(ReplayRate::default());
    };
    let per_second: f64 =
        text.parse().map_err(|_| Problem::bad_request(format!("per_second: {text:?} is not a number.")))?;
    Ok(ReplayRate::try_from(per_second)?)
}

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    layout: PageLayout,
    view: JobView,
    digest: String,
    reason: Option<String>,
    /// The newest first.
    steps: Vec<StepRow>,
    unlisted: usize,
    waiting: Vec<String>,
    waiting_count: usize,
    is_stopping: bool,
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct JobsPage {
    layout: PageLayout,
    jobs: Vec<JobView>,
}

struct JobView {
    id: String,
    actor: String,
    action: &'static str,
    started: TimeView,
    done: usize,
    total: usize,
    running: bool,
    state: String,
    /// CSS class: `good`, `bad` or `open`.
    class: &'static str,
}

struct StepRow {
    id: String,
    request_id: Option<String>,
    result: String,
    class: &'static str,
}

impl JobView {
    fn new(job: &Job, done: usize, end: Option<&JobEnd>) -> Self {
        let (state, class) = match end {
            None if job.is_stopping() => ("stopping".to_owned(), "open"),
            None => ("running".to_owned(), "open"),
            Some(JobEnd::Failed(why)) => (format!("failed: {why}"), "bad"),
            Some(JobEnd::Finished(finish)) => (finish.to_string(), finish_class(finish)),
        };
        Self {
            id: job.id.clone(),
            actor: job.actor.name.clone(),
            action: job.plan.action.name(),
            started: Some(job.started_at).into(),
            done,
            total: job.plan.ids.len(),
            running: end.is_none(),
            state,
            class,
        }
    }
}

fn finish_class(finish: &Finish) -> &'static str {
    match finish.ended {
        Ended::Complete if finish.is_success() => "good",
        Ended::Complete | Ended::Stopped if finish.results.failed_again.is_empty() => "open",
        _ => "bad",
    }
}

pub(super) async fn jobs(State(app): State<App>, page_user: PageUser) -> Response {
    let jobs = app.jobs.all();
    let views = jobs.iter().map(|job| {
        let progress = job.progress();
        JobView::new(job, progress.steps.len(), progress.end.as_ref())
    });
    render(&JobsPage { jobs: views.collect(), layout: page_user.layout("Jobs") })
}

pub(super) async fn job(
    State(app): State<App>,
    page_user: PageUser,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let job = app.jobs.find(&id)?;
    let progress = job.progress();
    let view = JobView::new(&job, progress.steps.len(), progress.end.as_ref());
    let refresh_s = if view.running { REFRESH_S } else { 0 };
    let done: std::collections::HashSet<&str> = progress.steps.iter().map(|step| step.id.as_str()).collect();
    let waiting = job.plan.ids.iter().filter(|id| !done.contains(id.as_str()));
    let steps = progress.steps.iter().rev().take(MAX_LISTED).map(|step| StepRow {
        id: step.id.to_string(),
        request_id: step.request_id.clone(),
        result: step.result.to_string(),
        class: view::result_class(&step.result),
    });
    let title = format!("{}: {} of {}", view.action, view.done, view.total);
    Ok(render(&JobPage {
        layout: PageLayout { refresh_s, ..page_user.layout(title) },
        digest: job.plan.digest.clone(),
        reason: job.plan.action.reason().map(str::to_owned),
        steps: steps.collect(),
        unlisted: progress.steps.len().saturating_sub(MAX_LISTED),
        waiting: waiting.clone().take(MAX_LISTED).map(ToString::to_string).collect(),
        waiting_count: waiting.count(),
        is_stopping: job.is_stopping(),
        view,
    }))
}

/// Stops a job after the current dead letter.
pub(super) async fn stop(
    State(app): State<App>,
    Path(id): Path<String>,
    form: SignedForm,
) -> Result<Response, Problem> {
    form.operator()?;
    app.jobs.find(&id)?.stop();
    Ok(Redirect::to(&format!("/jobs/{id}")).into_response())
}
