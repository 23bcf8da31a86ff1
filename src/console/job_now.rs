//! What jobs do now: who executes one holds the lock for changes, and RabbitMQ releases that when the process dies.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::{problem::Problem, records::Job};
use crate::{
    dead_letters::{DeadLetters, LockedBy},
    message::Timestamp,
};

/// A lock belongs to a job if it was taken within this time after the job began.
const LOCK_WINDOW: Duration = Duration::from_secs(120);
/// How long the name of the lock's holder is reused.
const CACHE_TTL: Duration = Duration::from_secs(1);

/// What a job does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// It stops after the current dead letter.
    Stopping,
    /// Its process has died.
    Interrupted,
    Ended,
}

/// A job, and what it does now.
#[derive(Clone, Debug)]
pub(super) struct JobNow {
    pub(super) job: Arc<Job>,
    pub(super) phase: Phase,
}

impl JobNow {
    /// `executes`: whether some process executes the job. A job that another one continues has ended, or was
    /// interrupted.
    pub(super) fn new(job: Arc<Job>, executes: bool) -> Self {
        let phase = match (&job.end, executes, &job.stop_asked_by) {
            (Some(_), ..) => Phase::Ended,
            (None, false, _) => Phase::Interrupted,
            (None, true, Some(_)) => Phase::Stopping,
            (None, true, None) => Phase::Running,
        };
        Self { job, phase }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopping)
    }

    /// Whether someone should resume it, or decide that no one will.
    pub(super) fn is_abandoned(&self) -> bool {
        self.phase == Phase::Interrupted && self.job.resumed_by.is_none()
    }
}

/// Whether only the lock can tell that a job runs.
pub(super) fn is_unclear(job: &Job) -> bool {
    job.end.is_none() && job.resumed_by.is_none() && !job.was_just_heard(Timestamp::now())
}

/// Whether the lock shows that a job runs. Someone who does not answer may be the job.
pub(super) fn is_lock_of<'a>(
    job: &Job,
    holder: &LockedBy,
    mut all: impl Iterator<Item = &'a Arc<Job>>,
) -> bool {
    let LockedBy::Known(holder) = holder else { return true };
    let Ok(since) = holder.since.parse::<Timestamp>() else { return false };
    let may_be = |job: &Job| {
        job.holder() == holder.actor && (job.started_at..=job.started_at.plus(LOCK_WINDOW)).contains(&since)
    };
    // If the same user has begun another one after it, that one has taken the lock.
    let is_later = |other: &Arc<Job>| other.started_at > job.started_at && may_be(other);
    may_be(job) && !all.any(is_later)
}

/// When RabbitMQ was asked, and the holder then.
type Answer = (Instant, Option<LockedBy>);

/// Who holds the lock for changes, asked at most once in a moment. Clones share the answer.
#[derive(Clone, Debug)]
pub(super) struct LockReader {
    dead_letters: DeadLetters,
    last: Arc<Mutex<Option<Answer>>>,
}

impl LockReader {
    pub(super) fn new(dead_letters: DeadLetters) -> Self {
        Self { dead_letters, last: Arc::default() }
    }

    /// `None` if no one changes dead letters.
    pub(super) async fn holder(&self) -> Result<Option<LockedBy>, Problem> {
        let mut last = self.last.lock().await;
        if let Some((_, holder)) = last.as_ref().filter(|(at, _)| at.elapsed() < CACHE_TTL) {
            return Ok(holder.clone());
        }
        let holder = self.dead_letters.change_holder().await?;
        *last = Some((Instant::now(), holder.clone()));
        Ok(holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        console::{
            events::{Began, Event, Record},
            records::Records,
        },
        dead_letters::{Action, Actor, DeadLetterId, Holder, Plan},
    };

    #[test]
    fn a_lock_belongs_to_the_last_job_that_its_holder_began_before_it() {
        let (mut records, begin) = (Records::default(), Timestamp::from_secs(1_000_000));
        let at = |seconds| begin.plus(Duration::from_secs(seconds));
        for (id, name, seconds) in [("a", "Anna", 0), ("b", "Anna", 60), ("c", "Bob", 61)] {
            let actor = Actor { name: name.to_owned(), via: "page" };
            let plan = Plan::new(Action::replay(), vec![DeadLetterId::from("x")]);
            let began = Began::new(id.to_owned(), &actor, &plan, None, None).expect("JSON");
            records.apply(Record { at: at(seconds), event: Event::Began(began) });
        }
        let owner = |actor: &str, since: Timestamp| {
            let (actor, doing) = (actor.to_owned(), "replay".to_owned());
            let holder = LockedBy::Known(Holder { actor, doing, since: since.to_string(), taken: None });
            let owners: Vec<_> = records
                .jobs()
                .filter(|job| is_lock_of(job, &holder, records.jobs()))
                .map(|job| job.id.as_str())
                .collect();
            owners.concat()
        };
        assert_eq!(owner("Anna by page", at(1)), "a");
        assert_eq!(owner("Anna by page", at(62)), "b", "the first one was interrupted");
        assert_eq!(owner("Bob by page", at(62)), "c");
        for (actor, since) in [("Anna by page", 181), ("Bob by page", 60), ("Bob by command line", 62)] {
            assert_eq!(owner(actor, at(since)), "", "{actor} since {since}");
        }
    }
}
