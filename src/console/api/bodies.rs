//! Request and response bodies of the API.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{
    console::{
        events::JobEnd,
        filters,
        job_now::{JobNow, Phase},
        problem::Problem,
    },
    dead_letters::{self, Coverage, DeadLetterId, Filter, Finish, Plan, PlanPreview, Step},
    message::{DeadLetterStatus, Timestamp},
};

/// A dead letter without what is masked.
#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetterSummary {
    id: DeadLetterId,
    request_id: Option<String>,
    status: DeadLetterStatus,
    reason: Option<String>,
    http_status: Option<u16>,
    attempts: u32,
    replays: u32,
    first_received_at: Option<Timestamp>,
    dead_at: Option<Timestamp>,
    trace_id: Option<String>,
    /// Bytes of the body.
    size: usize,
}

impl From<&dead_letters::DeadLetterSummary> for DeadLetterSummary {
    fn from(summary: &dead_letters::DeadLetterSummary) -> Self {
        let summary = summary.clone();
        Self {
            id: summary.id,
            request_id: summary.request_id,
            status: summary.status,
            reason: summary.reason,
            http_status: summary.http_status,
            attempts: summary.attempts,
            replays: summary.replays,
            first_received_at: summary.first_received_at,
            dead_at: summary.dead_at,
            trace_id: summary.trace_id,
            size: summary.size,
        }
    }
}

/// Dead letters, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetterList {
    pub(super) dead_letters: Vec<DeadLetterSummary>,
    /// All dead letters that match, also those on other pages.
    pub(super) count: usize,
    pub(super) coverage: Coverage,
}

/// Dead letters with body, properties, headers and Trackfinity's response.
#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetterDetails {
    #[schema(value_type = Vec<Object>)]
    pub(super) dead_letters: Vec<serde_json::Value>,
    /// All dead letters that match. If this is more than are shown, the newest are shown.
    pub(super) count: usize,
    pub(super) coverage: Coverage,
}

/// A request for a plan.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanRequest {
    pub(super) action: PlanAction,
    /// Why the dead letters are discarded; it becomes the reason of their outcomes. Not for a
    /// replay.
    pub(super) reason: Option<String>,
    /// What is changed in each `invalid` dead letter before it is replayed: `customer_id`, `subscription_id`,
    /// `orderid`, `content_type` or `body`, each with its new value. An empty value removes the field. Not for a
    /// discard.
    #[serde(default)]
    pub(super) set: BTreeMap<String, String>,
    /// Selects the dead letters that meet every condition. At least one condition is required.
    pub(super) filter: PlanFilter,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PlanAction {
    Replay,
    Discard,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PlanFilter {
    /// One of these: invalid, refused, abandoned, unreadable, unknown.
    status: Vec<String>,
    /// One of these.
    reason: Vec<String>,
    /// Dead-lettered at this time or later: 2026-11-23T09:00:00Z, or 2h for two hours ago.
    since: Option<String>,
    /// Dead-lettered at this time or earlier.
    until: Option<String>,
    /// One of these ids, of the dead letter or of its request.
    ids: Vec<String>,
    /// At most this many, the oldest ones.
    #[schema(minimum = 1)]
    #[serde(deserialize_with = "whole_number")]
    limit: Option<usize>,
}

/// In JSON, 5.0 is a whole number, too.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let whole = number.as_u64().or_else(|| {
        let fraction =
            number.as_f64().filter(|number| number.fract() == 0.0 && (0.0..9e15).contains(number))?;
        Some(fraction as u64)
    });
    let whole = whole.and_then(|number| usize::try_from(number).ok());
    whole
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom(format!("{number} is not a whole number that can be used")))
}

impl PlanFilter {
    pub(super) fn filter(self) -> Result<Filter, Problem> {
        let status = |(index, name): (usize, &String)| {
            filters::status(name).map_err(|problem| problem.at(format!("/filter/status/{index}")))
        };
        let moment = |name, text: &str| {
            filters::moment(name, text).map_err(|problem| problem.at(format!("/filter/{name}")))
        };
        let filter = Filter {
            status: (0..).zip(&self.status).map(status).collect::<Result<_, _>>()?,
            reason: self.reason,
            since: self.since.map(|text| moment("since", &text)).transpose()?,
            until: self.until.map(|text| moment("until", &text)).transpose()?,
            ids: self.ids,
            limit: self.limit,
        };
        if filter == Filter::default() {
            let wrong = "The filter is empty. To select all dead letters, give all five statuses.";
            return Err(Problem::bad_request(wrong).at("/filter"));
        }
        if filter.limit == Some(0) {
            return Err(Problem::bad_request("limit: must be at least 1.").at("/filter/limit"));
        }
        Ok(filter)
    }
}

/// A plan, and a summary of each of its dead letters.
#[derive(Serialize, ToSchema)]
pub(super) struct PlanResponse {
    #[serde(flatten)]
    plan: Plan,
    dead_letters: Vec<DeadLetterSummary>,
    /// Dead letters that match but are not in the plan: they are unreadable, so they cannot be
    /// replayed.
    unreadable: usize,
    coverage: Coverage,
}

impl From<PlanPreview> for PlanResponse {
    fn from(preview: PlanPreview) -> Self {
        let PlanPreview { plan, listing, unreadable, corrections: _ } = preview;
        let dead_letters = listing.dead_letters.iter().map(DeadLetterSummary::from).collect();
        Self { plan, dead_letters, unreadable, coverage: listing.coverage }
    }
}

/// How fast a replay runs, and when it stops.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct JobOptions {
    /// Dead letters per second, at most, from 1 an hour (0.00028) to 10000. Default: 1. Ignored by
    /// a discard.
    #[schema(exclusive_minimum = 0, maximum = 10000)]
    pub(super) per_second: Option<f64>,
    /// Continue after a dead letter that failed again.
    pub(super) keep_going: bool,
}

/// A plan that is executing or has ended.
#[derive(Serialize, ToSchema)]
pub(super) struct JobState {
    id: String,
    plan: String,
    /// The job that it continues.
    resumes: Option<String>,
    /// The job that continues it.
    resumed_by: Option<String>,
    action: &'static str,
    reason: Option<String>,
    /// The names of what a replay changes in each dead letter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    set: Vec<String>,
    actor: String,
    started_at: Timestamp,
    state: JobPhase,
    /// Dead letters of the plan.
    total: usize,
    /// The results so far, in their order.
    steps: Vec<Step>,
    /// The state at the end.
    finish: Option<Finish>,
    /// Why it failed.
    error: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum JobPhase {
    Running,
    /// It stops after the current dead letter.
    Stopping,
    /// See `finish`.
    Finished,
    /// See `error`. What was done before stays done.
    Failed,
    /// Its process has died. What was done before stays done; it can be resumed.
    Interrupted,
}

impl From<&JobNow> for JobState {
    fn from(JobNow { job, phase }: &JobNow) -> Self {
        let (state, finish, error) = match (&job.end, phase) {
            (Some(JobEnd::Finished(finish)), _) => (JobPhase::Finished, Some(finish.clone()), None),
            (Some(JobEnd::Failed(error)), _) => (JobPhase::Failed, None, Some(error.clone())),
            (None, Phase::Interrupted) => (JobPhase::Interrupted, None, None),
            (None, Phase::Stopping) => (JobPhase::Stopping, None, None),
            (None, Phase::Running | Phase::Ended) => (JobPhase::Running, None, None),
        };
        Self {
            id: job.id.clone(),
            plan: job.digest().to_owned(),
            resumes: job.resumes.clone(),
            resumed_by: job.resumed_by.clone(),
            set: job.correction.as_ref().map(|correction| correction.fields.clone()).unwrap_or_default(),
            action: job.plan.action.name(),
            reason: job.plan.action.reason().map(str::to_owned),
            actor: job.holder(),
            started_at: job.started_at,
            state,
            total: job.plan.ids.len(),
            steps: job.steps.clone(),
            finish,
            error,
        }
    }
}
