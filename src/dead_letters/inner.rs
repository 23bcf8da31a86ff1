//! Which broker and prefix the dead letters are on, and the audit log.

use super::{
    audit::{Actor, Audit},
    error::AccessError,
    session::LockedSession,
};
use crate::{
    broker::{Connector, Topology},
    settings::BrokerSettings,
};

/// What the clones of [`DeadLetters`](super::DeadLetters) share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) settings: BrokerSettings,
    pub(super) connector: Connector,
    pub(super) topology: Topology,
    pub(super) audit: Audit,
}

impl Inner {
    /// Others see `doing` while the session holds a lock.
    pub(super) async fn open_session(
        &self,
        actor: &Actor,
        doing: &'static str,
    ) -> Result<LockedSession, AccessError> {
        LockedSession::open(&self.connector, &self.topology, actor, doing).await
    }
}
