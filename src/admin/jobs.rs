//! Plans that are carried out, one at a time, while people watch.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{looks::Looks, trouble::Trouble};
use crate::{
    dead_letters::{Actor, DeadLetters, Finish, Pace, Plan, Step},
    message::Timestamp,
};

/// Jobs that are remembered.
const MOST: usize = 20;

/// How a job stands.
#[derive(Clone, Debug)]
pub(super) enum State {
    Running,
    Stopping,
    Ended(Finish),
    Failed(String),
}

/// A plan that is carried out, or was.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub id: u64,
    pub plan: Arc<Plan>,
    pub actor: String,
    pub began: Timestamp,
    pub steps: Vec<Step>,
    pub state: State,
}

impl Job {
    pub(super) fn runs(&self) -> bool {
        matches!(self.state, State::Running | State::Stopping)
    }
}

/// All of them. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Jobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    letters: DeadLetters,
    looks: Looks,
    tasks: TaskTracker,
    /// Tells the running job to stop when the program does.
    stop: CancellationToken,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    last_id: u64,
    jobs: VecDeque<(Job, CancellationToken)>,
}

impl Jobs {
    pub(super) fn new(
        letters: DeadLetters,
        looks: Looks,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner { letters, looks, tasks, stop, book: Mutex::default() }))
    }

    /// Begins to carry out a plan; its job's number.
    pub(super) fn begin(&self, actor: Actor, plan: Plan, pace: Pace) -> Result<u64, Trouble> {
        let (plan, stop) = (Arc::new(plan), self.0.stop.child_token());
        let id = {
            let mut book = self.lock();
            if book.jobs.iter().any(|(job, _)| job.runs()) {
                return Err(Trouble::JobRunning);
            }
            book.last_id += 1;
            let id = book.last_id;
            let job = Job {
                id,
                plan: Arc::clone(&plan),
                actor: actor.name.clone(),
                began: Timestamp::now(),
                steps: Vec::new(),
                state: State::Running,
            };
            book.jobs.push_front((job, stop.clone()));
            book.jobs.truncate(MOST);
            id
        };
        let jobs = self.clone();
        let inner = Arc::clone(&self.0);
        // A panic in there must not leave a job that runs for ever.
        let work = self.0.tasks.spawn(async move {
            let progress = |step: &Step| jobs.change(id, |job| job.steps.push(step.clone()));
            inner.letters.carry_out(&actor, &plan, &pace, &stop, progress).await
        });
        let jobs = self.clone();
        self.0.tasks.spawn(async move {
            let state = match work.await {
                Ok(Ok(finish)) => State::Ended(finish),
                Ok(Err(error)) => State::Failed(error.to_string()),
                Err(panic) => State::Failed(panic.to_string()),
            };
            jobs.0.looks.forget().await;
            jobs.change(id, |job| job.state = state);
        });
        Ok(id)
    }

    /// Tells a job to stop after the letter it works on.
    pub(super) fn stop(&self, id: u64) -> Result<(), Trouble> {
        let mut book = self.lock();
        let (job, stop) = book.jobs.iter_mut().find(|(job, _)| job.id == id).ok_or_else(|| no_job(id))?;
        if matches!(job.state, State::Running) {
            job.state = State::Stopping;
        }
        stop.cancel();
        Ok(())
    }

    pub(super) fn find(&self, id: u64) -> Result<Job, Trouble> {
        let book = self.lock();
        let found = book.jobs.iter().find(|(job, _)| job.id == id).map(|(job, _)| job.clone());
        found.ok_or_else(|| no_job(id))
    }

    /// The one that runs.
    pub(super) fn running(&self) -> Option<u64> {
        self.lock().jobs.iter().find(|(job, _)| job.runs()).map(|(job, _)| job.id)
    }

    /// All that are remembered, the latest first.
    pub(super) fn all(&self) -> Vec<Job> {
        self.lock().jobs.iter().map(|(job, _)| job.clone()).collect()
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Job)) {
        if let Some((job, _)) = self.lock().jobs.iter_mut().find(|(job, _)| job.id == id) {
            change(job);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_job(id: u64) -> Trouble {
    Trouble::NotFound(format!("job {id} that is remembered"))
}
