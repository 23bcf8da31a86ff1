//! The result of a replay or a discard, as JSON and in words.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::dead_letter::DeadLetterId;

/// The most reasons in a text; JSON has all.
const MAX_REASONS: usize = 5;

/// What happened to one dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Step {
    pub id: DeadLetterId,
    pub request_id: Option<String>,
    #[serde(flatten)]
    pub result: StepResult,
}

/// What can happen to a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
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

/// How many dead letters had each result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResultCounts {
    /// Replayed, and Trackfinity answered `true`.
    pub unlocked: usize,
    /// Replayed, and they failed again: by the reason of their outcomes.
    pub failed_again: BTreeMap<String, usize>,
    /// Replayed, without an outcome yet.
    pub pending: usize,
    pub discarded: usize,
    /// No longer in the queue.
    pub gone: usize,
    /// In the queue behind too many others; untouched.
    pub out_of_reach: usize,
    /// In the queue, because their copies could not be published.
    pub publish_failed: usize,
}

impl ResultCounts {
    pub(super) fn add(&mut self, result: &StepResult) {
        let count = match result {
            StepResult::Unlocked => &mut self.unlocked,
            StepResult::FailedAgain { reason, .. } => {
                self.failed_again.entry(reason.as_deref().unwrap_or("no reason").to_owned()).or_default()
            }
            StepResult::Pending => &mut self.pending,
            StepResult::Discarded { .. } => &mut self.discarded,
            StepResult::Gone => &mut self.gone,
            StepResult::OutOfReach => &mut self.out_of_reach,
            StepResult::PublishFailed { .. } => &mut self.publish_failed,
        };
        *count += 1;
    }

    fn replayed(&self) -> usize {
        self.unlocked + self.failed_again.values().sum::<usize>() + self.pending
    }
}

/// `2 requests replayed: 1 unlocked, 1 failed again (http_404)`
impl fmt::Display for ResultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests = |count| if count == 1 { "request" } else { "requests" };
        let replayed = self.replayed();
        let mut parts = Vec::new();
        if replayed > 0 {
            let failed: usize = self.failed_again.values().sum();
            let results = [
                (self.unlocked, "unlocked", String::new()),
                (failed, "failed again", reasons(&self.failed_again)),
                (self.pending, "without an outcome yet", String::new()),
            ];
            let results = results.iter().filter(|(count, ..)| *count > 0);
            let results: Vec<_> = results.map(|(n, what, why)| format!("{n} {what}{why}")).collect();
            parts.push(format!("{replayed} {} replayed: {}", requests(replayed), results.join(", ")));
        }
        if self.discarded > 0 {
            parts.push(format!("{} {} discarded", self.discarded, requests(self.discarded)));
        }
        for (count, what) in [
            (self.gone, "gone already"),
            (self.out_of_reach, "out of reach"),
            (self.publish_failed, "not published"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        f.write_str(&if parts.is_empty() { "nothing was done".to_owned() } else { parts.join("; ") })
    }
}

/// The reasons, the most frequent first: ` (http_404)` for one, else ` (2 http_404, 1 timeout)`.
fn reasons(counts: &BTreeMap<String, usize>) -> String {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let listed = sorted.iter().take(MAX_REASONS).map(|(reason, count)| match counts.len() {
        1 => (*reason).clone(),
        _ => format!("{count} {reason}"),
    });
    let more = (sorted.len() > MAX_REASONS).then(|| "…".to_owned());
    let listed: Vec<_> = listed.chain(more).collect();
    if listed.is_empty() { String::new() } else { format!(" ({})", listed.join(", ")) }
}

/// The state at the end of an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Finish {
    pub results: ResultCounts,
    /// Dead letters of the plan without a result.
    pub remaining: usize,
    /// Dead letters of the plan.
    pub total: usize,
    pub ended: Ended,
}

impl Finish {
    /// Whether every dead letter of the plan was unlocked or discarded.
    pub fn is_success(&self) -> bool {
        self.ended == Ended::Complete && self.results.unlocked + self.results.discarded == self.total
    }
}

/// Why an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
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

impl Finish {
    /// In a sentence. `who_stopped`: why it stopped, if someone or something stopped it.
    pub fn describe(&self, who_stopped: &str) -> String {
        let Self { results, remaining, ended, .. } = self;
        let why = match ended {
            Ended::Complete => return results.to_string(),
            Ended::Stopped => who_stopped,
            Ended::Failure => "one failed again or has no outcome yet",
            Ended::PublishFailed => "one could not be published",
        };
        let verb = if *remaining == 1 { "is" } else { "are" };
        format!("stopped: {why}; {results}; {remaining} {verb} untouched")
    }
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe("on request"))
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

    #[test]
    fn results_are_counted_by_what_came_of_them() {
        let failed = |reason: &str| StepResult::FailedAgain {
            status: "refused".to_owned(),
            reason: Some(reason.to_owned()),
        };
        let text = |results: &[StepResult]| {
            let mut counts = ResultCounts::default();
            results.iter().for_each(|result| counts.add(result));
            counts.to_string()
        };
        assert_eq!(text(&[]), "nothing was done");
        assert_eq!(text(&[StepResult::Unlocked]), "1 request replayed: 1 unlocked");
        assert_eq!(
            text(&[StepResult::Unlocked, failed("http_404")]),
            "2 requests replayed: 1 unlocked, 1 failed again (http_404)"
        );
        assert_eq!(
            text(&[failed("http_400"), failed("timeout"), failed("timeout"), StepResult::Pending]),
            "4 requests replayed: 3 failed again (2 timeout, 1 http_400), 1 without an outcome yet"
        );
        assert_eq!(
            text(&[StepResult::Discarded { routed: true }, StepResult::Gone, StepResult::OutOfReach]),
            "1 request discarded; 1 gone already; 1 out of reach"
        );
        let reasons: Vec<_> = (0..6).map(|n| failed(&format!("http_{}", 500 + n))).collect();
        assert!(text(&reasons).ends_with("1 http_504, …)"), "{}", text(&reasons));
    }

    #[test]
    fn only_what_was_unlocked_or_discarded_is_a_success() {
        let finish = |results, ended| Finish { results, remaining: 0, total: 2, ended };
        let one = ResultCounts { unlocked: 1, ..ResultCounts::default() };
        let all = ResultCounts { unlocked: 2, ..ResultCounts::default() };
        assert!(finish(all.clone(), Ended::Complete).is_success());
        assert!(!finish(all, Ended::Stopped).is_success());
        assert!(!finish(ResultCounts { pending: 1, ..one.clone() }, Ended::Complete).is_success());
        assert!(!finish(ResultCounts { gone: 1, ..one }, Ended::Complete).is_success());
    }
}
