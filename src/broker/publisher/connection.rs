//! One connection that publishes, and its channels.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

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
use crate::broker::{connection::Connection, wake_coalescer::WakeCoalescer};

/// Bytes of a header frame that are not properties, a few too many. A header frame cannot be split,
/// and one that is too large ends the connection.
const FRAME_OVERHEAD: usize = 256;
/// How many exclusive channels of all lanes may be in use at once, if `channel_max` allows it.
const MAX_EXCLUSIVE_CHANNELS: u16 = 256;
/// A shared channel on which a queue refused is replaced only when it is at least this old.
const MIN_CHANNEL_AGE: Duration = Duration::from_millis(200);
/// How many shared channels may be open: one in use, and replaced ones that still wait for confirms.
const MAX_SHARED_CHANNELS: u16 = 16;
const LANES: u16 = 3;
/// lapin 4.12 never frees the number of a channel that RabbitMQ closed: when it is used again,
/// `create_channel` fails with the old error. So a connection on which this happened is replaced
/// before its channel numbers start again.
const MAX_OPENED_CHANNELS: u32 = 1000;

/// One connection that publishes.
#[derive(Debug)]
pub(super) struct PublishConnection {
    amqp: Arc<Connection>,
    pub(super) wake_coalescer: WakeCoalescer,
    /// Shared by all connections of the publisher.
    pub(super) refusals: Arc<Refusals>,
    /// The largest properties in a header frame of this connection, in bytes.
    max_properties_len: usize,
    /// Whether another connection could have larger frames.
    pub(super) has_small_frames: bool,
    opened: AtomicU32,
    max_opened: u32,
    closed_by_server: AtomicBool,
    /// Nothing new is published on it.
    retired: AtomicBool,
    shared: Arc<Semaphore>,
    outcomes: LaneChannels,
    requests: LaneChannels,
    dead_letters: LaneChannels,
    /// Channels of publishes that were dropped while they were written.
    half_written: Mutex<Vec<Channel>>,
    has_half_written: AtomicBool,
}

/// Idle channels, and how many may be in use.
#[derive(Debug)]
struct LaneChannels {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Channel>>,
}

impl LaneChannels {
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
    /// The connection has as many channels as it may.
    LimitReached,
    Failed(PublishError),
}

impl PublishConnection {
    pub(super) fn new(amqp: Arc<Connection>, has_small_frames: bool, refusals: Arc<Refusals>) -> Self {
        // Negotiated when the connection was opened; both stay the same.
        let (frame_max, channel_max) = {
            let configuration = amqp.configuration();
            (configuration.frame_max() as usize, configuration.channel_max())
        };
        let shared = (channel_max / 8).clamp(1, MAX_SHARED_CHANNELS);
        // A closed channel keeps its number until RabbitMQ has answered.
        let reserve = shared + shared;
        let exclusive = (channel_max.saturating_sub(reserve).min(MAX_EXCLUSIVE_CHANNELS) / LANES).max(1);
        Self {
            amqp,
            wake_coalescer: WakeCoalescer::start(),
            refusals,
            max_properties_len: frame_max.saturating_sub(FRAME_OVERHEAD),
            has_small_frames,
            opened: AtomicU32::new(0),
            max_opened: MAX_OPENED_CHANNELS.min(u32::from(channel_max / 2)),
            closed_by_server: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            shared: Arc::new(Semaphore::new(usize::from(shared))),
            outcomes: LaneChannels::new(exclusive),
            requests: LaneChannels::new(exclusive),
            dead_letters: LaneChannels::new(exclusive),
            half_written: Mutex::default(),
            has_half_written: AtomicBool::new(false),
        }
    }

    pub(super) fn amqp(&self) -> &Arc<Connection> {
        &self.amqp
    }

    pub(super) fn is_connected(&self) -> bool {
        self.amqp.status().connected()
    }

    /// Whether new publishes may use it.
    pub(super) fn is_usable(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && self.is_connected()
    }

    pub(super) fn fits(&self, properties_len: usize) -> bool {
        properties_len <= self.max_properties_len
    }

    /// Stops new publishes on it. Those that wait for a channel use the next connection.
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

    /// Whether it has to be replaced before channel numbers are used again.
    pub(super) fn needs_replacement(&self) -> bool {
        self.closed_by_server.load(Ordering::Relaxed)
            && self.opened.load(Ordering::Relaxed) >= self.max_opened
    }

    fn pool(&self, lane: Lane) -> &LaneChannels {
        match lane {
            Lane::Outcomes => &self.outcomes,
            Lane::Requests => &self.requests,
            Lane::DeadLetters => &self.dead_letters,
        }
    }

    /// A permit to use a channel of a lane; `None` if the connection is retired. Waits until a publish
    /// of the lane is confirmed or dropped.
    pub(super) async fn permit(&self, lane: Lane) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.pool(lane).permits).acquire_owned().await.ok()
    }

    /// A permit to open a shared channel; `None` if the connection is retired.
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

    /// Closes idle channels, so that other lanes can open theirs.
    pub(super) fn close_idle(&self) {
        for pool in [&self.outcomes, &self.requests, &self.dead_letters] {
            pool.idle().clear();
        }
    }

    /// Opens a channel with confirms, within [`OPEN_TIMEOUT`]. While RabbitMQ is short of memory or
    /// disk it reads nothing; then this waits until that is over or the connection is lost.
    pub(super) async fn open(&self) -> Result<Channel, NotOpened> {
        let open = async {
            let channel = self.amqp.create_channel().await?;
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
                Err(_elapsed) if self.amqp.status().blocked() => {}
                Err(_elapsed) => return Err(NotOpened::Failed(PublishError::Timeout)),
            }
        }
    }

    /// Takes the channels of publishes that were dropped while they were written. As soon as any later
    /// publish is written, they are written, too, and the channels may be closed.
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

impl Drop for PublishConnection {
    fn drop(&mut self) {
        // The last publish on it has ended. Outside a runtime (when the program ends) the socket is shut
        // down without a close.
        if self.amqp.status().connected()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let amqp = Arc::clone(&self.amqp);
            runtime.spawn(async move { amqp.close().await });
        }
    }
}

/// A channel that many publishes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) channel: Channel,
    pub(super) connection: Arc<PublishConnection>,
    refused: AtomicBool,
    opened_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Shared {
    pub(super) fn new(
        channel: Channel,
        connection: Arc<PublishConnection>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            channel,
            connection,
            refused: AtomicBool::new(false),
            opened_at: Instant::now(),
            _permit: permit,
        }
    }

    /// Whether new publishes may use it.
    pub(super) fn is_usable(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
            && !self.connection.retired.load(Ordering::Relaxed)
            && self.channel.status().connected()
    }

    /// A queue refused a publish. RabbitMQ 3.10 continues to refuse on this channel even when the queue
    /// has space again. So the next publish opens another channel, unless too many old ones still wait
    /// for confirms, or this one is younger than [`MIN_CHANNEL_AGE`].
    pub(super) fn mark_refused(&self) {
        let is_due = self.opened_at.elapsed() >= MIN_CHANNEL_AGE;
        if is_due && self.connection.shared.available_permits() > 0 {
            self.refused.store(true, Ordering::Relaxed);
        }
    }
}

/// A channel for one publish at a time.
#[derive(Debug)]
pub(super) struct Exclusive {
    pub(super) channel: Channel,
    pub(super) connection: Arc<PublishConnection>,
    pub(super) lane: Lane,
    pub(super) permit: OwnedSemaphorePermit,
}

/// The channel of one publish. Dropping it closes an exclusive channel: its publish may still be in
/// flight, and a return could then not be assigned to the right publish.
#[derive(Debug)]
pub(super) enum Lease {
    Shared(Arc<Shared>),
    Exclusive(Exclusive),
}

impl Lease {
    pub(super) fn connection(&self) -> &Arc<PublishConnection> {
        match self {
            Self::Shared(shared) => &shared.connection,
            Self::Exclusive(exclusive) => &exclusive.connection,
        }
    }

    pub(super) fn channel(&self) -> &Channel {
        match self {
            Self::Shared(shared) => &shared.channel,
            Self::Exclusive(exclusive) => &exclusive.channel,
        }
    }

    /// The publish was confirmed: the next one may use the channel.
    pub(super) fn release(self) {
        if let Self::Exclusive(Exclusive { channel, connection, lane, permit }) = self
            && !connection.retired.load(Ordering::Relaxed)
        {
            connection.pool(lane).idle().push(channel);
            // After the channel was returned, so that the next publish finds it.
            drop(permit);
        }
    }
}

/// A publish that is being written. lapin sends the close of a channel before publishes that still
/// wait to be written, and RabbitMQ ends the connection when it receives a publish on a closed channel.
/// So if this is dropped before the publish is written, the channel stays open for a while.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    lease: &'a Lease,
    ended: bool,
}

impl<'a> Writing<'a> {
    pub(super) fn new(lease: &'a Lease) -> Self {
        Self { lease, ended: false }
    }

    /// The publish was written, or it failed.
    pub(super) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.lease.connection().keep_half_written(self.lease.channel().clone());
        }
    }
}
