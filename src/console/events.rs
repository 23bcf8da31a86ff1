//! What consoles tell each other.

use serde::{Deserialize, Serialize};

use crate::{
    dead_letters::{Actor, Finish, Plan, Step},
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
    plan: serde_json::Value,
    /// The job that it continues.
    pub(super) resumes: Option<String>,
}

impl Began {
    pub(super) fn new(
        job: String,
        actor: &Actor,
        plan: &Plan,
        resumes: Option<String>,
    ) -> serde_json::Result<Self> {
        // As plans are stored: with the whole correction.
        let plan = serde_json::from_slice(&plan.encode()?)?;
        Ok(Self { job, actor: actor.name.clone(), via: actor.via.to_owned(), plan, resumes })
    }

    /// The plan; `None` if it was changed.
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
