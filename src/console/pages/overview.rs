//! The overview: what is wrong now, in one screen.

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};

use super::{
    chart::Chart,
    view::{self, TimeView},
};
use crate::{
    console::{
        app::App,
        fields::Fields,
        outcome_counts::Window,
        page_layout::PageLayout,
        page_user::PageUser,
        problem::{Problem, render},
        queues::Queues,
    },
    message::Timestamp,
};

/// Reasons that are listed. A stranger who may publish dead letters can invent many.
const MAX_GROUPS: usize = 30;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    layout: PageLayout,
    tabs: Vec<Tab>,
    window: &'static str,
    /// None if outcomes are not kept.
    chart: Option<Chart>,
    queues: Result<Queues, Problem>,
    metrics_url: Option<String>,
    summary: Result<Groups, Problem>,
    job: Option<OpenJob>,
    /// Why jobs are not known.
    jobs_unseen: Option<Problem>,
}

struct Tab {
    name: &'static str,
    is_current: bool,
}

/// The summary, ready to be shown.
struct Groups {
    count: u64,
    oldest: TimeView,
    newest: TimeView,
    groups: Vec<GroupRow>,
    /// Reasons that are not listed, and their dead letters.
    unlisted: usize,
    unlisted_count: u64,
    /// A note if not all dead letters were seen.
    note: Option<String>,
    /// How old the count is, in seconds.
    age_s: u64,
}

struct GroupRow {
    status: &'static str,
    reason: Option<String>,
    count: u64,
    /// Of the largest group.
    percent: u64,
    oldest: TimeView,
    newest: TimeView,
    href: String,
}

/// A job that runs, or was interrupted.
struct OpenJob {
    id: String,
    actor: String,
    is_interrupted: bool,
    action: &'static str,
}

pub(super) async fn overview(
    State(app): State<App>,
    page_user: PageUser,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let current = match fields.get("window") {
        None => Window::default(),
        Some(name) => Window::named(name)
            .ok_or_else(|| Problem::bad_request("window: it is one of hour, day, week."))?,
    };
    let actor = page_user.actor();
    let (queues, summary, job) = tokio::join!(app.queues.read(), groups(&app, &actor), open_job(&app));
    let (job, jobs_unseen) = match job {
        Ok(job) => (job, None),
        // Without RabbitMQ nothing is seen, which once is enough to say.
        Err(problem) => (None, queues.is_ok().then_some(problem)),
    };
    Ok(render(&Overview {
        layout: page_user.layout("Overview"),
        tabs: Window::ALL.map(|window| Tab { name: window.name(), is_current: window == current }).into(),
        window: current.name(),
        chart: app.recent.as_ref().map(|recent| Chart::new(recent, current, Timestamp::now())),
        queues,
        metrics_url: app.metrics_url.as_deref().map(str::to_owned),
        summary,
        job,
        jobs_unseen,
    }))
}

async fn groups(app: &App, actor: &crate::dead_letters::Actor) -> Result<Groups, Problem> {
    let (summary, age) = app.reader.overview(actor).await?;
    let largest = summary.groups.iter().map(|group| group.count).max().unwrap_or(1).max(1);
    let groups = summary.groups.iter().take(MAX_GROUPS).map(|group| GroupRow {
        status: group.status.as_str(),
        reason: group.reason.as_deref().map(view::short),
        count: group.count,
        percent: (group.count * 100).div_ceil(largest),
        oldest: group.oldest.into(),
        newest: group.newest.into(),
        href: view::group_link(group.status.as_str(), group.reason.as_deref()),
    });
    Ok(Groups {
        count: summary.count,
        oldest: summary.oldest.into(),
        newest: summary.newest.into(),
        groups: groups.collect(),
        unlisted: summary.groups.len().saturating_sub(MAX_GROUPS),
        unlisted_count: summary.groups.iter().skip(MAX_GROUPS).map(|group| group.count).sum(),
        note: view::incomplete_note(&summary.coverage),
        age_s: age.as_secs(),
    })
}

/// The newest job that runs or that someone should resume.
async fn open_job(app: &App) -> Result<Option<OpenJob>, Problem> {
    let all = app.jobs.all_at_once().await?;
    let now = all.into_iter().find(|now| now.is_running() || now.is_abandoned());
    Ok(now.map(|now| OpenJob {
        is_interrupted: now.is_abandoned(),
        id: now.job.id.clone(),
        actor: now.job.actor.clone(),
        action: now.job.plan.action.name(),
    }))
}
