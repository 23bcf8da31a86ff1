//! Dead letters, for people: look at them, replay them, discard them. One implementation for the
//! command line and the page, straight on the broker, also while no worker runs.
//!
//! A look takes all letters without acknowledging them and gives them back by closing its channels,
//! which keeps their order and costs nothing but a delivery of the billion they have. Who looks or
//! changes holds a lock meanwhile, as two who take letters at once see half of them each.
//!
//! A change goes by a [`Plan`]: the ids of the letters, frozen, and their digest. Each letter leaves
//! the queue only after its new copy is confirmed.

pub mod audit;
mod carry_out;
mod desk;
pub mod filter;
pub mod letter;
mod lock;
pub mod plan;
mod replay;
mod scan;
mod shelf;
pub mod summary;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::{audit::Deed, desk::Desk, scan::Ids, summary::Summing};
pub use self::{
    audit::{Actor, Audit, AuditError},
    carry_out::{Ended, Finish, Pace, Step, StepResult},
    desk::DeskError,
    filter::Filter,
    letter::{Brief, Letter, LetterId},
    lock::{Holder, TakenBy},
    plan::{Action, Plan},
    scan::{Extent, Stopped},
    summary::{Group, Summary},
};
use crate::{broker::Topology, settings::BrokerSettings};

/// What could not be done with the dead letters, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Desk(#[from] DeskError),
    #[error("nothing is done, as the audit log cannot be written: {0}")]
    Audit(#[from] AuditError),
    #[error(
        "there is no plan {0}: it may be older than a day, or of another RabbitMQ or prefix; plan \
         again, without --confirm"
    )]
    NoPlan(String),
    #[error("{0}")]
    Sink(#[from] std::io::Error),
}

/// Letters as a look found them, oldest first.
#[derive(Clone, Debug)]
pub struct Listing<T> {
    pub letters: Vec<T>,
    pub extent: Extent,
}

/// The dead letters of one prefix on one broker. Clones share the audit log.
#[derive(Clone, Debug)]
pub struct DeadLetters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: BrokerSettings,
    topology: Topology,
    audit: Audit,
}

impl DeadLetters {
    #[must_use]
    pub fn new(settings: BrokerSettings, audit: Audit) -> Self {
        let topology = Topology::new(&settings.topology_prefix);
        Self(Arc::new(Inner { settings, topology, audit }))
    }

    /// Shows each letter to `see`, oldest first.
    ///
    /// # Errors
    /// If the queue cannot be looked at.
    pub async fn look(&self, actor: &Actor, see: impl FnMut(Letter) -> bool) -> Result<Extent, Error> {
        self.look_for(actor, Ids::Given, see).await
    }

    async fn look_for(
        &self,
        actor: &Actor,
        ids: Ids,
        see: impl FnMut(Letter) -> bool,
    ) -> Result<Extent, Error> {
        let desk = self.0.desk(actor, "look").await?;
        let looked = desk.look(ids, see).await;
        desk.close().await;
        Ok(looked?)
    }

    /// How many there are, by status and reason.
    ///
    /// # Errors
    /// If the queue cannot be looked at.
    pub async fn summary(&self, actor: &Actor, filter: &Filter) -> Result<Summary, Error> {
        let mut summing = Summing::default();
        let mut room = filter.room();
        let ids = if filter.ids.is_empty() { Ids::None } else { Ids::Given };
        let extent = self
            .look_for(actor, ids, |letter| {
                if filter.matches(&letter.brief) {
                    summing.add(&letter.brief);
                    room -= 1;
                }
                room > 0
            })
            .await?;
        Ok(summing.finish(extent))
    }

    /// What there is to be known of each without its body and headers.
    ///
    /// # Errors
    /// If the queue cannot be looked at.
    pub async fn list(&self, actor: &Actor, filter: &Filter) -> Result<Listing<Brief>, Error> {
        let mut letters = Vec::new();
        let extent = self
            .look(actor, |letter| {
                if filter.matches(&letter.brief) {
                    letters.push(letter.brief);
                }
                letters.len() < filter.room()
            })
            .await?;
        Ok(Listing { letters, extent })
    }

    /// All letters with this id, or of the request with this id, with everything they hold.
    ///
    /// # Errors
    /// If the audit log or the queue fails.
    pub async fn show(&self, actor: &Actor, id: &str) -> Result<Listing<Letter>, Error> {
        self.0.audit.write(actor, &Deed::Show { id }).await?;
        let filter = Filter { ids: vec![id.to_owned()], ..Filter::default() };
        let mut letters = Vec::new();
        let extent = self
            .look(actor, |letter| {
                if filter.matches(&letter.brief) {
                    letters.push(letter);
                }
                true
            })
            .await?;
        Ok(Listing { letters, extent })
    }

    /// Hands each letter that matches to `sink`, with everything it holds.
    ///
    /// # Errors
    /// If the audit log, the queue or the sink fails.
    pub async fn export(
        &self,
        actor: &Actor,
        filter: &Filter,
        mut sink: impl FnMut(&Letter) -> std::io::Result<()>,
    ) -> Result<(usize, Extent), Error> {
        self.0.audit.write(actor, &Deed::Export { filter }).await?;
        let mut failed = None;
        let mut exported = 0;
        let extent = self
            .look(actor, |letter| {
                if filter.matches(&letter.brief) {
                    match sink(&letter) {
                        Ok(()) => exported += 1,
                        Err(error) => failed = Some(error),
                    }
                }
                failed.is_none() && exported < filter.room()
            })
            .await?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok((exported, extent)),
        }
    }

    /// Plans a change of the letters that match now, and keeps the plan in RabbitMQ for a day, so
    /// that it can be confirmed from anywhere. Nothing else is done.
    ///
    /// # Errors
    /// If the queue cannot be looked at, or the plan not be kept.
    pub async fn plan(
        &self,
        actor: &Actor,
        action: Action,
        filter: &Filter,
    ) -> Result<(Plan, Listing<Brief>), Error> {
        let desk = self.0.desk(actor, "plan").await?;
        let mut letters = Vec::new();
        let planned = async {
            let extent = desk
                .look(Ids::Given, |letter| {
                    if filter.matches(&letter.brief) {
                        letters.push(letter.brief);
                    }
                    letters.len() < filter.room()
                })
                .await?;
            let plan = Plan::new(action, letters.iter().map(|letter: &Brief| letter.id.clone()).collect());
            if !plan.ids.is_empty() {
                desk.keep(&plan).await?;
            }
            Ok::<_, DeskError>((plan, extent))
        };
        let planned = planned.await;
        desk.close().await;
        let (plan, extent) = planned?;
        Ok((plan, Listing { letters, extent }))
    }

    /// The plan with this digest.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub async fn planned(&self, digest: &str) -> Result<Plan, Error> {
        let found = shelf::find(&self.0.settings.broker, &self.0.topology, digest).await?;
        found.ok_or_else(|| Error::NoPlan(digest.to_owned()))
    }

    /// Carries a plan out, letter by letter, until it is done, something stands in the way, or
    /// `stop` is cancelled. Tells `progress` of each letter.
    ///
    /// # Errors
    /// If the audit log or the broker fails. What was done until then stays done.
    pub async fn carry_out(
        &self,
        actor: &Actor,
        plan: &Plan,
        pace: &Pace,
        stop: &CancellationToken,
        progress: impl FnMut(&Step) + Send,
    ) -> Result<Finish, Error> {
        carry_out::carry_out(&self.0, actor, plan, pace, stop, progress).await
    }
}

impl Inner {
    /// `doing` is what others are told meanwhile.
    async fn desk(&self, actor: &Actor, doing: &'static str) -> Result<Desk, DeskError> {
        Desk::open(&self.settings.broker, &self.topology, actor, doing).await
    }
}
