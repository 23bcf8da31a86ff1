//! Executes plans in the background, one at a time, until they are complete or stopped.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{access::random, cached_reader::CachedReader, problem::Problem};
use crate::{
    dead_letters::{Actor, DeadLetters, Finish, Plan, ReplayOptions, Step},
    message::Timestamp,
};

/// The most jobs in the list; older ones are dropped.
const MAX_JOBS: usize = 20;
/// Hex digits of a job's id.
const ID_DIGITS: usize = 12;

/// How a job ended.
#[derive(Clone, Debug)]
pub(super) enum JobEnd {
    Finished(Finish),
    /// It failed; what was done before stays done.
    Failed(String),
}

/// The results of a job so far.
#[derive(Clone, Debug, Default)]
pub(super) struct JobProgress {
    pub(super) steps: Vec<Step>,
    pub(super) end: Option<JobEnd>,
}

/// A plan that is executing or has ended.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) plan: Plan,
    pub(super) actor: Actor,
    pub(super) started_at: Timestamp,
    stop: CancellationToken,
    progress: Mutex<JobProgress>,
}

impl Job {
    pub(super) fn progress(&self) -> JobProgress {
        self.lock().clone()
    }

    pub(super) fn is_running(&self) -> bool {
        self.lock().end.is_none()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Stops it after the current dead letter.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, JobProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All jobs, the newest first. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Jobs {
    dead_letters: DeadLetters,
    reader: CachedReader,
    /// Stops all of them.
    stop: CancellationToken,
    running: TaskTracker,
    jobs: Arc<Mutex<VecDeque<Arc<Job>>>>,
}

impl Jobs {
    pub(super) fn new(dead_letters: DeadLetters, reader: CachedReader, stop: CancellationToken) -> Self {
        Self { dead_letters, reader, stop, running: TaskTracker::new(), jobs: Arc::default() }
    }

    /// Starts to execute a plan, unless another job is running.
    pub(super) fn start(
        &self,
        actor: Actor,
        plan: Plan,
        options: ReplayOptions,
    ) -> Result<Arc<Job>, Problem> {
        let mut id = random().map_err(|error| Problem::internal(&error))?;
        id.truncate(ID_DIGITS);
        let stop = self.stop.child_token();
        let started_at = Timestamp::now();
        let job = Arc::new(Job { id, plan, actor, started_at, stop, progress: Mutex::default() });
        {
            let mut jobs = self.lock();
            if let Some(running) = jobs.iter().find(|job| job.is_running()) {
                let (actor, action) = (&running.actor, running.plan.action.name());
                let what = format!("{actor} has started a {action}; jobs run one at a time.");
                let advice = format!("Wait for job {}, or stop it.", running.id);
                return Err(Problem::new(StatusCode::CONFLICT, "job_running", what, advice));
            }
            jobs.push_front(Arc::clone(&job));
            jobs.truncate(MAX_JOBS);
        }
        self.running.spawn(self.clone().execute(Arc::clone(&job), options));
        Ok(job)
    }

    async fn execute(self, job: Arc<Job>, options: ReplayOptions) {
        self.reader.invalidate().await;
        // In its own task, so that the job ends even after a panic.
        let executed = tokio::spawn({
            let (dead_letters, job) = (self.dead_letters.clone(), Arc::clone(&job));
            async move {
                let report = |step: &Step| job.lock().steps.push(step.clone());
                dead_letters.execute(&job.actor, &job.plan, &options, &job.stop, report).await
            }
        });
        let end = match executed.await {
            Ok(Ok(finish)) => JobEnd::Finished(finish),
            Ok(Err(error)) => JobEnd::Failed(error.to_string()),
            Err(panic) => JobEnd::Failed(panic.to_string()),
        };
        self.reader.invalidate().await;
        job.lock().end = Some(end);
    }

    pub(super) fn find(&self, id: &str) -> Result<Arc<Job>, Problem> {
        let job = self.lock().iter().find(|job| job.id == id).cloned();
        job.ok_or_else(|| {
            let what = "There is no such job.";
            let advice = "The list of jobs is lost when the worker restarts; the audit log has all of them.";
            Problem::new(StatusCode::NOT_FOUND, "not_found", what, advice)
        })
    }

    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.lock().iter().cloned().collect()
    }

    /// Waits until none is running. Stop them first.
    pub(super) async fn wait_until_ended(&self) {
        self.running.close();
        self.running.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
