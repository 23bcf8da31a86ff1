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
        jobs::Phase,
        outcome_counts::Window,
        page_layout::PageLayout,
        page_user::PageUser,
        problem::{Problem, render},
        queues::Queues,
    },
    message::Timestamp,
};

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    layout: PageLayout,
    tabs: Vec<Tab>,
    /// None if outcomes are not kept.
    chart: Option<Chart>,
    queues: Result<Queues, Problem>,
    metrics_url: Option<String>,
    summary: Result<Groups, Problem>,
    job: Option<OpenJob>,
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
    Ok(render(&Overview {
        layout: page_user.layout("Overview"),
        tabs: Window::ALL.map(|window| Tab { name: window.name(), is_current: window == current }).into(),
        chart: app.recent.as_ref().map(|recent| Chart::new(recent, current, Timestamp::now())),
        queues,
        metrics_url: app.metrics_url.as_deref().map(str::to_owned),
        summary,
        job,
    }))
}

async fn groups(app: &App, actor: &crate::dead_letters::Actor) -> Result<Groups, Problem> {
    let (summary, age) = app.reader.overview(actor).await?;
    let largest = summary.groups.iter().map(|group| group.count).max().unwrap_or(1).max(1);
    let groups = summary.groups.iter().map(|group| GroupRow {
        status: group.status.as_str(),
        reason: group.reason.clone(),
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
        note: view::incomplete_note(&summary.coverage),
        age_s: age.as_secs(),
    })
}

/// The overview is there also while jobs cannot be read; then their page says why.
async fn open_job(app: &App) -> Option<OpenJob> {
    let now = app.jobs.all().await.ok()?.into_iter().find(|now| now.phase != Phase::Ended)?;
    Some(OpenJob {
        is_interrupted: now.phase == Phase::Interrupted,
        id: now.job.id.clone(),
        actor: now.job.actor.clone(),
        action: now.job.plan.action.name(),
    })
}
