//! Replay and discard: the selected dead letters become a plan, and a confirmed plan becomes a job.

use askama::Template;
use axum::{
    extract::{Path, RawQuery, State},
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Redirect, Response},
};

use super::{
    correction::{self, CorrectionView},
    view::{self, Row, TimeView},
};
use crate::{
    console::{
        app::App,
        events::JobEnd,
        fields::Fields,
        filters,
        job_now::{JobNow, Phase},
        page_layout::PageLayout,
        page_user::{PageUser, SignedForm},
        problem::{Problem, render},
    },
    dead_letters::{Action, Ended, Filter, Finish, PlanPreview, ReplayOptions, ReplayRate},
};

/// Dead letters of a plan, and results of a job, that a page lists.
const MAX_LISTED: usize = 200;
/// Makes a browser reload the page after some seconds. No standard names it, but every browser knows it.
const REFRESH: HeaderName = HeaderName::from_static("refresh");

/// Plans a change of the selected dead letters, or of all that match the filter.
pub(super) async fn plan(State(app): State<App>, form: SignedForm) -> Result<Response, Problem> {
    let actor = form.operator()?;
    let fields = &form.fields;
    let action = match fields.get("action") {
        Some("replay") => Action::Replay { correction: correction::read(fields)? },
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
    let PlanPreview { plan, unreadable, .. } = app.reader.plan(&actor, action, &filter).await?;
    if plan.ids.is_empty() {
        let none = || "None of these dead letters exists any more.".to_owned();
        return Err(Problem::not_found(unreadable_note(unreadable).unwrap_or_else(none)));
    }
    let note = if unreadable > 0 { format!("?unreadable={unreadable}") } else { String::new() };
    Ok(Redirect::to(&format!("/plans/{}{note}", plan.digest)).into_response())
}

fn unreadable_note(count: usize) -> Option<String> {
    (count > 0).then(|| format!("{count} are unreadable and cannot be replayed; discard them instead."))
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
    /// Dead letters of the plan that are not there any more, or could not be seen.
    missing: Vec<String>,
    correction: Option<CorrectionView>,
    more: usize,
    notes: Vec<String>,
}

/// Shows a plan and asks for confirmation.
pub(super) async fn confirm(
    State(app): State<App>,
    page_user: PageUser,
    Path(digest): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let unreadable = filters::number(&fields, "unreadable", 0usize, 0..=usize::MAX)?;
    let plan = app.reader.find_plan(&digest).await?;
    let ids: Vec<String> = plan.ids.iter().take(MAX_LISTED).map(ToString::to_string).collect();
    let filter = Filter { ids: ids.clone(), ..Filter::default() };
    let listing = app.reader.page(&page_user.actor(), &filter, 0, MAX_LISTED).await?;
    let rows: Vec<Row> = listing.dead_letters.iter().map(Row::from).collect();
    let missing = ids.into_iter().filter(|id| rows.iter().all(|row| row.id != *id)).collect();
    let notes = view::incomplete_note(&listing.coverage).into_iter().chain(unreadable_note(unreadable));
    let operator = page_user.user.is_operator().then(|| page_user.actor());
    let correction = correction::view(&app, operator.as_ref(), &plan).await?;
    Ok(render(&PlanPage {
        layout: page_user.layout(format!("Confirm: {}", plan.action.name())),
        action: plan.action.name(),
        reason: plan.action.reason().map(str::to_owned),
        count: plan.ids.len(),
        more: plan.ids.len().saturating_sub(MAX_LISTED),
        notes: notes.collect(),
        rows,
        missing,
        correction,
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
    let started = app.jobs.start(actor, plan, options(&form.fields)?, None).await?;
    Ok(Redirect::to(&format!("/jobs/{}", started.job.id)).into_response())
}

/// Continues with what remains of a job.
pub(super) async fn resume(
    State(app): State<App>,
    Path(id): Path<String>,
    form: SignedForm,
) -> Result<Response, Problem> {
    let resumed = app.jobs.resume(form.operator()?, &id, options(&form.fields)?).await?;
    Ok(Redirect::to(&format!("/jobs/{}", resumed.job.id)).into_response())
}

fn options(fields: &Fields) -> Result<ReplayOptions, Problem> {
    let keep_going = fields.get("keep_going").is_some();
    Ok(ReplayOptions { rate: rate(fields)?, keep_going, ..ReplayOptions::default() })
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
    /// How many wait and are not listed.
    waiting_unlisted: usize,
    /// The names of what a replay changes.
    changes: Vec<String>,
    /// The job that it continues.
    resumes: Option<String>,
    /// The job that continues it.
    resumed_by: Option<String>,
    stop_asked_by: Option<String>,
    is_interrupted: bool,
    is_reloading: bool,
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
    fn new(now: &JobNow) -> Self {
        let JobNow { job, phase } = now;
        let (state, class) = match (phase, &job.end) {
            (_, Some(JobEnd::Failed(why))) => (format!("failed: {why}"), "bad"),
            (_, Some(JobEnd::Finished(finish))) => {
                let who_stopped = match job.stop_asked_by {
                    Some(_) => "on request",
                    None => "its console was stopped",
                };
                (finish.describe(who_stopped), finish_class(finish))
            }
            (Phase::Interrupted, None) => ("interrupted".to_owned(), "bad"),
            (Phase::Stopping, None) => ("stopping".to_owned(), "open"),
            (Phase::Running | Phase::Ended, None) => ("running".to_owned(), "open"),
        };
        Self {
            id: job.id.clone(),
            actor: job.actor.clone(),
            action: job.plan.action.name(),
            started: Some(job.started_at).into(),
            done: job.steps.len(),
            total: job.plan.ids.len(),
            running: now.is_running(),
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

pub(super) async fn jobs(State(app): State<App>, page_user: PageUser) -> Result<Response, Problem> {
    let jobs = app.jobs.all().await?.iter().map(JobView::new).collect();
    Ok(render(&JobsPage { jobs, layout: page_user.layout("Jobs") }))
}

pub(super) async fn job(
    State(app): State<App>,
    page_user: PageUser,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let now = app.jobs.find(&id).await?;
    let (view, job) = (JobView::new(&now), &now.job);
    // Not everyone can read a page that changes: they switch it off.
    let is_reloading = view.running && fields.get("reload") != Some("no");
    let remaining = job.remaining();
    let steps = job.steps.iter().rev().take(MAX_LISTED).map(|step| StepRow {
        id: step.id.to_string(),
        request_id: step.request_id.clone(),
        result: step.result.to_string(),
        class: view::result_class(&step.result),
    });
    let title = format!("{}: {} of {}", view.action, view.done, view.total);
    let mut response = render(&JobPage {
        layout: page_user.layout(title),
        is_reloading,
        digest: job.digest().to_owned(),
        reason: job.plan.action.reason().map(str::to_owned),
        changes: job.correction.as_ref().map(|correction| correction.fields.clone()).unwrap_or_default(),
        resumes: job.resumes.clone(),
        resumed_by: job.resumed_by.clone(),
        steps: steps.collect(),
        unlisted: job.steps.len().saturating_sub(MAX_LISTED),
        waiting: remaining.iter().take(MAX_LISTED).map(ToString::to_string).collect(),
        waiting_unlisted: remaining.len().saturating_sub(MAX_LISTED),
        waiting_count: remaining.len(),
        stop_asked_by: job.stop_asked_by.clone(),
        is_interrupted: now.phase == Phase::Interrupted,
        view,
    });
    if is_reloading {
        response.headers_mut().insert(REFRESH, HeaderValue::from_static("2"));
    }
    Ok(response)
}

/// Stops a job after the current dead letter.
pub(super) async fn stop(
    State(app): State<App>,
    Path(id): Path<String>,
    form: SignedForm,
) -> Result<Response, Problem> {
    app.jobs.stop(&form.operator()?, &id).await?;
    Ok(Redirect::to(&format!("/jobs/{id}")).into_response())
}
