//! One connection that publishes, and its channels.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};
use std::time::Duration;

use lapin::{Channel, ErrorKind, options::ConfirmSelectOptions};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    error::{OPEN_TIMEOUT, PublishError},
    outgoing::Lane,
    refusals::Refusals,
};
use crate::broker::{connection::Link, wakes::Wakes};

/// Bytes of a header frame that are not properties, a few too many. Such a frame can't be split, and
/// one too large ends the connection.
const FRAME_OVERHEAD: usize = 256;
/// Publishes in flight at once that have a channel to themselves, all lanes together, where
/// `channel_max` allows so many.
const MAX_ALONE: u16 = 256;
/// A shared channel on which a queue refused is replaced this often, at most.
const REPLACE_INTERVAL: Duration = Duration::from_millis(200);
/// Shared channels at once: one in use, and those that were replaced and still wait for confirms.
const MAX_SHARED: u16 = 16;
const LANES: u16 = 3;
/// lapin 4.12 never frees the id of a channel that the server closed: when its number comes round
/// again, `create_channel` fails with the old error. So a connection on which that happened is
/// replaced before the numbers start again.
const MAX_OPENED: u32 = 1000;

/// One connection that publishes.
#[derive(Debug)]
pub(super) struct Line {
    link: Arc<Link>,
    pub(super) wakes: Wakes,
    /// Of the publisher; outlives its connections.
    pub(super) refusals: Arc<Refusals>,
    /// Bytes that properties may take in a header frame of this connection.
    max_properties_len: usize,
    /// Whether RabbitMQ would take larger frames on another connection.
    pub(super) has_small_frames: bool,
    opened: AtomicU32,
    max_opened: u32,
    closed_by_server: AtomicBool,
    /// Nothing new is published on it.
    retired: AtomicBool,
    shared: Arc<Semaphore>,
    outcomes: Pool,
    requests: Pool,
    dead_letters: Pool,
    /// Channels of publishes that were given up while they were written.
    half_written: Mutex<Vec<Channel>>,
    has_half_written: AtomicBool,
}

/// Idle channels, and how many may be in use.
#[derive(Debug)]
struct Pool {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Channel>>,
}

impl Pool {
    fn new(size: u16) -> Self {
        Self { permits: Arc::new(Semaphore::new(usize::from(size))), idle: Mutex::default() }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why no channel was opened.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// The connection has as many as it may.
    LimitReached,
    Failed(PublishError),
}

impl Line {
    pub(super) fn new(link: Arc<Link>, has_small_frames: bool, refusals: Arc<Refusals>) -> Self {
        // Agreed upon when the connection was opened; neither changes.
        let (frame_max, channel_max) = {
            let configuration = link.configuration();
            (configuration.frame_max() as usize, configuration.channel_max())
        };
        let shared = (channel_max / 8).clamp(1, MAX_SHARED);
        // A channel that is closed keeps its number until RabbitMQ has answered.
        let reserve = shared + shared;
        let alone = (channel_max.saturating_sub(reserve).min(MAX_ALONE) / LANES).max(1);
        Self {
            link,
            wakes: Wakes::start(),
            refusals,
            max_properties_len: frame_max.saturating_sub(FRAME_OVERHEAD),
            has_small_frames,
            opened: AtomicU32::new(0),
            max_opened: MAX_OPENED.min(u32::from(channel_max / 2)),
            closed_by_server: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            shared: Arc::new(Semaphore::new(usize::from(shared))),
            outcomes: Pool::new(alone),
            requests: Pool::new(alone),
            dead_letters: Pool::new(alone),
            half_written: Mutex::default(),
            has_half_written: AtomicBool::new(false),
        }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link.status().connected()
    }

    /// Whether new publishes may use it.
    pub(super) fn is_usable(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && self.is_connected()
    }

    pub(super) fn fits(&self, properties_len: usize) -> bool {
        properties_len <= self.max_properties_len
    }

    /// Nothing new is published on it; whoever waits for a channel goes to the next one.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.shared.close();
        for pool in [&self.outcomes, &self.requests, &self.dead_letters] {
            pool.permits.close();
            pool.idle().clear();
        }
    }

    pub(super) fn channel_closed_by_server(&self) {
        self.closed_by_server.store(true, Ordering::Relaxed);
    }

    /// Whether it has to be replaced before channel numbers come round.
    pub(super) fn is_worn(&self) -> bool {
        self.closed_by_server.load(Ordering::Relaxed)
            && self.opened.load(Ordering::Relaxed) >= self.max_opened
    }

    fn pool(&self, lane: Lane) -> &Pool {
        match lane {
            Lane::Outcomes => &self.outcomes,
            Lane::Requests => &self.requests,
            Lane::DeadLetters => &self.dead_letters,
        }
    }

    /// Leave to use a channel of a lane; none if the line is retired. Ends when one of the lane's
    /// publishes is confirmed: RabbitMQ, or the caller that gives one up, stands behind it.
    pub(super) async fn permit(&self, lane: Lane) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.pool(lane).permits).acquire_owned().await.ok()
    }

    /// The same for a channel that publishes share.
    pub(super) async fn shared_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared).acquire_owned().await.ok()
    }

    pub(super) fn idle_channel(&self, lane: Lane) -> Option<Channel> {
        let mut idle = self.pool(lane).idle();
        while let Some(channel) = idle.pop() {
            if channel.status().connected() {
                return Some(channel);
            }
        }
        None
    }

    /// Closes what no publish uses, for the sake of other lanes.
    pub(super) fn close_idle(&self) {
        for pool in [&self.outcomes, &self.requests, &self.dead_letters] {
            pool.idle().clear();
        }
    }

    /// Opens a channel with confirms. Ends in [`OPEN_TIMEOUT`], or, while RabbitMQ is short of
    /// memory or disk and so reads nothing, when it no longer is or the connection is lost.
    pub(super) async fn open(&self) -> Result<Channel, NotOpened> {
        let open = async {
            let channel = self.link.create_channel().await?;
            self.opened.fetch_add(1, Ordering::Relaxed);
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(channel)
        };
        tokio::pin!(open);
        loop {
            match tokio::time::timeout(OPEN_TIMEOUT, &mut open).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) if matches!(error.kind(), ErrorKind::ChannelsLimitReached) => {
                    return Err(NotOpened::LimitReached);
                }
                Ok(Err(error)) => {
                    let error = PublishError::from_lapin(error, self.is_connected());
                    return Err(NotOpened::Failed(error));
                }
                Err(_elapsed) if self.link.status().blocked() => {}
                Err(_elapsed) => return Err(NotOpened::Failed(PublishError::Timeout)),
            }
        }
    }

    /// Channels of publishes that were given up while they were written. Once anything that is
    /// published from now on is written, so are they, and the channels may be closed.
    pub(super) fn take_half_written(&self) -> Vec<Channel> {
        if !self.has_half_written.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut half_written = self.half_written.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_half_written.store(false, Ordering::Relaxed);
        std::mem::take(&mut half_written)
    }

    fn keep_half_written(&self, channel: Channel) {
        self.half_written.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
        self.has_half_written.store(true, Ordering::Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The last publish on it has ended. Outside a runtime, as when the program ends, the socket
        // is shut down without a goodbye.
        if self.link.status().connected()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let link = Arc::clone(&self.link);
            runtime.spawn(async move { link.close().await });
        }
    }
}

/// A channel that publishes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) channel: Channel,
    pub(super) line: Arc<Line>,
    refused: AtomicBool,
    opened_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Shared {
    pub(super) fn new(channel: Channel, line: Arc<Line>, permit: OwnedSemaphorePermit) -> Self {
        Self { channel, line, refused: AtomicBool::new(false), opened_at: Instant::now(), _permit: permit }
    }

    /// Whether new publishes may use it.
    pub(super) fn is_usable(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
            && !self.line.retired.load(Ordering::Relaxed)
            && self.channel.status().connected()
    }

    /// A queue refused a publish. RabbitMQ 3.10 goes on refusing on such a channel, though there is
    /// room again, so the next publish opens another, if not too many still wait for confirms. While
    /// every publish is refused, that is done now and then, not each time.
    pub(super) fn refuse(&self) {
        let is_due = self.opened_at.elapsed() >= REPLACE_INTERVAL;
        if is_due && self.line.shared.available_permits() > 0 {
            self.refused.store(true, Ordering::Relaxed);
        }
    }
}

/// A channel that one publish has to itself.
#[derive(Debug)]
pub(super) struct Alone {
    pub(super) channel: Channel,
    pub(super) line: Arc<Line>,
    pub(super) lane: Lane,
    pub(super) permit: OwnedSemaphorePermit,
}

/// The channel of one publish. Where it is dropped, a channel of its own is closed: with a publish
/// still in flight on it, the next one's return could not be told.
#[derive(Debug)]
pub(super) enum Lease {
    Shared(Arc<Shared>),
    Alone(Alone),
}

impl Lease {
    pub(super) fn line(&self) -> &Arc<Line> {
        match self {
            Self::Shared(shared) => &shared.line,
            Self::Alone(alone) => &alone.line,
        }
    }

    pub(super) fn channel(&self) -> &Channel {
        match self {
            Self::Shared(shared) => &shared.channel,
            Self::Alone(alone) => &alone.channel,
        }
    }

    /// The publish was confirmed: the next one may use the channel.
    pub(super) fn give_back(self) {
        if let Self::Alone(Alone { channel, line, lane, permit }) = self
            && !line.retired.load(Ordering::Relaxed)
        {
            line.pool(lane).idle().push(channel);
            // After the channel, so that whoever waits for it finds one.
            drop(permit);
        }
    }
}

/// A publish that is being written. lapin sends a channel's close before publishes that wait to be
/// written, and RabbitMQ ends the connection for a publish on a closed channel. So the channel of
/// one that is given up meanwhile is kept for a while.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    lease: &'a Lease,
    ended: bool,
}

impl<'a> Writing<'a> {
    pub(super) fn new(lease: &'a Lease) -> Self {
        Self { lease, ended: false }
    }

    /// It was written, or never will be.
    pub(super) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.lease.line().keep_half_written(self.lease.channel().clone());
        }
    }
}
