//! Where letters are laid out: a connection that takes them, one that publishes, and the lock.

use std::sync::Arc;

use super::{
    audit::Actor,
    letter::Letter,
    lock::{self, Holder, Lock, NoLock, TakenBy},
    plan::Plan,
    scan::{Extent, Ids, Scan},
    shelf,
};
use crate::{
    broker::{
        ConnectError, PublishError, Publisher, Topology, connection, connection::Link, holding::Bounds,
        topology::soft_error,
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

/// Both connections and the lock, for as long as the work takes.
#[derive(Debug)]
pub(super) struct Desk {
    reading: Link,
    publishing: Arc<Link>,
    publisher: Publisher,
    topology: Topology,
    _lock: Lock,
}

impl Desk {
    /// Connects and takes the lock. `doing` is what others are told.
    pub(super) async fn open(
        broker: &Broker,
        topology: &Topology,
        actor: &Actor,
        doing: &str,
    ) -> Result<Self, DeskError> {
        let urls = broker.uris()?;
        let (reading, publishing) = tokio::try_join!(
            connection::connect(&urls, "reads dead letters"),
            connection::connect(&urls, "publishes for dead letters")
        )?;
        let holder =
            Holder { actor: actor.to_string(), doing: doing.to_owned(), since: Timestamp::now().to_string() };
        let lock = lock::take(&reading, topology, &holder).await.map_err(|no_lock| match no_lock {
            NoLock::Taken(by) => DeskError::Locked(by),
            NoLock::Failed(error) => error.into(),
        })?;
        let publishing = Arc::new(publishing);
        let publisher = Publisher::new(Arc::clone(&publishing));
        Ok(Self { reading, publishing, publisher, topology: topology.clone(), _lock: lock })
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(super) fn publishing(&self) -> &Link {
        &self.publishing
    }

    pub(super) async fn scan(&self, bounds: Bounds, ids: Ids) -> Result<Scan<'_>, DeskError> {
        Ok(Scan::begin(&self.reading, &self.topology.dead(), bounds, ids).await?)
    }

    /// Shows each letter to `see`, until it says `false`, and gives them back.
    pub(super) async fn look(
        &self,
        ids: Ids,
        mut see: impl FnMut(Letter) -> bool,
    ) -> Result<Extent, DeskError> {
        let mut scan = self.scan(Bounds::default(), ids).await?;
        while let Some((letter, _held)) = scan.next().await? {
            if !see(letter) {
                scan.enough();
                break;
            }
        }
        let extent = scan.extent();
        scan.release().await?;
        Ok(extent)
    }

    /// Keeps a plan for whoever confirms it.
    pub(super) async fn keep(&self, plan: &Plan) -> Result<(), DeskError> {
        shelf::keep(&self.publishing, &self.publisher, &self.topology, plan).await
    }

    pub(super) async fn close(self) {
        tokio::join!(self.reading.close(), self.publishing.close());
    }
}
