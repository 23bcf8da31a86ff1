//! The connections to the dead letters: one reads them, one holds locks, one publishes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::{
    audit::Actor,
    dead_letter::DeadLetter,
    error::AccessError,
    lock::{self, Holder, Lock, LockedBy},
    plan::Plan,
    plan_store,
    scan::{Coverage, IdMode, Scan, Taken},
};
use crate::{
    broker::{Connector, Publisher, Topology, browse::Bounds, connection::Connection, wire::WireConnection},
    message::Timestamp,
};

/// Three connections, open for one command. During an alarm RabbitMQ reads nothing from a
/// connection that publishes, not even its close, and a lock ends only when its connection closes:
/// so locks have their own connection.
#[derive(Debug)]
pub(super) struct LockedSession {
    reading: WireConnection,
    locking: Connection,
    pub(super) publishing: Arc<Connection>,
    pub(super) publisher: Publisher,
    topology: Topology,
    holder: Holder,
    /// The number of dead letters that this session has taken. The lock reports it to others.
    taken: Arc<AtomicUsize>,
}

impl LockedSession {
    /// Connects. Others see `doing` while this session holds a lock.
    pub(super) async fn open(
        connector: &Connector,
        topology: &Topology,
        actor: &Actor,
        doing: &str,
    ) -> Result<Self, AccessError> {
        // All finish, even if one fails: lapin's task of a dropped connect panics when the program ends.
        let (reading, locking, publishing) = tokio::join!(
            connector.connect_wire("reads dead letters"),
            connector.connect("locks dead letters"),
            connector.connect("publishes for dead letters")
        );
        let (reading, locking, publishing) = (reading?, locking?, publishing?);
        let holder = Holder {
            actor: actor.to_string(),
            doing: doing.to_owned(),
            since: Timestamp::now().to_string(),
            taken: None,
        };
        let publishing = Arc::new(publishing);
        let publisher = Publisher::new(Arc::clone(&publishing));
        let (topology, taken) = (topology.clone(), Arc::default());
        Ok(Self { reading, locking, publishing, publisher, topology, holder, taken })
    }

    /// Takes the lock for changes, so that no one else changes dead letters until this session
    /// closes.
    pub(super) async fn lock_changes(&self) -> Result<Lock, AccessError> {
        let queue = self.topology.dead_letter_change_lock();
        Ok(lock::try_acquire(&self.locking, &queue, &self.holder, &self.taken).await?)
    }

    /// Waits for the lock for consuming: two who consume at the same time would each see only a
    /// part. Everyone holds it only for a moment.
    pub(super) async fn lock_consuming(&self) -> Result<Lock, AccessError> {
        Ok(lock::acquire(&self.locking, &self.topology.dead_letter_lock(), &self.holder).await?)
    }

    /// Sets the number of dead letters that others see as taken.
    pub(super) fn set_taken(&self, count: usize) {
        self.taken.store(count, Ordering::Relaxed);
    }

    /// Starts to consume dead letters.
    pub(super) async fn scan(
        &self,
        bounds: Bounds,
        ids: IdMode,
        taken: Option<Taken>,
    ) -> Result<Scan, AccessError> {
        Ok(Scan::open(&self.reading, &self.topology.dead(), bounds, ids, taken).await?)
    }

    /// Requeues the dead letters of a scan that were not acknowledged, and waits until others can see them.
    pub(super) async fn release(&self, scan: Scan) -> Result<(), AccessError> {
        Ok(scan.release(&self.reading).await?)
    }

    /// Calls `visit` with each dead letter, then requeues all. [`AccessError::Stopped`] if `stop`
    /// is cancelled before; then all are requeued, too.
    pub(super) async fn browse(
        &self,
        ids: IdMode,
        stop: &CancellationToken,
        mut visit: impl FnMut(DeadLetter),
    ) -> Result<Coverage, AccessError> {
        let lock = stop.run_until_cancelled(self.lock_consuming()).await.ok_or(AccessError::Stopped)??;
        let changes = lock::holder(&self.locking, &self.topology.dead_letter_change_lock()).await?;
        let taken = changes.map(|by| match by {
            LockedBy::Known(holder) => Taken::new(&holder),
            by => Taken { count: None, by: by.to_string() },
        });
        let mut scan = self.scan(Bounds::DEFAULT, ids, taken).await?;
        let read = async {
            while let Some((dead_letter, _tag)) = scan.next().await? {
                visit(dead_letter);
            }
            Ok::<_, AccessError>(())
        };
        let read = stop.run_until_cancelled(read).await.transpose()?;
        let coverage = scan.coverage();
        self.release(scan).await?;
        lock.release().await?;
        read.map(|()| coverage).ok_or(AccessError::Stopped)
    }

    /// Stores a plan until someone confirms it.
    pub(super) async fn store_plan(&self, plan: &Plan) -> Result<(), AccessError> {
        plan_store::store(&self.publishing, &self.publisher, &self.topology, plan).await
    }

    /// Closes the connections; the locks last, so that the next who gets them finds in the queue
    /// what this session has requeued.
    pub(super) async fn close(self) {
        self.reading.close().await;
        tokio::join!(self.locking.close(), self.publishing.close());
    }
}
