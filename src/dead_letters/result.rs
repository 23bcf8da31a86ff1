//! The result of a replay or a discard, as JSON and in words.

use std::fmt;

use serde::Serialize;

use super::dead_letter::DeadLetterId;

/// What happened to one dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Step {
    pub id: DeadLetterId,
    pub request_id: Option<String>,
    #[serde(flatten)]
    pub result: StepResult,
}

/// What can happen to a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum StepResult {
    /// Replayed, and Trackfinity answered `true`.
    Unlocked,
    /// Replayed, and it failed again: there is a new dead letter.
    FailedAgain { status: String, reason: Option<String> },
    /// Replayed, but its outcome had not arrived when the time was over or the replay was stopped.
    /// The request is queued or waits for a retry.
    Pending,
    /// Discarded, and its outcome published. `routed`: whether a queue received the outcome.
    Discarded { routed: bool },
    /// It is no longer in the queue: someone else has replayed or discarded it.
    Gone,
    /// Too many other dead letters are in front of it. It stays in the queue.
    OutOfReach,
    /// Its copy could not be published. It stays in the queue.
    PublishFailed { why: String },
}

impl StepResult {
    /// How the execution ends after this result; `None` if it continues. An outcome that is missing
    /// because the execution was stopped is no failure.
    pub(super) fn ends(&self, keep_going: bool, is_stopped: bool) -> Option<Ended> {
        match self {
            Self::Pending if is_stopped => Some(Ended::Stopped),
            Self::FailedAgain { .. } | Self::Pending if !keep_going => Some(Ended::Failure),
            _ => None,
        }
    }
}

impl fmt::Display for StepResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlocked => f.write_str("unlocked"),
            Self::FailedAgain { status, reason } => {
                write!(f, "failed again: {status}, {}", reason.as_deref().unwrap_or("no reason"))
            }
            Self::Pending => {
                f.write_str("replayed; no outcome yet: the request is queued or waits for a retry")
            }
            Self::Discarded { routed: true } => f.write_str("discarded"),
            Self::Discarded { routed: false } => f.write_str("discarded; no queue receives the outcome"),
            Self::Gone => f.write_str("gone: it is no longer among the dead letters"),
            Self::OutOfReach => {
                f.write_str("out of reach: too many dead letters are in front of it; it stays in the queue")
            }
            Self::PublishFailed { why } => write!(f, "not published, it stays in the queue: {why}"),
        }
    }
}

/// The state at the end of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Finish {
    /// Dead letters that left the queue.
    pub done: usize,
    /// Dead letters of the plan without a result.
    pub remaining: usize,
    /// Dead letters of the plan.
    pub total: usize,
    pub ended: Ended,
}

/// Why an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Every dead letter of the plan has a result.
    Complete,
    /// A person or a shutdown stopped it.
    Stopped,
    /// A dead letter failed again, or its outcome did not arrive.
    Failure,
    /// A copy could not be published. The next one would fail too.
    PublishFailed,
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, remaining, total, ended } = self;
        let why = match ended {
            Ended::Complete => return write!(f, "done: {done} of {total} left the dead letters"),
            Ended::Stopped => "on request",
            Ended::Failure => "one failed again or has no outcome yet",
            Ended::PublishFailed => "one could not be published",
        };
        write!(f, "stopped: {why}; {done} of {total} left the dead letters, {remaining} are untouched")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_while_an_outcome_is_awaited_is_no_failure_of_the_dead_letter() {
        let failed = StepResult::FailedAgain { status: "refused".to_owned(), reason: None };
        for (result, keep_going, is_stopped, ended) in [
            (&StepResult::Pending, false, true, Some(Ended::Stopped)),
            (&StepResult::Pending, true, true, Some(Ended::Stopped)),
            (&StepResult::Pending, false, false, Some(Ended::Failure)),
            (&StepResult::Pending, true, false, None),
            (&failed, false, true, Some(Ended::Failure)),
            (&failed, true, true, None),
            (&StepResult::Unlocked, false, true, None),
        ] {
            assert_eq!(result.ends(keep_going, is_stopped), ended, "{result:?} {keep_going} {is_stopped}");
        }
    }
}
