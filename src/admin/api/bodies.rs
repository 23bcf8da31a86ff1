//! What the API takes and gives.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    admin::{
        filters,
        jobs::{End, Job},
        problem::Problem,
    },
    dead_letters::{Brief, Extent, Filter, Finish, LetterId, Plan, Step},
    message::{DeadLetterStatus, Timestamp},
};

/// What there is to be known of a letter without what is masked.
#[derive(Serialize, ToSchema)]
pub(super) struct Masked {
    id: LetterId,
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

impl From<&Brief> for Masked {
    fn from(letter: &Brief) -> Self {
        let letter = letter.clone();
        Self {
            id: letter.id,
            request_id: letter.request_id,
            status: letter.status,
            reason: letter.reason,
            http_status: letter.http_status,
            attempts: letter.attempts,
            replays: letter.replays,
            first_received_at: letter.first_received_at,
            dead_at: letter.dead_at,
            trace_id: letter.trace_id,
            size: letter.size,
        }
    }
}

/// Letters, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Letters {
    pub(super) letters: Vec<Masked>,
    /// Letters that match, on whatever page.
    pub(super) count: usize,
    pub(super) extent: Extent,
}

/// Letters with everything they hold: body, properties, headers, Trackfinity's answer.
#[derive(Serialize, ToSchema)]
pub(super) struct Shown {
    #[schema(value_type = Vec<Object>)]
    pub(super) letters: Vec<serde_json::Value>,
    /// Letters that match; where there are more than are shown, these are the newest.
    pub(super) count: usize,
    pub(super) extent: Extent,
}

/// What is to be planned.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    pub(super) action: WishedAction,
    /// Why letters are discarded; it stands in their outcomes. A replay takes none.
    pub(super) reason: Option<String>,
    /// Which letters: all that meet everything given. At least one condition has to be given.
    pub(super) filter: WishedFilter,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum WishedAction {
    Replay,
    Discard,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WishedFilter {
    /// Any of these: invalid, refused, abandoned, unreadable, unknown.
    status: Vec<String>,
    /// Any of these.
    reason: Vec<String>,
    /// Died then or later: a time such as 2026-11-23T09:00:00Z, or an age such as 2h.
    since: Option<String>,
    /// Died then or earlier.
    until: Option<String>,
    /// Any of these, letters' ids or requests'.
    ids: Vec<String>,
    /// The oldest so many of them.
    #[schema(minimum = 1)]
    limit: Option<usize>,
}

impl WishedFilter {
    pub(super) fn filter(self) -> Result<Filter, Problem> {
        let filter = Filter {
            status: self.status.iter().map(|name| filters::status(name)).collect::<Result<_, _>>()?,
            reason: self.reason,
            since: self.since.map(|text| filters::moment("since", &text)).transpose()?,
            until: self.until.map(|text| filters::moment("until", &text)).transpose()?,
            ids: self.ids,
            limit: self.limit,
        };
        if filter == Filter::default() {
            let wrong = "The filter is empty; for all letters say status with all five of them.";
            return Err(Problem::bad_request(wrong));
        }
        if filter.limit == Some(0) {
            return Err(Problem::bad_request("limit: 0 letters are none."));
        }
        Ok(filter)
    }
}

/// A plan, and what its letters look like.
#[derive(Serialize, ToSchema)]
pub(super) struct Planned {
    #[serde(flatten)]
    pub(super) plan: Plan,
    pub(super) letters: Vec<Masked>,
    /// Letters that match and are not in the plan: they cannot be replayed, as they cannot be read.
    pub(super) unreadable: usize,
    pub(super) extent: Extent,
}

/// How fast, and how far.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    /// Letters a second, at most; 1 if absent. A discard takes none.
    #[schema(minimum = 0.01, maximum = 1000)]
    pub(super) per_second: Option<f64>,
    /// Whether to go on after a letter that failed again.
    pub(super) keep_going: bool,
}

/// A plan that is being, or was, carried out.
#[derive(Serialize, ToSchema)]
pub(super) struct JobState {
    id: String,
    plan: String,
    action: &'static str,
    reason: Option<String>,
    actor: String,
    begun_at: Timestamp,
    state: State,
    /// Letters of the plan.
    of: usize,
    /// What became of each, in their order.
    steps: Vec<Step>,
    /// Where it stood at the end.
    finish: Option<Finish>,
    /// Why it failed.
    error: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    Running,
    /// Told to stop, and about to.
    Stopping,
    /// See `finish`.
    Finished,
    /// See `error`. What was done stays done.
    Failed,
}

impl From<&Job> for JobState {
    fn from(job: &Job) -> Self {
        let progress = job.progress();
        let (state, finish, error) = match progress.end {
            None if job.is_told_to_stop() => (State::Stopping, None, None),
            None => (State::Running, None, None),
            Some(End::Finished(finish)) => (State::Finished, Some(finish), None),
            Some(End::Failed(error)) => (State::Failed, None, Some(error)),
        };
        Self {
            id: job.id.clone(),
            plan: job.plan.digest.clone(),
            action: job.plan.action.name(),
            reason: job.plan.action.reason().map(str::to_owned),
            actor: job.actor.to_string(),
            begun_at: job.begun,
            state,
            of: job.plan.ids.len(),
            steps: progress.steps,
            finish,
            error,
        }
    }
}
