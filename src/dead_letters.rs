//! Dead letters, for people: look at them, replay them, discard them. One implementation for the
//! command line and the page, straight on the broker, also while no worker runs.
//!
//! A look takes all letters without acknowledging them and gives them back by closing its channels.
//! Letters come oldest first, whatever order the queue has. One at a time takes letters, as two who
//! take at once see some of them each; and one at a time changes them. Whoever changes letters holds
//! those that are next, and others see the rest.
//!
//! A change goes by a [`Plan`]: the ids of the letters, frozen, and their digest. Each letter leaves
//! the queue only after its new copy is confirmed.

pub mod audit;
mod carry_out;
mod desk;
pub mod filter;
pub mod letter;
mod lock;
mod oldest;
pub mod plan;
mod replay;
mod round;
mod scan;
mod shelf;
mod spool;
pub mod summary;

use std::{io::Write, sync::Arc};

use tokio_util::sync::CancellationToken;

use self::{
    audit::Deed,
    desk::Desk,
    oldest::{Age, Keep, Sorted},
    scan::Ids,
    spool::Spool,
    summary::Summing,
};
pub use self::{
    audit::{Actor, Audit, AuditError},
    carry_out::{Ended, Finish, Pace, Step, StepResult},
    desk::DeskError,
    filter::Filter,
    letter::{Brief, Letter, LetterId},
    lock::{Holder, TakenBy},
    plan::{Action, Plan},
    scan::{Extent, Held, Stopped},
    summary::{Group, Summary},
};
use crate::{broker::Topology, message::DeadLetterStatus, settings::BrokerSettings};

/// The most letters that are shown at once: of a request's that has more, the newest.
const MAX_SHOWN: usize = 100;
/// Bytes of memory that letters which are shown may take, about; one may be larger.
const MAX_SHOWN_BYTES: usize = 32 * 1024 * 1024;

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
    #[error("the letters cannot be kept in a temporary file: {0}")]
    Spool(#[from] std::io::Error),
}

/// Letters as a look found them, oldest first.
#[derive(Clone, Debug)]
pub struct Listing<T> {
    pub letters: Vec<T>,
    /// Letters that match, whether they are among these or not.
    pub count: usize,
    pub extent: Extent,
}

/// A plan, and what its letters look like.
#[derive(Clone, Debug)]
pub struct Planned {
    pub plan: Plan,
    pub listing: Listing<Brief>,
    /// Letters that match and cannot be replayed, as they cannot be read.
    pub unreadable: usize,
}

/// Letters as lines of JSON, oldest first. The broker has nothing to do with them any more.
#[derive(Debug)]
pub struct Exported {
    spool: Spool,
    pub extent: Extent,
}

impl Exported {
    /// Hands each line to `sink`; returns how many there were.
    ///
    /// # Errors
    /// If the sink fails, or the temporary file.
    pub fn write_to(self, sink: impl Write) -> std::io::Result<usize> {
        self.spool.write_to(sink)
    }
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

    /// Shows each letter to `see`, in the queue's order, with its place there.
    async fn look(
        &self,
        actor: &Actor,
        doing: &'static str,
        ids: Ids,
        see: impl FnMut(Letter, usize),
    ) -> Result<Extent, Error> {
        let desk = self.0.desk(actor, doing).await?;
        let looked = desk.look(ids, see).await;
        desk.close().await;
        Ok(looked?)
    }

    /// How many there are, by status and reason.
    ///
    /// # Errors
    /// If the queue cannot be looked at.
    pub async fn summary(&self, actor: &Actor, filter: &Filter) -> Result<Summary, Error> {
        if filter.limit.is_some() {
            let listing = self.list(actor, filter).await?;
            let mut summing = Summing::default();
            listing.letters.iter().for_each(|letter| summing.add(letter));
            return Ok(summing.finish(listing.extent));
        }
        let mut summing = Summing::default();
        let ids = if filter.ids.is_empty() { Ids::None } else { Ids::Given };
        let see = |letter: Letter, _place| {
            if filter.matches(&letter.brief) {
                summing.add(&letter.brief);
            }
        };
        let extent = self.look(actor, "look", ids, see).await?;
        Ok(summing.finish(extent))
    }

    /// What there is to be known of each without its body and headers.
    ///
    /// # Errors
    /// If the queue cannot be looked at.
    pub async fn list(&self, actor: &Actor, filter: &Filter) -> Result<Listing<Brief>, Error> {
        self.page(actor, filter, 0, usize::MAX).await
    }

    /// The same of some of them: from the `first` on, counted from zero, at most so many.
    ///
    /// # Errors
    /// If the queue cannot be looked at.
    pub async fn page(
        &self,
        actor: &Actor,
        filter: &Filter,
        first: usize,
        most: usize,
    ) -> Result<Listing<Brief>, Error> {
        let limit = first.saturating_add(most).min(filter.room());
        let mut found = Sorted::new(Keep::Oldest(limit));
        let see = |letter: Letter, place| {
            if filter.matches(&letter.brief) {
                found.add(Age::new(&letter.brief, place), letter.brief);
            }
        };
        let extent = self.look(actor, "look", Ids::Given, see).await?;
        let count = found.count().min(filter.room());
        let letters = found.into_vec().into_iter().skip(first).collect();
        Ok(Listing { letters, count, extent })
    }

    /// The letters with this id, or of the request with this id, with everything they hold: the
    /// newest of them, as far as they fit into memory.
    ///
    /// # Errors
    /// If the audit log or the queue fails.
    pub async fn show(&self, actor: &Actor, id: &str) -> Result<Listing<Letter>, Error> {
        self.0.audit.write(actor, &Deed::Show { id }).await?;
        let filter = Filter { ids: vec![id.to_owned()], ..Filter::default() };
        let mut found = Sorted::new(Keep::Newest(MAX_SHOWN));
        let mut bytes = 0;
        let see = |letter: Letter, place| {
            if filter.matches(&letter.brief) {
                bytes += letter.size();
                found.add(Age::new(&letter.brief, place), letter);
                while bytes > MAX_SHOWN_BYTES {
                    match found.drop_oldest() {
                        Some(dropped) => bytes -= dropped.size().min(bytes),
                        None => break,
                    }
                }
            }
        };
        let extent = self.look(actor, "look", Ids::Given, see).await?;
        Ok(Listing { count: found.count(), letters: found.into_vec(), extent })
    }

    /// Everything about each letter that matches. Reads all of them before it returns, so that
    /// nobody waits for whoever reads the lines.
    ///
    /// # Errors
    /// If the audit log, the queue or the temporary file fails.
    pub async fn export(&self, actor: &Actor, filter: &Filter) -> Result<Exported, Error> {
        self.0.audit.write(actor, &Deed::Export { filter }).await?;
        let mut spool = Spool::new(filter.room());
        let mut failed = None;
        let see = |letter: Letter, place| {
            if failed.is_none() && filter.matches(&letter.brief) {
                failed = spool.add(Age::new(&letter.brief, place), &letter.to_json()).err();
            }
        };
        let extent = self.look(actor, "export", Ids::Given, see).await?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(Exported { spool, extent }),
        }
    }

    /// Plans a change of the letters that match now, and keeps the plan in RabbitMQ for a day, so
    /// that it can be confirmed from anywhere. Nothing else is done.
    ///
    /// # Errors
    /// If the queue cannot be looked at, or the plan not be kept.
    pub async fn plan(&self, actor: &Actor, action: Action, filter: &Filter) -> Result<Planned, Error> {
        let desk = self.0.desk(actor, "plan").await?;
        let planned = plan(&desk, action, filter).await;
        desk.close().await;
        Ok(planned?)
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

async fn plan(desk: &Desk, action: Action, filter: &Filter) -> Result<Planned, DeskError> {
    let mut found = Sorted::new(Keep::Oldest(filter.room()));
    let mut unreadable = 0;
    let see = |letter: Letter, place| {
        if !filter.matches(&letter.brief) {
            return;
        }
        match (&action, letter.brief.status) {
            (Action::Replay, DeadLetterStatus::Unreadable) => unreadable += 1,
            _ => found.add(Age::new(&letter.brief, place), letter.brief),
        }
    };
    let extent = desk.look(Ids::Given, see).await?;
    let letters = found.into_vec();
    let plan = Plan::new(action, letters.iter().map(|letter: &Brief| letter.id.clone()).collect());
    if !plan.ids.is_empty() {
        desk.keep(&plan).await?;
    }
    let listing = Listing { count: letters.len(), letters, extent };
    Ok(Planned { plan, listing, unreadable })
}

impl Inner {
    /// `doing` is what others are told meanwhile.
    async fn desk(&self, actor: &Actor, doing: &'static str) -> Result<Desk, DeskError> {
        Desk::open(&self.settings.broker, &self.topology, actor, doing).await
    }
}
