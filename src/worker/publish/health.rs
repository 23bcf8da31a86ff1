//! What cannot be published, and since when: for `/readyz`, and for how long to wait for an
//! outcome's confirm.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::message::Status;

/// If a kind of message fails for this long without one success, it is reported as a problem.
const FAILING_AFTER: Duration = Duration::from_secs(5);
/// After this many refusals in a row, outcomes with the same status are postponed at once.
pub(super) const MAX_REFUSALS_IN_A_ROW: u32 = 3;

/// A kind of message that workers publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishKind {
    Outcome,
    Retry,
    DeadLetter,
}

impl PublishKind {
    const ALL: [Self; 3] = [Self::Outcome, Self::Retry, Self::DeadLetter];

    /// The kind as it stands in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outcome => "outcome",
            Self::Retry => "retry",
            Self::DeadLetter => "dead_letter",
        }
    }

    /// The kind in words.
    fn describe(self) -> &'static str {
        match self {
            Self::Outcome => "outcomes",
            Self::Retry => "retries",
            Self::DeadLetter => "dead letters",
        }
    }
}

/// Shared by all tasks of the worker, and read by the health endpoints.
#[derive(Debug, Default)]
pub struct PublishHealth {
    outcome: KindHealth,
    retry: KindHealth,
    dead_letter: KindHealth,
    outcomes: [OutcomeHealth; Status::ALL.len()],
}

#[derive(Debug, Default)]
struct KindHealth {
    /// Whether there is a failure, so that a success needs no lock while there is none.
    is_failing: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

#[derive(Debug)]
struct Failure {
    since: Instant,
    error: String,
}

/// How listeners' queues receive the outcomes with one status.
#[derive(Debug, Default)]
struct OutcomeHealth {
    refusals: AtomicU32,
    is_unconfirmed: AtomicBool,
}

impl PublishHealth {
    /// A message of this kind was confirmed.
    pub(in crate::worker) fn published(&self, kind: PublishKind) {
        let health = self.kind(kind);
        if health.is_failing.load(Ordering::Relaxed) {
            *health.lock() = None;
            health.is_failing.store(false, Ordering::Relaxed);
        }
    }

    /// A message of this kind could not be published.
    pub(super) fn failed(&self, kind: PublishKind, error: &str) {
        let health = self.kind(kind);
        let mut failure = health.lock();
        let since = failure.as_ref().map_or_else(Instant::now, |failure| failure.since);
        *failure = Some(Failure { since, error: error.to_owned() });
        health.is_failing.store(true, Ordering::Relaxed);
    }

    /// Clears the failures at the start of a new session.
    pub(in crate::worker) fn reset(&self) {
        for kind in PublishKind::ALL {
            self.published(kind);
        }
    }

    /// Why messages of one kind cannot be published at all, if they cannot.
    pub fn problem(&self) -> Option<String> {
        self.problem_at(Instant::now())
    }

    fn problem_at(&self, now: Instant) -> Option<String> {
        PublishKind::ALL.into_iter().find_map(|kind| {
            let failure = self.kind(kind).lock();
            let failing_for = |failure: &Failure| now.saturating_duration_since(failure.since);
            let failure = failure.as_ref().filter(|failure| failing_for(failure) >= FAILING_AFTER)?;
            let seconds = failing_for(failure).as_secs();
            Some(format!("no {} can be published for {seconds} s: {}", kind.describe(), failure.error))
        })
    }

    /// An outcome with this status was confirmed.
    pub(super) fn outcome_confirmed(&self, status: Status) {
        let Some(health) = self.outcome(status) else { return };
        if health.refusals.load(Ordering::Relaxed) != 0 {
            health.refusals.store(0, Ordering::Relaxed);
        }
        if health.is_unconfirmed.load(Ordering::Relaxed) {
            health.is_unconfirmed.store(false, Ordering::Relaxed);
        }
    }

    /// An outcome with this status was refused; returns whether refusals were known already.
    pub(super) fn outcome_refused(&self, status: Status) -> bool {
        let before = self.outcome(status).map(|health| health.refusals.fetch_add(1, Ordering::Relaxed));
        before.is_some_and(|before| before >= MAX_REFUSALS_IN_A_ROW)
    }

    /// An outcome with this status was not confirmed in time.
    pub(super) fn outcome_unconfirmed(&self, status: Status) {
        if let Some(health) = self.outcome(status) {
            health.is_unconfirmed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the last outcome with this status was not confirmed in time.
    pub(super) fn is_outcome_unconfirmed(&self, status: Status) -> bool {
        self.outcome(status).is_some_and(|health| health.is_unconfirmed.load(Ordering::Relaxed))
    }

    /// The statuses whose outcomes a listener's queue refuses or does not confirm.
    pub fn refused_outcomes(&self) -> Vec<Status> {
        let is_refused = |health: &OutcomeHealth| {
            health.refusals.load(Ordering::Relaxed) >= MAX_REFUSALS_IN_A_ROW
                || health.is_unconfirmed.load(Ordering::Relaxed)
        };
        let each = Status::ALL.into_iter().zip(&self.outcomes);
        each.filter(|(_, health)| is_refused(health)).map(|(status, _)| status).collect()
    }

    fn kind(&self, kind: PublishKind) -> &KindHealth {
        match kind {
            PublishKind::Outcome => &self.outcome,
            PublishKind::Retry => &self.retry,
            PublishKind::DeadLetter => &self.dead_letter,
        }
    }

    fn outcome(&self, status: Status) -> Option<&OutcomeHealth> {
        let each = Status::ALL.into_iter().zip(&self.outcomes);
        each.into_iter().find(|(other, _)| *other == status).map(|(_, health)| health)
    }
}

impl KindHealth {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_fails_for_five_seconds_without_a_success_is_a_problem() {
        let health = PublishHealth::default();
        health.failed(PublishKind::Retry, "no queue");
        let later = Instant::now() + Duration::from_secs(6);
        assert_eq!(health.problem(), None);
        health.failed(PublishKind::Retry, "no queue at all");
        let problem = health.problem_at(later).expect("a problem");
        assert!(problem.ends_with("no queue at all"), "{problem}");
        health.published(PublishKind::DeadLetter);
        assert_eq!(health.problem_at(later), Some(problem));
        health.published(PublishKind::Retry);
        assert_eq!(health.problem_at(later), None);
    }

    #[test]
    fn outcomes_that_are_refused_three_times_in_a_row_are_named_until_one_is_confirmed() {
        let health = PublishHealth::default();
        let known: Vec<_> = (0..4).map(|_| health.outcome_refused(Status::Refused)).collect();
        assert_eq!(known, [false, false, false, true]);
        assert_eq!(health.refused_outcomes(), [Status::Refused]);
        health.outcome_confirmed(Status::Unlocked);
        assert_eq!(health.refused_outcomes(), [Status::Refused]);
        health.outcome_confirmed(Status::Refused);
        assert!(health.refused_outcomes().is_empty());
    }
}
