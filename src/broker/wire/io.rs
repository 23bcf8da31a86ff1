//! The task of a connection: reads, writes, and sends heartbeats.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::protocol::{AMQPClass, channel, connection, constants};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
};

use super::{
    WireError,
    frame::{Assembly, Event, Frame, LeavesBody, encode, encode_method},
    handshake::{Limits, read_frame},
};

/// The task's state of one channel.
#[derive(Debug)]
struct Slot {
    assembly: Assembly,
    /// `None`: the channel was dropped, and RabbitMQ has been asked to close it.
    events: Option<UnboundedSender<Result<Event, WireError>>>,
}

/// State shared by the task, the connection and its channels.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    channels: Mutex<HashMap<u16, Slot>>,
    /// Why the connection ended.
    end: OnceLock<WireError>,
    /// Whether RabbitMQ blocks the connection because it is short of memory or disk.
    blocked: AtomicBool,
    /// Bytes to write.
    outgoing: UnboundedSender<Vec<u8>>,
}

impl Shared {
    pub(super) fn new(limits: Limits, outgoing: UnboundedSender<Vec<u8>>) -> Self {
        Self {
            limits,
            channels: Mutex::default(),
            end: OnceLock::new(),
            blocked: AtomicBool::new(false),
            outgoing,
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    pub(super) fn is_open(&self) -> bool {
        self.end.get().is_none()
    }

    /// Why the connection ended or is ending.
    pub(super) fn end(&self) -> WireError {
        self.end.get().cloned().unwrap_or_else(|| WireError::Lost("the connection is closed".to_owned()))
    }

    pub(super) fn send(&self, bytes: Vec<u8>) -> Result<(), WireError> {
        self.outgoing.send(bytes).map_err(|_closed| self.end())
    }

    /// Registers a channel, whose events go to `events`. Returns its number.
    pub(super) fn add_channel(
        &self,
        events: UnboundedSender<Result<Event, WireError>>,
    ) -> Result<u16, WireError> {
        let mut channels = self.channels();
        if let Some(end) = self.end.get() {
            return Err(end.clone());
        }
        let free = (1..=self.limits.channel_max).find(|id| !channels.contains_key(id));
        let id =
            free.ok_or_else(|| WireError::Lost("all channels of the connection are in use".to_owned()))?;
        channels.insert(id, Slot { assembly: Assembly::default(), events: Some(events) });
        Ok(id)
    }

    /// The channel was dropped. `true` if RabbitMQ has not closed it already.
    pub(super) fn release_channel(&self, channel: u16) -> bool {
        match self.channels().get_mut(&channel) {
            Some(slot) => slot.events.take().is_some(),
            None => false,
        }
    }

    /// From now on the channel's deliveries for which this holds are passed on without their bodies.
    pub(super) fn leave_bodies(&self, channel: u16, leaves: Box<LeavesBody>) {
        if let Some(slot) = self.channels().get_mut(&channel) {
            slot.assembly.leaves_body = Some(leaves);
        }
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<u16, Slot>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all channels with the error.
    fn finish(&self, error: WireError) {
        let error = self.end.get_or_init(|| error).clone();
        for slot in self.channels().drain().filter_map(|(_, slot)| slot.events) {
            // The channel may have been dropped.
            slot.send(Err(error.clone())).ok();
        }
    }

    /// Processes a frame on a channel. Ignores it if there is no such channel.
    fn channel_frame(&self, frame: &Frame) -> Result<(), WireError> {
        let mut channels = self.channels();
        let Some(slot) = channels.get_mut(&frame.channel) else {
            return Ok(());
        };
        let Some(event) = slot.assembly.add(frame)? else {
            return Ok(());
        };
        let result = match event {
            Event::Method(AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                let close_ok = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
                self.send(encode_method(frame.channel, &close_ok)?)?;
                Err(WireError::ChannelClosed { code: close.reply_code, text: close.reply_text.to_string() })
            }
            event => Ok(event),
        };
        let is_over =
            matches!(result, Err(_) | Ok(Event::Method(AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)))));
        if let Some(events) = &slot.events {
            // The channel may have been dropped.
            events.send(result).ok();
        }
        if is_over {
            channels.remove(&frame.channel);
        }
        Ok(())
    }

    /// Processes a method of the connection.
    fn connection_method(&self, method: connection::AMQPMethod) -> Result<(), WireError> {
        match method {
            connection::AMQPMethod::Close(close) => {
                let close_ok = AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
                self.send(encode_method(0, &close_ok)?)?;
                let text = close.reply_text.to_string();
                Err(WireError::ConnectionClosed { code: close.reply_code, text })
            }
            connection::AMQPMethod::CloseOk(_) => Err(WireError::Lost("the connection is closed".to_owned())),
            connection::AMQPMethod::Blocked(_) => {
                self.blocked.store(true, Ordering::Relaxed);
                Ok(())
            }
            connection::AMQPMethod::Unblocked(_) => {
                self.blocked.store(false, Ordering::Relaxed);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Reads and writes until the connection ends.
pub(super) async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    shared: Arc<Shared>,
    outgoing: UnboundedReceiver<Vec<u8>>,
) {
    let (reader, writer) = tokio::io::split(stream);
    let ended = tokio::select! {
        biased;
        Err(ended) = read(BufReader::with_capacity(64 * 1024, reader), &shared) => ended,
        Err(ended) = write(writer, &shared, outgoing) => ended,
        else => WireError::Lost("the connection is closed".to_owned()),
    };
    shared.finish(ended);
}

async fn read(mut reader: impl AsyncRead + Unpin, shared: &Shared) -> Result<(), WireError> {
    let timeout = heartbeat(shared).map_or(Duration::MAX, |heartbeat| 2 * heartbeat);
    let frame_max = usize::try_from(shared.limits.frame_max).unwrap_or(usize::MAX);
    loop {
        let frame = tokio::time::timeout(timeout, read_frame(&mut reader, frame_max)).await;
        let frame = frame.map_err(|_elapsed| WireError::Lost("no heartbeat from RabbitMQ".to_owned()))??;
        match (frame.kind, frame.channel) {
            (constants::FRAME_HEARTBEAT, _) => {}
            (constants::FRAME_METHOD, 0) => match super::frame::parse_method(&frame.payload)? {
                AMQPClass::Connection(method) => shared.connection_method(method)?,
                _ => return Err(WireError::Protocol("a channel's method on no channel")),
            },
            _ => shared.channel_frame(&frame)?,
        }
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    shared: &Shared,
    mut outgoing: UnboundedReceiver<Vec<u8>>,
) -> Result<(), WireError> {
    let interval = heartbeat(shared).map_or(Duration::MAX, |heartbeat| heartbeat / 2);
    loop {
        let bytes = match tokio::time::timeout(interval, outgoing.recv()).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(WireError::Lost("the connection is closed".to_owned())),
            Err(_elapsed) => encode(constants::FRAME_HEARTBEAT, 0, &[]),
        };
        writer.write_all(&bytes).await?;
        writer.flush().await?;
    }
}

fn heartbeat(shared: &Shared) -> Option<Duration> {
    match shared.limits.heartbeat {
        0 => None,
        seconds => Some(Duration::from_secs(seconds.into())),
    }
}
