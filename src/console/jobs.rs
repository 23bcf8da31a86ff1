//! Executes plans in the background, one at a time, until they are complete or stopped. What they have done is in
//! the consoles' log, so that every console can show it, and resume it if this process dies.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    access::random,
    cached_reader::CachedReader,
    events::{Began, Event, JobEnd},
    job_writer::{self, Update},
    log::ConsoleLog,
    problem::Problem,
    records::Job,
};
use crate::{
    dead_letters::{Actor, DeadLetters, LockedBy, Plan, ReplayOptions, Step},
    message::Timestamp,
};

/// Hex digits of a job's id.
const ID_DIGITS: usize = 12;
/// How long to wait for the news of a job that was begun or changed.
const NEWS_TIMEOUT: Duration = Duration::from_secs(2);
/// A lock belongs to a job if it was taken within this time after the job began.
const LOCK_WINDOW: Duration = Duration::from_secs(120);

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
    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopping)
    }
}

/// All jobs. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Jobs {
    dead_letters: DeadLetters,
    reader: CachedReader,
    log: ConsoleLog,
    /// Stops those of this process.
    stop: CancellationToken,
    running: TaskTracker,
    /// The ids of those that this process executes.
    own: Arc<Mutex<HashSet<String>>>,
}

impl Jobs {
    pub(super) fn new(dead_letters: DeadLetters, reader: CachedReader, log: ConsoleLog) -> Self {
        Self {
            dead_letters,
            reader,
            log,
            stop: CancellationToken::new(),
            running: TaskTracker::new(),
            own: Arc::default(),
        }
    }

    /// Starts to execute a plan, unless another job is running. `resumes`: the job that it continues.
    pub(super) async fn start(
        &self,
        actor: Actor,
        plan: Plan,
        options: ReplayOptions,
        resumes: Option<String>,
    ) -> Result<JobNow, Problem> {
        if let Some(JobNow { job, .. }) = self.all().await?.into_iter().find(JobNow::is_running) {
            let what =
                format!("{} has started a {}; jobs run one at a time.", job.holder(), job.plan.action.name());
            let advice = format!("Wait for job {}, or stop it.", job.id);
            return Err(Problem::new(StatusCode::CONFLICT, "job_running", what, advice));
        }
        let mut id = random().map_err(|error| Problem::internal(&error))?;
        id.truncate(ID_DIGITS);
        let began =
            Began::new(id.clone(), &actor, &plan, resumes).map_err(|error| Problem::internal(&error))?;
        // Without a record of its beginning no one could see it.
        self.log.append(Event::Began(began)).await?;
        self.own().insert(id.clone());
        self.running.spawn(self.clone().execute(id.clone(), actor, plan, options));
        let begun = self.log.wait_for(|records| records.job(&id).cloned());
        match tokio::time::timeout(NEWS_TIMEOUT, begun).await {
            Ok(job) => Ok(JobNow { job, phase: Phase::Running }),
            Err(_elapsed) => Err(not_known()),
        }
    }

    /// Starts to execute what remains of a job that has ended or was interrupted.
    pub(super) async fn resume(
        &self,
        actor: Actor,
        id: &str,
        options: ReplayOptions,
    ) -> Result<JobNow, Problem> {
        let JobNow { job, .. } = self.find(id).await?;
        let remaining = job.remaining();
        if remaining.is_empty() {
            let what = "Nothing of this job remains.";
            return Err(Problem::new(StatusCode::CONFLICT, "nothing_remains", what, "Make a new plan."));
        }
        let plan = Plan::new(job.plan.action.clone(), remaining);
        self.start(actor, plan, options, Some(job.id.clone())).await
    }

    async fn execute(self, id: String, actor: Actor, plan: Plan, options: ReplayOptions) {
        self.reader.invalidate().await;
        let stop = self.stop.child_token();
        let (report, reported) = mpsc::unbounded_channel();
        let writer = tokio::spawn(job_writer::write(self.log.clone(), id.clone(), reported));
        // In its own task, so that the job ends even after a panic.
        let mut executed = tokio::spawn({
            let (dead_letters, stop, report) = (self.dead_letters.clone(), stop.clone(), report.clone());
            async move {
                // The writer ends after the end of the job.
                let report = |step: &Step| drop(report.send(Update::Step(step.clone())));
                dead_letters.execute(&actor, &plan, &options, &stop, report).await
            }
        });
        let stop_asked = self
            .log
            .wait_for(|records| records.job(&id).and_then(|job| job.stop_asked_by.as_ref()).map(|_actor| ()));
        let ended = tokio::select! {
            ended = &mut executed => ended,
            () = stop_asked => {
                stop.cancel();
                executed.await
            }
        };
        let end = match ended {
            Ok(Ok(finish)) => JobEnd::Finished(finish),
            Ok(Err(error)) => JobEnd::Failed(error.to_string()),
            Err(panic) => JobEnd::Failed(panic.to_string()),
        };
        self.reader.invalidate().await;
        drop(report.send(Update::End(end)));
        if let Err(error) = writer.await {
            tracing::error!(event = "task_panicked", %error, "the results of a job are not stored");
        }
        self.own().remove(&id);
    }

    /// Asks a job to stop after the current dead letter, whichever process executes it.
    pub(super) async fn stop(&self, actor: &Actor, id: &str) -> Result<JobNow, Problem> {
        let now = self.find(id).await?;
        if now.phase != Phase::Running {
            return Ok(now);
        }
        self.log.append(Event::StopAsked { job: id.to_owned(), actor: actor.name.clone() }).await?;
        let asked = self.log.wait_for(|records| {
            records.job(id).filter(|job| job.stop_asked_by.is_some() || job.end.is_some()).cloned()
        });
        match tokio::time::timeout(NEWS_TIMEOUT, asked).await {
            Ok(job) => self.now(job).await,
            Err(_elapsed) => Err(not_known()),
        }
    }

    pub(super) async fn find(&self, id: &str) -> Result<JobNow, Problem> {
        let found = self.log.read(|records| records.job(id).cloned()).await?;
        // Another console may just have begun it.
        let found = match found {
            None if is_id(id) => {
                let news = self.log.wait_for(|records| records.job(id).cloned());
                tokio::time::timeout(NEWS_TIMEOUT, news).await.ok()
            }
            found => found,
        };
        match found {
            Some(job) => self.now(job).await,
            None => {
                let what = "There is no such job.";
                let advice = "The list has the last twenty jobs of a week; the audit log has all of them.";
                Err(Problem::new(StatusCode::NOT_FOUND, "not_found", what, advice))
            }
        }
    }

    /// All jobs, the newest first.
    pub(super) async fn all(&self) -> Result<Vec<JobNow>, Problem> {
        let jobs: Vec<_> = self.log.read(|records| records.jobs().cloned().collect()).await?;
        let mut all = Vec::with_capacity(jobs.len());
        for job in jobs {
            all.push(self.now(job).await?);
        }
        Ok(all)
    }

    /// What a job does now. A job holds the lock for changes while it runs, and RabbitMQ releases that when the
    /// process dies.
    async fn now(&self, job: Arc<Job>) -> Result<JobNow, Problem> {
        let runs = match &job.end {
            Some(_) => return Ok(JobNow { job, phase: Phase::Ended }),
            None if self.own().contains(&job.id) || job.was_just_heard(Timestamp::now()) => true,
            None => {
                let holder = self.dead_letters.change_holder().await?;
                holder.is_some_and(|holder| is_lock_of(&job, &holder))
            }
        };
        let phase = match (runs, &job.stop_asked_by) {
            (false, _) => Phase::Interrupted,
            (true, Some(_)) => Phase::Stopping,
            (true, None) => Phase::Running,
        };
        Ok(JobNow { job, phase })
    }

    /// How many jobs this process executes now.
    pub(super) fn own_running(&self) -> usize {
        self.own().len()
    }

    /// Stops the jobs of this process after their current dead letters.
    pub(super) fn stop_all(&self) {
        self.stop.cancel();
    }

    /// Waits until this process executes none. Stop them first.
    pub(super) async fn wait_until_ended(&self) {
        self.running.close();
        self.running.wait().await;
    }

    fn own(&self) -> MutexGuard<'_, HashSet<String>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the job's process has taken the lock. Someone who does not answer may be the job.
fn is_lock_of(job: &Job, holder: &LockedBy) -> bool {
    let LockedBy::Known(holder) = holder else { return true };
    let since = holder.since.parse::<Timestamp>();
    let is_in_time = since.is_ok_and(|since| {
        since >= job.started_at.minus(LOCK_WINDOW) && since <= job.started_at.plus(LOCK_WINDOW)
    });
    holder.actor == job.holder() && is_in_time
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn not_known() -> Problem {
    let what = "RabbitMQ has stored what you asked for, but has not sent it back yet.";
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "console_log",
        what,
        "Look at the list of jobs in a moment.",
    )
}
