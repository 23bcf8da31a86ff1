//! Plans being carried out: one at a time, in the background, until they are done or told to stop.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{access::random, looks::Looks, problem::Problem};
use crate::{
    dead_letters::{Actor, DeadLetters, Finish, Pace, Plan, Step},
    message::Timestamp,
};

/// The most jobs that are remembered.
const REMEMBERED: usize = 20;
/// Hex digits of a job's id.
const ID_DIGITS: usize = 12;

/// How a job ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    Finished(Finish),
    /// It failed half-way; what was done stays done.
    Failed(String),
}

/// How far a job has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) steps: Vec<Step>,
    pub(super) end: Option<End>,
}

/// A plan that is being, or was, carried out.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) plan: Plan,
    pub(super) actor: Actor,
    pub(super) begun: Timestamp,
    stop: CancellationToken,
    progress: Mutex<Progress>,
}

impl Job {
    pub(super) fn progress(&self) -> Progress {
        self.lock().clone()
    }

    pub(super) fn is_running(&self) -> bool {
        self.lock().end.is_none()
    }

    pub(super) fn is_told_to_stop(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells it to stop between two letters.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All jobs, the newest first; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Jobs {
    letters: DeadLetters,
    looks: Looks,
    /// Tells all of them to stop.
    stop: CancellationToken,
    running: TaskTracker,
    jobs: Arc<Mutex<VecDeque<Arc<Job>>>>,
}

impl Jobs {
    pub(super) fn new(letters: DeadLetters, looks: Looks, stop: CancellationToken) -> Self {
        Self { letters, looks, stop, running: TaskTracker::new(), jobs: Arc::default() }
    }

    /// Begins to carry a plan out, unless another one is.
    pub(super) fn begin(&self, actor: Actor, plan: Plan, pace: Pace) -> Result<Arc<Job>, Problem> {
        let mut id = random().map_err(|error| Problem::internal(&error))?;
        id.truncate(ID_DIGITS);
        let stop = self.stop.child_token();
        let begun = Timestamp::now();
        let job = Arc::new(Job { id, plan, actor, begun, stop, progress: Mutex::default() });
        {
            let mut jobs = self.lock();
            if let Some(running) = jobs.iter().find(|job| job.is_running()) {
                let (actor, action) = (&running.actor, running.plan.action.name());
                let what = format!("{actor} has begun a {action}, and one is carried out at a time.");
                let advice = format!("Wait for job {}, or stop it.", running.id);
                return Err(Problem::new(StatusCode::CONFLICT, "job_running", what, advice));
            }
            jobs.push_front(Arc::clone(&job));
            jobs.truncate(REMEMBERED);
        }
        self.running.spawn(self.clone().carry_out(Arc::clone(&job), pace));
        Ok(job)
    }

    async fn carry_out(self, job: Arc<Job>, pace: Pace) {
        self.looks.forget().await;
        // In a task of its own, so that not even a panic leaves it running for ever.
        let carried = tokio::spawn({
            let (letters, job) = (self.letters.clone(), Arc::clone(&job));
            async move {
                let tell = |step: &Step| job.lock().steps.push(step.clone());
                letters.carry_out(&job.actor, &job.plan, &pace, &job.stop, tell).await
            }
        });
        let end = match carried.await {
            Ok(Ok(finish)) => End::Finished(finish),
            Ok(Err(error)) => End::Failed(error.to_string()),
            Err(panic) => End::Failed(panic.to_string()),
        };
        self.looks.forget().await;
        job.lock().end = Some(end);
    }

    pub(super) fn find(&self, id: &str) -> Result<Arc<Job>, Problem> {
        let job = self.lock().iter().find(|job| job.id == id).cloned();
        job.ok_or_else(|| {
            let what = "There is no such job.";
            let advice = "Jobs are forgotten when the worker restarts; the audit log has them all.";
            Problem::new(StatusCode::NOT_FOUND, "not_found", what, advice)
        })
    }

    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.lock().iter().cloned().collect()
    }

    /// Waits until none is running, after they were told to stop.
    pub(super) async fn ended(&self) {
        self.running.close();
        self.running.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
