//! Many requests: pipelined on one channel, each mandatory and confirmed, in constant memory.

use std::{io, time::Duration};

use futures_util::{StreamExt, stream::FuturesOrdered};
use lapin::{
    Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::time::Instant;

use super::{
    REFUSED, closed,
    lines::{Line, Source},
    progress::Progress,
    properties,
    returns::Recent,
    unrouted,
};
use crate::{
    broker::{Topology, topology::REQUEST_KEY},
    cli::{Failure, print, run::Signals},
};

/// Requests in flight at once.
const WINDOW: usize = 1000;
/// How often the progress is shown, and whether anything moves is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long no confirm may come while the broker does not block the connection.
const STALLED: Duration = Duration::from_secs(30);

/// Publishes a source's lines. Says which were not taken, and in the end how many were.
pub(super) async fn publish(
    connection: &lapin::Connection,
    topology: &Topology,
    source: Source,
) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let channel = connection.create_channel().await.map_err(anyhow::Error::from)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(anyhow::Error::from)?;
    let mut bulk = Bulk::new(topology, source.size);
    let mut lines = source.read();
    let mut in_flight = FuturesOrdered::new();
    let mut looks = tokio::time::interval(LOOK);
    let mut blocked = false;
    while bulk.end.is_none() || !in_flight.is_empty() {
        tokio::select! {
            Some((line, confirmation)) = in_flight.next(), if !in_flight.is_empty() => {
                bulk.settle(line, confirmation)?;
            }
            line = lines.recv(), if bulk.end.is_none() && in_flight.len() < WINDOW => {
                if let Some(message) = bulk.take(line)? {
                    in_flight.push_back(message.send(channel.clone(), topology));
                }
            }
            () = signals.next() => {
                // The first signal reads no more, and waits for the confirms that may come.
                if connection.status().blocked() || matches!(bulk.end, Some(End::Told)) {
                    bulk.leave(in_flight.len());
                    break;
                }
                bulk.end.get_or_insert(End::Told);
            }
            _tick = looks.tick() => {
                let now_blocked = connection.status().blocked();
                if now_blocked && !blocked {
                    bulk.progress.note("RabbitMQ is short of memory or disk, and takes nothing for now");
                }
                blocked = now_blocked;
                if blocked && matches!(bulk.end, Some(End::Told)) {
                    bulk.leave(in_flight.len());
                    break;
                }
                bulk.progress.show(bulk.published(), in_flight.len());
                if !connection.status().connected() && in_flight.is_empty() && bulk.end.is_none() {
                    bulk.stop(0, "the connection is gone".to_owned());
                }
                if blocked || in_flight.is_empty() {
                    bulk.moved = Instant::now();
                } else if bulk.moved.elapsed() > STALLED {
                    let silent = in_flight.len() as u64;
                    bulk.stop(silent, format!("no confirm within {} s", STALLED.as_secs()));
                    break;
                }
            }
        }
    }
    bulk.report()
}

/// Why no further line is read.
enum End {
    /// There is none.
    Read,
    /// By a signal.
    Told,
    /// The source or RabbitMQ failed.
    Failed(String),
}

/// A line on its way.
struct Message {
    line: Line,
    properties: lapin::BasicProperties,
}

impl Message {
    async fn send(self, channel: Channel, topology: &Topology) -> (u64, lapin::Result<Confirmation>) {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let (exchange, key) = (topology.exchange().into(), REQUEST_KEY.into());
        let publish = channel.basic_publish(exchange, key, options, &self.line.text, self.properties);
        let confirmation = match publish.await {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        (self.line.number, confirmation)
    }
}

/// What became of the lines so far.
struct Bulk<'a> {
    topology: &'a Topology,
    progress: Progress,
    recent: Recent,
    end: Option<End>,
    /// When a confirm came last.
    moved: Instant,
    last_line: u64,
    requests: u64,
    /// Confirms, of which RabbitMQ gives one for what it returned, too.
    confirms: u64,
    invalid: u64,
    unrouted: u64,
    refused: u64,
    unknown: u64,
}

impl<'a> Bulk<'a> {
    fn new(topology: &'a Topology, size: Option<u64>) -> Self {
        Self {
            topology,
            progress: Progress::new(size),
            recent: Recent::new(2 * WINDOW),
            end: None,
            moved: Instant::now(),
            last_line: 0,
            requests: 0,
            confirms: 0,
            invalid: 0,
            unrouted: 0,
            refused: 0,
            unknown: 0,
        }
    }

    /// What a line asks to publish, if it does.
    fn take(&mut self, line: Option<io::Result<Line>>) -> Result<Option<Message>, Failure> {
        let line = match line {
            None => {
                self.end = Some(End::Read);
                return Ok(None);
            }
            Some(Err(error)) => {
                self.end = Some(End::Failed(format!("reading failed: {error}")));
                return Ok(None);
            }
            Some(Ok(line)) => line,
        };
        self.progress.read(line.length);
        self.last_line = line.number;
        if line.is_blank() {
            return Ok(None);
        }
        self.requests += 1;
        let properties = match line.ids() {
            Ok(ids) => {
                let message_id = ids.message_id.map_or_else(|| uuid::Uuid::now_v7().to_string(), Into::into);
                let properties = properties(&message_id);
                self.recent.add(message_id, line.number);
                match ids.correlation_id {
                    Some(id) => properties.with_correlation_id(id.as_ref().into()),
                    None => properties,
                }
            }
            Err(why) => {
                self.invalid += 1;
                self.say(line.number, format_args!("invalid: {why}"))?;
                return Ok(None);
            }
        };
        Ok(Some(Message { line, properties }))
    }

    fn settle(&mut self, line: u64, confirmation: lapin::Result<Confirmation>) -> Result<(), Failure> {
        self.moved = Instant::now();
        let returned = match confirmation {
            Ok(Confirmation::Ack(returned)) => {
                self.confirms += 1;
                returned
            }
            Ok(Confirmation::Nack(returned)) => {
                self.refused += 1;
                self.say(line, format_args!("refused"))?;
                returned
            }
            Ok(Confirmation::NotRequested) => {
                self.stop(1, "the channel is not in confirm mode".to_owned());
                None
            }
            Err(error) => {
                self.stop(1, closed(&error, self.topology).unwrap_or_else(|| error.to_string()));
                None
            }
        };
        let Some(returned) = returned else {
            return Ok(());
        };
        self.unrouted += 1;
        let id = returned.properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        // It is one of the lines of late; to say which takes its id alone.
        let line = id.and_then(|id| self.recent.take(&id)).unwrap_or(line);
        self.say(line, format_args!("unrouted"))
    }

    fn published(&self) -> u64 {
        self.confirms.saturating_sub(self.unrouted)
    }

    /// So many requests may or may not have been published; the first reason is the one that counts.
    fn stop(&mut self, unknown: u64, why: String) {
        self.unknown += unknown;
        if !matches!(self.end, Some(End::Failed(_))) {
            self.end = Some(End::Failed(why));
        }
    }

    /// Told to stop: waits for no confirm any more.
    fn leave(&mut self, in_flight: usize) {
        self.unknown += in_flight as u64;
        self.end = Some(End::Told);
    }

    fn say(&self, line: u64, what: std::fmt::Arguments<'_>) -> Result<(), Failure> {
        self.progress.aside(|| print(format_args!("line {line}: {what}")))
    }

    fn report(self) -> Result<(), Failure> {
        let took = self.progress.finish().as_secs_f64();
        if self.unrouted > 0 {
            eprintln!("unrouted: {}", unrouted(self.topology));
        }
        if self.refused > 0 {
            eprintln!("refused: {REFUSED}");
        }
        let mut sum = format!("published {} of {} requests in {took:.1} s", self.published(), self.requests);
        for (count, what) in [
            (self.invalid, "invalid"),
            (self.unrouted, "unrouted"),
            (self.refused, "refused"),
            (self.unknown, "not known to be published"),
        ] {
            if count > 0 {
                sum.push_str(&format!(", {count} {what}"));
            }
        }
        print(format_args!("{sum}"))?;
        let stopped = match &self.end {
            None | Some(End::Read) => None,
            Some(End::Told) => Some("told to".to_owned()),
            Some(End::Failed(why)) => Some(why.clone()),
        };
        if let Some(why) = &stopped {
            eprintln!("unlocker: stopped after line {}: {why}", self.last_line);
        }
        let taken = stopped.is_none() && self.published() == self.requests;
        if taken { Ok(()) } else { Err(Failure::Reported) }
    }
}
