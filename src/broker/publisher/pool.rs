//! The current connection of a publisher, and the channels on it.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::Channel;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Exclusive, NotOpened, PublishConnection, Shared},
    error::PublishError,
    outgoing::Lane,
    refusals::Refusals,
};

/// The wait before the next try when the connection has as many channels as it may.
const CHANNEL_LIMIT_RETRY: Duration = Duration::from_millis(50);

/// The current connection, which may be replaced, and its channels.
#[derive(Debug)]
pub(super) struct ChannelPool {
    current: watch::Sender<Option<Arc<PublishConnection>>>,
    shared: RwLock<Option<Arc<Shared>>>,
    /// Locked while a shared channel is opened, so that only one is opened.
    opening: tokio::sync::Mutex<()>,
    pub(super) refusals: Arc<Refusals>,
    /// Whether a lost connection is replaced.
    reconnects: bool,
    /// Asks the keeper to check whether the connection must be replaced.
    pub(super) check: Notify,
    needs_large_frames: AtomicBool,
    /// Cancelled when the publisher is closed.
    pub(super) closed: CancellationToken,
}

impl ChannelPool {
    pub(super) fn new(reconnects: bool) -> Self {
        Self {
            current: watch::Sender::new(None),
            shared: RwLock::default(),
            opening: tokio::sync::Mutex::default(),
            refusals: Arc::default(),
            reconnects,
            check: Notify::new(),
            needs_large_frames: AtomicBool::new(false),
            closed: CancellationToken::new(),
        }
    }

    pub(super) fn current(&self) -> Option<Arc<PublishConnection>> {
        self.current.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Arc<PublishConnection>>> {
        self.current.subscribe()
    }

    /// New publishes use this connection; with `None` they wait for the next one. Those in flight on the
    /// old one finish there.
    pub(super) fn replace(&self, connection: Option<Arc<PublishConnection>>) {
        if let Some(old) = self.current.send_replace(connection) {
            old.retire();
        }
        self.shared.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether a message has needed larger frames.
    pub(super) fn needs_large_frames(&self) -> bool {
        self.needs_large_frames.load(Ordering::Relaxed)
    }

    /// A connection for a message with properties of `properties_len` bytes. If the connection is lost,
    /// this waits until it is open again. The keeper tries for ever; RabbitMQ's `consumer_timeout` ends
    /// the session of a delivery that waits too long.
    async fn connection_for(&self, properties_len: usize) -> Result<Arc<PublishConnection>, PublishError> {
        let usable =
            |connection: &Arc<PublishConnection>| connection.is_usable() && connection.fits(properties_len);
        if let Some(connection) = self.current.borrow().as_ref().filter(|connection| usable(connection)) {
            return Ok(Arc::clone(connection));
        }
        let mut current = self.current.subscribe();
        loop {
            let connection = current.borrow_and_update().clone();
            if let Some(connection) = connection {
                let fits = connection.fits(properties_len);
                match connection.is_usable() {
                    true if fits => return Ok(connection),
                    true if !self.reconnects || !connection.has_small_frames => {
                        return Err(PublishError::LargeHeaders);
                    }
                    true => self.needs_large_frames.store(true, Ordering::Relaxed),
                    false if !self.reconnects => return Ok(connection),
                    false => {}
                }
                self.check.notify_one();
            }
            tokio::select! {
                () = self.closed.cancelled() => return Err(PublishError::Closed),
                changed = current.changed() => changed.map_err(|_closed| PublishError::Closed)?,
            }
        }
    }

    /// The channel that publishes share.
    pub(super) async fn shared(&self, properties_len: usize) -> Result<Arc<Shared>, PublishError> {
        if let Some(shared) = self.open_shared(properties_len) {
            return Ok(shared);
        }
        loop {
            let connection = self.connection_for(properties_len).await?;
            let _opening = self.opening.lock().await;
            if let Some(shared) = self.open_shared(properties_len) {
                return Ok(shared);
            }
            let Some(permit) = connection.shared_permit().await else {
                continue;
            };
            let Some(channel) = self.open(&connection).await? else {
                continue;
            };
            let shared = Arc::new(Shared::new(channel, connection, permit));
            let mut current = self.shared.write().unwrap_or_else(PoisonError::into_inner);
            *current = Some(Arc::clone(&shared));
            return Ok(shared);
        }
    }

    fn open_shared(&self, properties_len: usize) -> Option<Arc<Shared>> {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let shared = shared.as_ref()?;
        (shared.connection.fits(properties_len) && shared.is_usable()).then(|| Arc::clone(shared))
    }

    /// A channel of a lane for one publish.
    pub(super) async fn exclusive(
        &self,
        properties_len: usize,
        lane: Lane,
    ) -> Result<Exclusive, PublishError> {
        loop {
            let connection = self.connection_for(properties_len).await?;
            let Some(permit) = connection.permit(lane).await else {
                continue;
            };
            let channel = match connection.idle_channel(lane) {
                Some(channel) => Some(channel),
                None => self.open(&connection).await?,
            };
            if let Some(channel) = channel {
                return Ok(Exclusive { channel, connection, lane, permit });
            }
        }
    }

    /// Opens a channel; `None` if the connection is retired meanwhile. If the connection has as many
    /// channels as it may, this waits until a publish is confirmed or its channel closed.
    async fn open(&self, connection: &PublishConnection) -> Result<Option<Channel>, PublishError> {
        loop {
            match connection.open().await {
                Ok(channel) => {
                    if connection.needs_replacement() {
                        self.check.notify_one();
                    }
                    return Ok(Some(channel));
                }
                Err(NotOpened::LimitReached) => {}
                Err(NotOpened::Failed(error)) => {
                    self.check.notify_one();
                    return Err(error);
                }
            }
            // Idle channels are closed. Otherwise, with a very small `channel_max`, a lane could wait for
            // ever.
            connection.close_idle();
            self.shared.write().unwrap_or_else(PoisonError::into_inner).take();
            tokio::time::sleep(CHANNEL_LIMIT_RETRY).await;
            if self.reconnects && !connection.is_usable() {
                return Ok(None);
            }
        }
    }
}
