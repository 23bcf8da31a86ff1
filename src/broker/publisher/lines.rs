//! The connection that publishes now, and the channel that publishes share on it.

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
    error::PublishError,
    line::{Alone, Line, NotOpened, Shared},
    outgoing::Lane,
    refusals::Refusals,
};

/// How often a channel is tried for where the connection has as many as it may.
const LIMIT_INTERVAL: Duration = Duration::from_millis(50);

/// The connection that publishes now; one after the other, where it heals.
#[derive(Debug)]
pub(super) struct Lines {
    current: watch::Sender<Option<Arc<Line>>>,
    shared: RwLock<Option<Arc<Shared>>>,
    /// Held while a shared channel is opened, so that one is opened, not one a message.
    opening: tokio::sync::Mutex<()>,
    pub(super) refusals: Arc<Refusals>,
    /// Whether a line that is lost is replaced.
    heals: bool,
    /// Asks for a look at the line: it may be lost, worn, or have too small frames.
    pub(super) look: Notify,
    needs_large_frames: AtomicBool,
    /// Cancelled when nothing is published any more.
    pub(super) over: CancellationToken,
}

impl Lines {
    pub(super) fn new(heals: bool) -> Self {
        Self {
            current: watch::Sender::new(None),
            shared: RwLock::default(),
            opening: tokio::sync::Mutex::default(),
            refusals: Arc::default(),
            heals,
            look: Notify::new(),
            needs_large_frames: AtomicBool::new(false),
            over: CancellationToken::new(),
        }
    }

    pub(super) fn current(&self) -> Option<Arc<Line>> {
        self.current.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Arc<Line>>> {
        self.current.subscribe()
    }

    /// New publishes go to this line, or wait for the next one. Those in flight on the old one
    /// finish there.
    pub(super) fn replace(&self, line: Option<Arc<Line>>) {
        if let Some(old) = self.current.send_replace(line) {
            old.retire();
        }
        self.shared.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether a message waits for a line with larger frames.
    pub(super) fn needs_large_frames(&self) -> bool {
        self.needs_large_frames.load(Ordering::Relaxed)
    }

    /// A line for a message with properties of that many bytes. Where the connection is lost, this
    /// ends when it is open again: the keeper tries for ever, and `consumer_timeout` ends the
    /// session of a delivery that waits.
    async fn line(&self, properties_len: usize) -> Result<Arc<Line>, PublishError> {
        let mut lines = self.current.subscribe();
        loop {
            let line = lines.borrow_and_update().clone();
            if let Some(line) = line {
                let fits = line.fits(properties_len);
                match line.is_usable() {
                    true if fits => return Ok(line),
                    true if !self.heals || !line.has_small_frames => return Err(PublishError::LargeHeaders),
                    true => self.needs_large_frames.store(true, Ordering::Relaxed),
                    false if !self.heals => return Ok(line),
                    false => {}
                }
                self.look.notify_one();
            }
            tokio::select! {
                () = self.over.cancelled() => return Err(PublishError::Closed),
                changed = lines.changed() => changed.map_err(|_closed| PublishError::Closed)?,
            }
        }
    }

    /// The channel that publishes share.
    pub(super) async fn shared(&self, properties_len: usize) -> Result<Arc<Shared>, PublishError> {
        if let Some(shared) = self.open_shared(properties_len) {
            return Ok(shared);
        }
        loop {
            let line = self.line(properties_len).await?;
            let _opening = self.opening.lock().await;
            if let Some(shared) = self.open_shared(properties_len) {
                return Ok(shared);
            }
            let Some(permit) = line.shared_permit().await else {
                continue;
            };
            let Some(channel) = self.open(&line).await? else {
                continue;
            };
            let shared = Arc::new(Shared::new(channel, line, permit));
            let mut current = self.shared.write().unwrap_or_else(PoisonError::into_inner);
            *current = Some(Arc::clone(&shared));
            return Ok(shared);
        }
    }

    fn open_shared(&self, properties_len: usize) -> Option<Arc<Shared>> {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let shared = shared.as_ref()?;
        (shared.line.fits(properties_len) && shared.is_usable()).then(|| Arc::clone(shared))
    }

    /// A channel of a lane for one publish alone.
    pub(super) async fn alone(&self, properties_len: usize, lane: Lane) -> Result<Alone, PublishError> {
        loop {
            let line = self.line(properties_len).await?;
            let Some(permit) = line.permit(lane).await else {
                continue;
            };
            let channel = match line.idle_channel(lane) {
                Some(channel) => Some(channel),
                None => self.open(&line).await?,
            };
            if let Some(channel) = channel {
                return Ok(Alone { channel, line, lane, permit });
            }
        }
    }

    /// Opens a channel; none if the line is retired meanwhile. Where the connection has as many
    /// channels as it may, this ends when a publish is confirmed or its channel closed.
    async fn open(&self, line: &Line) -> Result<Option<Channel>, PublishError> {
        loop {
            match line.open().await {
                Ok(channel) => {
                    if line.is_worn() {
                        self.look.notify_one();
                    }
                    return Ok(Some(channel));
                }
                Err(NotOpened::LimitReached) => {}
                Err(NotOpened::Failed(error)) => {
                    self.look.notify_one();
                    return Err(error);
                }
            }
            // Whatever is idle makes room: with very few channels a lane would else wait for ever.
            line.close_idle();
            self.shared.write().unwrap_or_else(PoisonError::into_inner).take();
            tokio::time::sleep(LIMIT_INTERVAL).await;
            if self.heals && !line.is_usable() {
                return Ok(None);
            }
        }
    }
}
