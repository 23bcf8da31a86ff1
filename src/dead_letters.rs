//! Dead letters, for people: browse, replay and discard them. The command line and the page share
//! this implementation. It talks to RabbitMQ directly, so it works while no worker runs.
//!
//! Browsing consumes dead letters without acknowledging them, then closes the channel so that
//! RabbitMQ requeues them. It may stop after any dead letter. Results are sorted oldest first,
//! whatever order the queue has: so a list needs all dead letters, and says so if it could not see
//! all. Two locks protect this: one person at a time consumes, because two consumers would each see
//! only a part; and one person at a time changes dead letters. A change takes only the next
//! dead letters of its plan, and others can browse the rest.
//!
//! A change executes a [`Plan`]: a fixed list of ids and its digest. A dead letter is acknowledged
//! only after its new copy is confirmed.
//!
//! A replay may correct invalid dead letters on their way. [`DeadLetters::plan`] with such an
//! [`Action::Replay`] returns each request before and after; [`DeadLetters::execute`] makes the same
//! change. [`DeadLetter::preview`] shows it without a plan.

pub mod audit;
mod copies;
mod correction;
pub mod dead_letter;
mod error;
mod execute;
pub mod filter;
mod inner;
mod listing;
mod lock;
mod oldest;
mod options;
pub mod plan;
mod plan_store;
mod planner;
mod replay;
mod result;
mod round;
mod scan;
mod search;
mod session;
mod spool;
pub mod summary;

use std::{io::Write, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::{
    audit::AuditEvent,
    inner::Inner,
    oldest::{AgeKey, Limit, Sorted},
    scan::IdMode,
    session::LockedSession,
    spool::Spool,
    summary::SummaryBuilder,
};
pub use self::{
    audit::{Actor, Audit, AuditError},
    correction::{CorrectionPreview, Refusal, Refused, RequestView},
    dead_letter::{DeadLetter, DeadLetterId, DeadLetterSummary},
    error::{AccessError, Error},
    filter::Filter,
    listing::Listing,
    lock::{Holder, LockedBy},
    options::{DiscardReason, InvalidOption, ReplayOptions, ReplayRate},
    plan::{Action, Plan},
    planner::PlanPreview,
    result::{Ended, Finish, ResultCounts, Step, StepResult},
    scan::{Coverage, StopReason, Taken},
    summary::{Group, Summary},
};
use crate::{
    broker::{Connector, Topology, browse::Bounds},
    settings::BrokerSettings,
};

/// How long a browse may take, with the wait for its lock. Connecting comes before.
pub const MAX_BROWSE_TIME: Duration = lock::ACQUIRE_TIMEOUT.saturating_add(Bounds::DEFAULT.time);

/// At most this many dead letters are shown at once; the newest ones of the id.
const MAX_SHOWN: usize = 100;
/// Approximate memory for the dead letters that are shown, in bytes. A single one may be larger.
const MAX_SHOWN_BYTES: usize = 32 * 1024 * 1024;

/// Dead letters as JSON lines, oldest first. No connection to RabbitMQ is needed any more.
#[derive(Debug)]
pub struct Exported {
    spool: Spool,
    pub coverage: Coverage,
}

impl Exported {
    /// Writes all lines to `sink`. Returns the number of lines.
    ///
    /// # Errors
    /// If the sink or the temporary file fails.
    pub fn write_to(self, sink: impl Write) -> std::io::Result<usize> {
        self.spool.write_to(sink)
    }
}

/// The dead letters of one prefix on one broker. Clones share the audit log.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    inner: Arc<Inner>,
    /// Stops each browse.
    stop: CancellationToken,
}

impl DeadLetters {
    pub fn new(settings: BrokerSettings, audit: Audit) -> Self {
        let topology = Topology::new(&settings.topology_prefix);
        let connector = Connector::new(&settings.broker);
        let inner = Inner { settings, connector, topology, audit };
        Self { inner: Arc::new(inner), stop: CancellationToken::new() }
    }

    /// What connects to RabbitMQ.
    pub fn connector(&self) -> &Connector {
        &self.inner.connector
    }

    /// The same dead letters, but a browse of this value stops when `stop` is cancelled: it returns
    /// [`AccessError::Stopped`] once RabbitMQ has requeued what it had consumed. An execution has a
    /// token of its own.
    pub fn stopped_by(&self, stop: CancellationToken) -> Self {
        Self { inner: Arc::clone(&self.inner), stop }
    }

    /// Connects. Others see `doing` while the session holds a lock.
    async fn open_session(&self, actor: &Actor, doing: &'static str) -> Result<LockedSession, AccessError> {
        let session = self.inner.open_session(actor, doing);
        self.stop.run_until_cancelled(session).await.unwrap_or(Err(AccessError::Stopped))
    }

    /// Calls `visit` with each dead letter.
    async fn browse(
        &self,
        actor: &Actor,
        doing: &'static str,
        ids: IdMode,
        visit: impl FnMut(DeadLetter),
    ) -> Result<Coverage, Error> {
        let session = self.open_session(actor, doing).await?;
        let browsed = session.browse(ids, &self.stop, visit).await;
        session.close().await;
        Ok(browsed?)
    }

    /// Counts dead letters by status and reason.
    ///
    /// # Errors
    /// If the queue cannot be browsed.
    pub async fn summary(&self, actor: &Actor, filter: &Filter) -> Result<Summary, Error> {
        if filter.limit.is_some() {
            let listing = self.list(actor, filter).await?;
            let mut builder = SummaryBuilder::default();
            listing.dead_letters.iter().for_each(|dead_letter| builder.add(dead_letter));
            return Ok(builder.finish(listing.coverage));
        }
        let mut builder = SummaryBuilder::default();
        let ids = if filter.ids.is_empty() { IdMode::Skip } else { IdMode::Compute };
        let visit = |dead_letter: DeadLetter| {
            if filter.matches(&dead_letter.summary) {
                builder.add(&dead_letter.summary);
            }
        };
        let coverage = self.browse(actor, "browse", ids, visit).await?;
        Ok(builder.finish(coverage))
    }

    /// Lists the dead letters that match, without bodies and headers.
    ///
    /// # Errors
    /// If the queue cannot be browsed.
    pub async fn list(&self, actor: &Actor, filter: &Filter) -> Result<Listing<DeadLetterSummary>, Error> {
        self.page(actor, filter, 0, usize::MAX).await
    }

    /// Lists at most `max` of the dead letters that match, after skipping the `offset` oldest.
    ///
    /// # Errors
    /// If the queue cannot be browsed.
    pub async fn page(
        &self,
        actor: &Actor,
        filter: &Filter,
        offset: usize,
        max: usize,
    ) -> Result<Listing<DeadLetterSummary>, Error> {
        let limit = offset.saturating_add(max).min(filter.max_count());
        let mut found = Sorted::new(Limit::Oldest(limit));
        let visit = |dead_letter: DeadLetter| {
            if filter.matches(&dead_letter.summary) {
                found.add(AgeKey::new(&dead_letter.summary), dead_letter.summary);
            }
        };
        let coverage = self.browse(actor, "browse", IdMode::Compute, visit).await?;
        let count = found.count().min(filter.max_count());
        let dead_letters = found.into_vec().into_iter().skip(offset).collect();
        Ok(Listing { dead_letters, count, coverage })
    }

    /// Returns the dead letter with this id, or those of the request with this id, with body and
    /// headers: the newest ones, as many as fit into memory. Writes to the audit log first.
    ///
    /// # Errors
    /// If the audit log or the queue fails.
    pub async fn show(&self, actor: &Actor, id: &str) -> Result<Listing<DeadLetter>, Error> {
        self.inner.audit.write(actor, &AuditEvent::Show { id }).await?;
        let filter = Filter { ids: vec![id.to_owned()], ..Filter::default() };
        let mut found = Sorted::new(Limit::Newest(MAX_SHOWN));
        let mut bytes = 0;
        let visit = |dead_letter: DeadLetter| {
            if filter.matches(&dead_letter.summary) {
                bytes += dead_letter.size();
                found.add(AgeKey::new(&dead_letter.summary), dead_letter);
                while bytes > MAX_SHOWN_BYTES {
                    match found.drop_oldest() {
                        Some(dropped) => bytes -= dropped.size().min(bytes),
                        None => break,
                    }
                }
            }
        };
        let coverage = self.browse(actor, "browse", IdMode::Compute, visit).await?;
        Ok(Listing { count: found.count(), dead_letters: found.into_vec(), coverage })
    }

    /// Exports everything about each dead letter that matches. Reads all of them before it returns,
    /// so that a slow reader of the lines does not keep the queue locked. Writes to the audit log
    /// first.
    ///
    /// # Errors
    /// If the audit log, the queue or the temporary file fails.
    pub async fn export(&self, actor: &Actor, filter: &Filter) -> Result<Exported, Error> {
        self.inner.audit.write(actor, &AuditEvent::Export { filter }).await?;
        let mut spool = Spool::new(filter.max_count());
        let mut failed = None;
        let visit = |dead_letter: DeadLetter| {
            if failed.is_none() && filter.matches(&dead_letter.summary) {
                let key = AgeKey::new(&dead_letter.summary);
                failed = spool.add(key, &dead_letter.to_json()).err();
            }
        };
        let coverage = self.browse(actor, "export", IdMode::Compute, visit).await?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(Exported { spool, coverage }),
        }
    }

    /// Plans a change of the dead letters that match now. Stores the plan in RabbitMQ for a day, so
    /// that it can be confirmed from any machine. Changes nothing else. With a correction, the preview
    /// shows the requests before and after it.
    ///
    /// # Errors
    /// If the queue cannot be browsed or the plan cannot be stored. [`Error::Refused`] if one of the
    /// dead letters is not invalid, or would still be invalid after the correction.
    pub async fn plan(&self, actor: &Actor, action: Action, filter: &Filter) -> Result<PlanPreview, Error> {
        let session = self.open_session(actor, "plan").await?;
        let preview = planner::plan(&session, &self.stop, action, filter).await;
        session.close().await;
        preview
    }

    /// Who changes dead letters now. `None` if no one does.
    ///
    /// # Errors
    /// If RabbitMQ cannot be asked.
    pub async fn change_holder(&self) -> Result<Option<LockedBy>, Error> {
        let connecting = self.inner.connector.connect("asks who changes dead letters");
        let connection = connecting.await.map_err(AccessError::from)?;
        let holder = lock::holder(&connection, &self.inner.topology.dead_letter_change_lock()).await;
        connection.close().await;
        Ok(holder.map_err(AccessError::from)?)
    }

    /// Returns the plan with this digest.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub async fn find_plan(&self, digest: &str) -> Result<Plan, Error> {
        let found = plan_store::find(&self.inner.connector, &self.inner.topology, digest).await?;
        found.ok_or_else(|| Error::NoPlan(digest.to_owned()))
    }
}
