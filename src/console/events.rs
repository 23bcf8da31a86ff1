//! What consoles tell each other.

use serde::{Deserialize, Serialize};

use crate::{
    dead_letters::{Action, Actor, Finish, Plan, Step},
    message::Timestamp,
};

/// An event, and when it happened by the clock of its console.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) at: Timestamp,
    #[serde(flatten)]
    pub(super) event: Event,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// A job is about to execute.
    Began(Began),
    /// The next results of a job, in their order.
    Progress {
        job: String,
        steps: Vec<Step>,
    },
    /// Someone asks for a job to stop after the current dead letter.
    StopAsked {
        job: String,
        actor: String,
    },
    Ended {
        job: String,
        end: JobEnd,
    },
    /// A login session must not be used any more.
    LoggedOut {
        session: String,
    },
}

/// What is known of a job when it begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Began {
    pub(super) job: String,
    /// The name and role of the user.
    pub(super) actor: String,
    /// `page` or `api`.
    pub(super) via: String,
    /// As plans are stored, but without a correction.
    plan: serde_json::Value,
    #[serde(default)]
    pub(super) correction: Option<KeptCorrection>,
    /// The job that it continues.
    pub(super) resumes: Option<String>,
}

/// What a job corrects. The values may identify a customer, so they are kept with the plan, for a day, and not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptCorrection {
    /// The names of what is changed.
    pub(super) fields: Vec<String>,
    /// The digest of the job's own plan.
    pub(super) plan: String,
    /// The digest of the stored plan that has the values: a job that continues another has a plan of its own,
    /// which is not stored.
    pub(super) kept_in: String,
}

impl Began {
    /// `continues`: what the job that it continues corrects.
    pub(super) fn new(
        job: String,
        actor: &Actor,
        plan: &Plan,
        resumes: Option<String>,
        continues: Option<&KeptCorrection>,
    ) -> serde_json::Result<Self> {
        let correction = plan.action.correction().filter(|correction| !correction.is_empty());
        let (plan, correction) = match correction {
            None => (plan.encode()?, None),
            Some(correction) => {
                let kept = KeptCorrection {
                    fields: correction.fields().into_iter().map(str::to_owned).collect(),
                    plan: plan.digest.clone(),
                    kept_in: continues.map_or(&plan.digest, |continued| &continued.kept_in).clone(),
                };
                (Plan::new(Action::replay(), plan.ids.clone()).encode()?, Some(kept))
            }
        };
        let plan = serde_json::from_slice(&plan)?;
        let (actor, via) = (actor.name.clone(), actor.via.to_owned());
        Ok(Self { job, actor, via, plan, correction, resumes })
    }

    /// The plan without its correction; `None` if it was changed.
    pub(super) fn plan(&self) -> Option<Plan> {
        Plan::decode(&serde_json::to_vec(&self.plan).ok()?)
    }

    #[cfg(test)]
    pub(super) fn forge(&mut self) {
        self.plan["ids"][0] = "x".into();
    }
}

/// How a job ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JobEnd {
    Finished(Finish),
    /// It failed; what was done before stays done.
    Failed(String),
}
