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
    job_now::{JobNow, LockReader, Phase, is_lock_of, is_unclear},
    job_writer::{self, Update},
    log::ConsoleLog,
    problem::Problem,
    records::Job,
};
use crate::{
    dead_letters::{Action, Actor, DeadLetters, Plan, ReplayOptions, Step},
    message::Timestamp,
};

/// Hex digits of a job's id.
const ID_DIGITS: usize = 12;
/// How long to wait for the news of a job that was begun or changed.
const NEWS_TIMEOUT: Duration = Duration::from_secs(2);

/// All jobs. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Jobs {
    dead_letters: DeadLetters,
    reader: CachedReader,
    lock: LockReader,
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
            lock: LockReader::new(dead_letters.clone()),
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
        resumes: Option<Arc<Job>>,
    ) -> Result<JobNow, Problem> {
        // In its own task: if the client hangs up, the beginning of a job must not be stored that no one executes.
        let starting = tokio::spawn(self.clone().start_to_end(actor, plan, options, resumes));
        starting.await.map_err(|error| Problem::internal(&error))?
    }

    async fn start_to_end(
        self,
        actor: Actor,
        plan: Plan,
        options: ReplayOptions,
        resumes: Option<Arc<Job>>,
    ) -> Result<JobNow, Problem> {
        if let Some(JobNow { job, .. }) = self.all().await?.into_iter().find(JobNow::is_running) {
            let what =
                format!("{} has started a {}; jobs run one at a time.", job.holder(), job.plan.action.name());
            let advice = format!("Wait for job {}, or stop it.", job.id);
            return Err(Problem::new(StatusCode::CONFLICT, "job_running", what, advice));
        }
        let mut id = random().map_err(|error| Problem::internal(&error))?;
        id.truncate(ID_DIGITS);
        let continues = resumes.as_ref().and_then(|job| job.correction.as_ref());
        let resumes = resumes.as_ref().map(|job| job.id.clone());
        let began = Began::new(id.clone(), &actor, &plan, resumes, continues);
        let began = began.map_err(|error| Problem::internal(&error))?;
        // Without a record of its beginning no one could see it.
        if let Err(error) = self.log.append(Event::Began(began)).await {
            // RabbitMQ may store it later, for example after an alarm.
            let why = "RabbitMQ did not confirm its beginning in time, so it was not started".to_owned();
            tokio::spawn(job_writer::append(self.log, Event::Ended { job: id, end: JobEnd::Failed(why) }));
            return Err(error.into());
        }
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
        let now = self.find(id).await?;
        let conflict =
            |code, what: &str, advice: String| Err(Problem::new(StatusCode::CONFLICT, code, what, advice));
        let remaining = now.job.remaining();
        if let Some(other) = &now.job.resumed_by {
            return conflict("resumed", "Another job has continued this one.", format!("See job {other}."));
        }
        if remaining.is_empty() {
            return conflict(
                "nothing_remains",
                "Nothing of this job remains.",
                "Make a new plan.".to_owned(),
            );
        }
        let action = self.action_of(&now.job).await?;
        self.start(actor, Plan::new(action, remaining), options, Some(now.job)).await
    }

    /// What the job does, with the values of its correction.
    async fn action_of(&self, job: &Job) -> Result<Action, Problem> {
        let Some(correction) = &job.correction else { return Ok(job.plan.action.clone()) };
        let kept = self.reader.find_plan(&correction.kept_in).await.map_err(|problem| {
            if problem.status != StatusCode::NOT_FOUND {
                return problem;
            }
            let what = "The values of its correction are not there any more: they are kept for a day.";
            let advice = "Correct and replay each dead letter that remains.";
            Problem::new(StatusCode::CONFLICT, "correction_gone", what, advice)
        })?;
        Ok(kept.action)
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

    /// Asks a job to stop after the current dead letter, whichever process executes it. One that was interrupted
    /// ends, so that no one is asked to resume it.
    pub(super) async fn stop(&self, actor: &Actor, id: &str) -> Result<JobNow, Problem> {
        let now = self.find(id).await?;
        let job = id.to_owned();
        let event = match now.phase {
            Phase::Running => Event::StopAsked { job, actor: actor.name.clone() },
            Phase::Interrupted if now.is_abandoned() => {
                let why = format!("it was interrupted, and closed by {}", actor.name);
                Event::Ended { job, end: JobEnd::Failed(why) }
            }
            _ => return Ok(now),
        };
        self.log.append(event).await?;
        let asks = now.phase == Phase::Running;
        let asked = self.log.wait_for(|records| {
            let is_known = |job: &&Arc<Job>| asks && job.stop_asked_by.is_some() || job.end.is_some();
            records.job(id).filter(is_known).cloned()
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
        let jobs = self.log.read(|records| records.jobs().cloned().collect()).await?;
        self.now_of(jobs).await
    }

    /// As [`all`](Self::all), but does not wait for RabbitMQ to come back.
    pub(super) async fn all_at_once(&self) -> Result<Vec<JobNow>, Problem> {
        let jobs = self.log.read_at_once(|records| records.jobs().cloned().collect()).await?;
        self.now_of(jobs).await
    }

    async fn now(&self, job: Arc<Job>) -> Result<JobNow, Problem> {
        let mut now = self.now_of(vec![job]).await?;
        now.pop().ok_or_else(|| Problem::internal(&"no job"))
    }

    async fn now_of(&self, jobs: Vec<Arc<Job>>) -> Result<Vec<JobNow>, Problem> {
        let is_unclear = |job: &Arc<Job>| is_unclear(job) && !self.own().contains(&job.id);
        let holder = match jobs.iter().any(is_unclear) {
            true => self.lock.holder().await?,
            false => None,
        };
        let executes = |job: &Arc<Job>| match is_unclear(job) {
            true => holder
                .as_ref()
                .is_some_and(|holder| self.log.look(|records| is_lock_of(job, holder, records.jobs()))),
            false => self.own().contains(&job.id) || job.was_just_heard(Timestamp::now()),
        };
        let now = jobs.into_iter().map(|job| {
            let executes = executes(&job);
            JobNow::new(job, executes)
        });
        Ok(now.collect())
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
