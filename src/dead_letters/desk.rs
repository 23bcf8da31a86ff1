//! The connections to the dead letters: one that reads them, and one that publishes and holds locks.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    audit::Actor,
    letter::Letter,
    lock::{self, Holder, Lock, NoLock, TakenBy},
    plan::Plan,
    scan::{Extent, Held, Ids, Scan},
    shelf,
};
use crate::{
    broker::{
        ConnectError, PublishError, Publisher, Topology,
        browse::Bounds,
        connection,
        connection::Connection,
        errors::soft_error,
        wire::{WireConnection, WireError},
    },
    message::Timestamp,
    settings::{Broker, BrokerUrlsError},
};

/// The letters could not be got at, or not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error("{0}")]
    Urls(#[from] BrokerUrlsError),
    #[error("RabbitMQ cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error("the dead letters are locked by {0}; try again when they are done")]
    Locked(TakenBy),
    #[error("RabbitMQ says: {0}. The user needs configure, write and read on the prefix's names")]
    Refused(String),
    #[error("the connection to RabbitMQ failed: {0}")]
    Amqp(lapin::Error),
    #[error("the connection to RabbitMQ failed: {0}")]
    Wire(WireError),
    #[error("not published: {0}")]
    Publish(#[from] PublishError),
}

impl From<lapin::Error> for DeskError {
    fn from(error: lapin::Error) -> Self {
        match soft_error(&error) {
            Some((_, broker)) => Self::Refused(broker),
            None => Self::Amqp(error),
        }
    }
}

impl From<WireError> for DeskError {
    fn from(error: WireError) -> Self {
        match error.channel_closed() {
            Some((_, broker)) => Self::Refused(broker.to_owned()),
            None => Self::Wire(error),
        }
    }
}

impl From<NoLock> for DeskError {
    fn from(no_lock: NoLock) -> Self {
        match no_lock {
            NoLock::Taken(by) => Self::Locked(by),
            NoLock::Failed(error) => error.into(),
        }
    }
}

/// Three connections, for as long as the work takes. During an alarm RabbitMQ reads nothing of one that
/// publishes, not even its end, and a lock ends with its connection: so locks have one of their own.
#[derive(Debug)]
pub(super) struct Desk {
    reading: WireConnection,
    locking: Connection,
    publishing: Arc<Connection>,
    publisher: Publisher,
    topology: Topology,
    holder: Holder,
    /// Letters that are held: others are told.
    holds: Arc<AtomicUsize>,
}

impl Desk {
    /// Connects. `doing` is what others are told.
    pub(super) async fn open(
        broker: &Broker,
        topology: &Topology,
        actor: &Actor,
        doing: &str,
    ) -> Result<Self, DeskError> {
        let urls = broker.uris()?;
        let (reading, locking, publishing) = tokio::try_join!(
            WireConnection::connect(&urls, "reads dead letters"),
            connection::connect(&urls, "locks dead letters"),
            connection::connect(&urls, "publishes for dead letters")
        )?;
        let holder = Holder {
            actor: actor.to_string(),
            doing: doing.to_owned(),
            since: Timestamp::now().to_string(),
            holds: None,
        };
        let publishing = Arc::new(publishing);
        let publisher = Publisher::new(Arc::clone(&publishing));
        let (topology, holds) = (topology.clone(), Arc::default());
        Ok(Self { reading, locking, publishing, publisher, topology, holder, holds })
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(super) fn publishing(&self) -> &Connection {
        &self.publishing
    }

    /// Makes this the only one that changes letters, until the connections end.
    pub(super) async fn lock_changes(&self) -> Result<Lock, DeskError> {
        let queue = self.topology.dead_letter_change_lock();
        Ok(lock::try_take(&self.locking, &queue, &self.holder, &self.holds).await?)
    }

    /// Waits until nobody else takes letters: two who take at once see some of them each. Everybody
    /// takes them for a moment only.
    pub(super) async fn lock_taking(&self) -> Result<Lock, DeskError> {
        Ok(lock::take(&self.locking, &self.topology.dead_letter_lock(), &self.holder).await?)
    }

    /// Others are told how many letters are held.
    pub(super) fn set_held(&self, count: usize) {
        self.holds.store(count, Ordering::Relaxed);
    }

    /// Begins to take letters.
    pub(super) async fn scan(
        &self,
        bounds: Bounds,
        ids: Ids,
        held: Option<Held>,
    ) -> Result<Scan<'_>, DeskError> {
        Ok(Scan::begin(&self.reading, &self.topology.dead(), bounds, ids, held).await?)
    }

    /// Shows each letter to `see`, with its place in the queue, and gives them back.
    pub(super) async fn look(
        &self,
        ids: Ids,
        mut see: impl FnMut(Letter, usize),
    ) -> Result<Extent, DeskError> {
        let taking = self.lock_taking().await?;
        let changes = lock::holder(&self.locking, &self.topology.dead_letter_change_lock()).await?;
        let held = changes.map(|by| match by {
            TakenBy::Holder(holder) => Held::new(&holder),
            by => Held { count: None, by: by.to_string() },
        });
        let mut scan = self.scan(Bounds::default(), ids, held).await?;
        while let Some((letter, _tag)) = scan.next().await? {
            let place = scan.place();
            see(letter, place);
        }
        let extent = scan.extent();
        scan.release().await?;
        taking.release().await?;
        Ok(extent)
    }

    /// Keeps a plan for whoever confirms it.
    pub(super) async fn keep(&self, plan: &Plan) -> Result<(), DeskError> {
        shelf::keep(&self.publishing, &self.publisher, &self.topology, plan).await
    }

    pub(super) async fn close(self) {
        tokio::join!(self.reading.close(), self.locking.close(), self.publishing.close());
    }
}
