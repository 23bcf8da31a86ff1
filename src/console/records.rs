//! The jobs of all consoles, and the sessions that were logged out, as their events tell it. Pure.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    events::{Began, Event, JobEnd, KeptCorrection, Record},
    sessions::MAX_LIFETIME,
};
use crate::{
    dead_letters::{DeadLetterId, Plan, Step, StepResult},
    message::Timestamp,
};

/// The most jobs that are known; older ones are dropped.
const MAX_JOBS: usize = 20;
/// How long a job that was heard of may be silent without a lock: it connects first, and tells its end after it
/// has released its lock.
const SILENCE: Duration = Duration::from_secs(5);

/// How much the clocks of two processes may differ.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// A plan that some console executes or has executed.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: String,
    /// Without its correction.
    pub(super) plan: Arc<Plan>,
    pub(super) correction: Option<KeptCorrection>,
    /// The name and role of the user.
    pub(super) actor: String,
    pub(super) via: String,
    pub(super) started_at: Timestamp,
    /// The job that it continues.
    pub(super) resumes: Option<String>,
    /// The job that continues this one.
    pub(super) resumed_by: Option<String>,
    /// The results so far, in their order.
    pub(super) steps: Vec<Step>,
    pub(super) stop_asked_by: Option<String>,
    pub(super) end: Option<JobEnd>,
    /// When it was last heard of.
    heard_at: Timestamp,
}

impl Job {
    fn new(at: Timestamp, began: &Began, plan: Plan) -> Self {
        Self {
            id: began.job.clone(),
            plan: Arc::new(plan),
            correction: began.correction.clone(),
            actor: began.actor.clone(),
            via: began.via.clone(),
            started_at: at,
            resumes: began.resumes.clone(),
            resumed_by: None,
            steps: Vec::new(),
            stop_asked_by: None,
            end: None,
            heard_at: at,
        }
    }

    /// The digest of its plan.
    pub(super) fn digest(&self) -> &str {
        self.correction.as_ref().map_or(&self.plan.digest, |correction| &correction.plan)
    }

    /// Who executes it, as locks name them.
    pub(super) fn holder(&self) -> String {
        format!("{} by {}", self.actor, self.via)
    }

    /// Whether it was heard of so recently that it runs, whatever the lock says.
    pub(super) fn was_just_heard(&self, now: Timestamp) -> bool {
        now.minus(SILENCE) < self.heard_at
    }

    /// Whether it may have replayed or discarded the request that ended at this time. The clocks of a worker and a
    /// console may differ a little.
    pub(super) fn may_have_changed(&self, request_id: &str, ended_at: Timestamp) -> bool {
        let is_in_time =
            ended_at.plus(CLOCK_SKEW) >= self.started_at && ended_at <= self.heard_at.plus(CLOCK_SKEW);
        let changed = |step: &&Step| step.request_id.as_deref() == Some(request_id);
        // Without an outcome in time, it came later.
        let changed = self.steps.iter().find(changed);
        changed.is_some_and(|step| {
            is_in_time || matches!(step.result, StepResult::Pending) && ended_at >= self.started_at
        })
    }

    /// The dead letters of its plan that are in the queue, as far as is known.
    pub(super) fn remaining(&self) -> Vec<DeadLetterId> {
        let is_done =
            |step: &&Step| !matches!(step.result, StepResult::OutOfReach | StepResult::PublishFailed { .. });
        let done: HashSet<_> = self.steps.iter().filter(is_done).map(|step| &step.id).collect();
        self.plan.ids.iter().filter(|id| !done.contains(id)).cloned().collect()
    }
}

/// What is known of all consoles.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// The newest first.
    jobs: VecDeque<Arc<Job>>,
    logged_out: HashMap<String, Timestamp>,
}

impl Records {
    pub(super) fn apply(&mut self, Record { at, event }: Record) {
        match event {
            Event::Began(began) => {
                let is_new = self.job(&began.job).is_none();
                if let Some(plan) = began.plan().filter(|_| is_new) {
                    let resumed = began.resumes.as_ref();
                    if let Some(job) = self.jobs.iter_mut().find(|job| Some(&job.id) == resumed) {
                        Arc::make_mut(job).resumed_by = Some(began.job.clone());
                    }
                    self.jobs.push_front(Arc::new(Job::new(at, &began, plan)));
                    self.jobs.truncate(MAX_JOBS);
                }
            }
            Event::Progress { job, steps } => self.update(at, &job, |job| job.steps.extend(steps)),
            Event::StopAsked { job, actor } => self.update(at, &job, |job| job.stop_asked_by = Some(actor)),
            Event::Ended { job, end } => self.update(at, &job, |job| job.end = Some(end)),
            Event::LoggedOut { session } => {
                // Older sessions have ended anyway.
                self.logged_out.retain(|_, ended| at.minus(MAX_LIFETIME) < *ended);
                self.logged_out.insert(session, at);
            }
        }
    }

    fn update(&mut self, at: Timestamp, id: &str, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id && job.end.is_none()) {
            let job = Arc::make_mut(job);
            job.heard_at = job.heard_at.max(at);
            change(job);
        }
    }

    pub(super) fn job(&self, id: &str) -> Option<&Arc<Job>> {
        self.jobs.iter().find(|job| job.id == id)
    }

    /// All jobs, the newest first.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.iter()
    }

    pub(super) fn is_logged_out(&self, session: &str) -> bool {
        self.logged_out.contains_key(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::{Action, Actor};

    fn ids(ids: &[&str]) -> Vec<DeadLetterId> {
        ids.iter().map(|id| DeadLetterId::from(*id)).collect()
    }

    fn step(id: &str, result: StepResult) -> Step {
        Step { id: id.into(), request_id: Some("r".to_owned()), result }
    }

    /// What another console reads.
    fn sent(at: Timestamp, event: Event) -> Record {
        let bytes = serde_json::to_vec(&Record { at, event }).expect("JSON");
        serde_json::from_slice(&bytes).expect("the same event")
    }

    fn began(id: &str, at: Timestamp) -> Record {
        let actor = Actor { name: "Anna (operator)".to_owned(), via: "page" };
        let plan = Plan::new(Action::replay(), ids(&["a", "b", "c", "d"]));
        sent(at, Event::Began(Began::new(id.to_owned(), &actor, &plan, None, None).expect("JSON")))
    }

    #[test]
    fn the_events_of_a_job_tell_what_it_has_done_and_what_remains() {
        let (mut records, at) = (Records::default(), Timestamp::from_secs(1_000_000));
        records.apply(began("j", at));
        let failed =
            StepResult::FailedAgain { status: "refused".to_owned(), reason: Some("http_404".to_owned()) };
        let publish_failed = StepResult::PublishFailed { why: "returned".to_owned() };
        let steps = vec![step("a", StepResult::Unlocked), step("b", failed), step("c", publish_failed)];
        let later = at.plus(Duration::from_secs(60));
        records.apply(sent(later, Event::Progress { job: "j".to_owned(), steps: steps.clone() }));
        records.apply(sent(later, Event::Progress { job: "other".to_owned(), steps: Vec::new() }));
        let job = records.job("j").expect("the job");
        assert_eq!(
            (&job.steps, job.started_at, job.holder().as_str()),
            (&steps, at, "Anna (operator) by page")
        );
        assert_eq!(job.remaining(), ids(&["c", "d"]));
        assert!(job.was_just_heard(later.plus(Duration::from_secs(4))));
        assert!(!job.was_just_heard(later.plus(Duration::from_secs(6))));
        let stop = Event::StopAsked { job: "j".to_owned(), actor: "Bob (operator)".to_owned() };
        records.apply(sent(later, stop));
        let end = JobEnd::Failed("the connection is lost".to_owned());
        records.apply(sent(later, Event::Ended { job: "j".to_owned(), end }));
        let job = records.job("j").expect("the job");
        assert_eq!(job.stop_asked_by.as_deref(), Some("Bob (operator)"));
        assert!(matches!(&job.end, Some(JobEnd::Failed(why)) if why == "the connection is lost"));
    }

    #[test]
    fn a_job_has_changed_a_request_only_while_it_ran_or_if_the_outcome_came_late() {
        let (mut records, at) = (Records::default(), Timestamp::from_secs(1_000_000));
        records.apply(began("j", at));
        let steps = vec![step("a", StepResult::Unlocked)];
        let pending =
            Step { id: "b".into(), request_id: Some("late".to_owned()), result: StepResult::Pending };
        let end = at.plus(Duration::from_secs(60));
        let steps = [steps, vec![pending]].concat();
        records.apply(sent(end, Event::Progress { job: "j".to_owned(), steps }));
        let job = records.job("j").expect("the job");
        let seconds = |seconds| at.plus(Duration::from_secs(seconds));
        assert!(job.may_have_changed("r", at.minus(Duration::from_secs(4))), "the clocks differ a little");
        assert!(job.may_have_changed("r", seconds(30)));
        for other in [at.minus(Duration::from_secs(6)), seconds(70)] {
            assert!(!job.may_have_changed("r", other), "someone else did it by the command line");
        }
        assert!(job.may_have_changed("late", seconds(3_600)));
        assert!(!job.may_have_changed("another", seconds(30)));
    }

    #[test]
    fn a_job_that_another_one_continues_names_it() {
        let (mut records, at) = (Records::default(), Timestamp::from_secs(1_000_000));
        records.apply(began("j", at));
        let actor = Actor { name: "Bob (operator)".to_owned(), via: "page" };
        let plan = Plan::new(Action::replay(), ids(&["c", "d"]));
        let began = Began::new("k".to_owned(), &actor, &plan, Some("j".to_owned()), None).expect("JSON");
        records.apply(sent(at, Event::Began(began)));
        assert_eq!(records.job("j").and_then(|job| job.resumed_by.as_deref()), Some("k"));
        assert_eq!(records.job("k").and_then(|job| job.resumes.as_deref()), Some("j"));
    }

    #[test]
    fn no_event_has_a_value_of_a_correction() {
        let at = Timestamp::from_secs(1_000_000);
        let actor = Actor { name: "Anna (operator)".to_owned(), via: "page" };
        let mut correction = crate::message::Correction::default();
        correction.set("customer_id", "4711").expect("a field");
        let plan = Plan::new(Action::Replay { correction }, ids(&["a", "b"]));
        let began = Began::new("j".to_owned(), &actor, &plan, None, None).expect("JSON");
        assert!(!serde_json::to_string(&began).expect("JSON").contains("4711"));
        let mut records = Records::default();
        records.apply(sent(at, Event::Began(began)));
        let job = records.job("j").expect("the job");
        assert_eq!((job.digest(), job.remaining()), (plan.digest.as_str(), plan.ids.clone()));
        let kept = job.correction.as_ref().expect("what it changes");
        assert_eq!((kept.fields.as_slice(), &kept.kept_in), (&["customer_id".to_owned()][..], &plan.digest));
        // Its own plan is not stored, so it names where the values are.
        let rest = Plan::new(plan.action.clone(), ids(&["b"]));
        let next = Began::new("k".to_owned(), &actor, &rest, None, Some(kept)).expect("JSON");
        let next = next.correction.expect("what it changes");
        assert_eq!((next.plan, next.kept_in), (rest.digest, plan.digest));
    }

    #[test]
    fn the_newest_jobs_are_known_and_each_once() {
        let (mut records, at) = (Records::default(), Timestamp::from_secs(1_000_000));
        for n in 0..25 {
            records.apply(began(&format!("j{n}"), at));
            records.apply(began(&format!("j{n}"), at));
        }
        let known: Vec<_> = records.jobs().map(|job| job.id.as_str()).collect();
        assert_eq!((known.len(), known[0], known[19]), (20, "j24", "j5"));
    }

    #[test]
    fn a_plan_that_was_changed_makes_no_job() {
        let (mut records, at) = (Records::default(), Timestamp::from_secs(1_000_000));
        let mut record = began("j", at);
        if let Event::Began(began) = &mut record.event {
            began.forge();
        }
        records.apply(record);
        assert!(records.job("j").is_none());
    }

    #[test]
    fn a_logout_is_known_as_long_as_a_session_could_last() {
        let (mut records, at) = (Records::default(), Timestamp::from_secs(1_000_000));
        let out = |at, session: &str| sent(at, Event::LoggedOut { session: session.to_owned() });
        records.apply(out(at, "a"));
        records.apply(out(at.plus(MAX_LIFETIME - Duration::from_secs(1)), "b"));
        assert!(records.is_logged_out("a") && records.is_logged_out("b") && !records.is_logged_out("c"));
        records.apply(out(at.plus(MAX_LIFETIME), "c"));
        assert!(!records.is_logged_out("a") && records.is_logged_out("b"));
    }
}
