//! Publishes many requests: pipelined on one channel, each mandatory and confirmed, in constant
//! memory.

use std::{io, time::Duration};

use futures_util::{StreamExt, stream::FuturesOrdered};
use lapin::{
    Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::time::Instant;

use super::{
    lines::{Line, Source},
    progress::Progress,
    request::{DeliveryArgs, REFUSED, closed, unrouted},
    returns::Recent,
};
use crate::{
    broker::{Topology, topology::REQUEST_KEY},
    cli::{failure::Failure, print::print, run::Signals},
};

/// The most requests in flight.
const MAX_IN_FLIGHT: usize = 1000;
/// How often to show the progress and to check for a stall.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How long to wait for the next confirm while the broker does not block the connection.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Publishes the lines of a source. Prints each line that failed, and a total at the end.
pub(super) async fn publish(
    connection: &lapin::Connection,
    topology: &Topology,
    source: Source,
    delivery: &DeliveryArgs,
) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let channel = connection.create_channel().await.map_err(anyhow::Error::from)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(anyhow::Error::from)?;
    let mut bulk = Bulk::new(topology, delivery, source.size);
    let mut lines = source.read();
    let mut in_flight = FuturesOrdered::new();
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    let mut blocked = false;
    while bulk.end.is_none() || !in_flight.is_empty() {
        tokio::select! {
            Some((line, confirmation)) = in_flight.next(), if !in_flight.is_empty() => {
                bulk.settle(line, confirmation)?;
            }
            line = lines.recv(), if bulk.end.is_none() && in_flight.len() < MAX_IN_FLIGHT => {
                if let Some(message) = bulk.next_message(line)? {
                    in_flight.push_back(message.send(channel.clone(), topology));
                }
            }
            () = signals.next() => {
                // At the first signal it stops reading and waits for the confirms in flight.
                if connection.status().blocked() || matches!(bulk.end, Some(InputEnd::Stopped)) {
                    bulk.abandon_in_flight(in_flight.len());
                    break;
                }
                bulk.end.get_or_insert(InputEnd::Stopped);
            }
            _tick = ticks.tick() => {
                let now_blocked = connection.status().blocked();
                if now_blocked && !blocked {
                    bulk.progress.note("RabbitMQ is short of memory or disk and blocks publishing");
                }
                blocked = now_blocked;
                if blocked && matches!(bulk.end, Some(InputEnd::Stopped)) {
                    bulk.abandon_in_flight(in_flight.len());
                    break;
                }
                bulk.progress.show(bulk.published(), in_flight.len());
                if !connection.status().connected() && in_flight.is_empty() && bulk.end.is_none() {
                    bulk.stop(0, "the connection is gone".to_owned());
                }
                if blocked || in_flight.is_empty() {
                    bulk.last_confirm = Instant::now();
                } else if bulk.last_confirm.elapsed() > STALL_TIMEOUT {
                    let silent = in_flight.len() as u64;
                    bulk.stop(silent, format!("no confirm within {} s", STALL_TIMEOUT.as_secs()));
                    break;
                }
            }
        }
    }
    bulk.report()
}

/// Why reading has ended.
enum InputEnd {
    /// There are no more lines.
    AllRead,
    /// By a signal.
    Stopped,
    /// The source or RabbitMQ failed.
    Failed(String),
}

/// A line that is published.
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

/// The results of the lines so far.
struct Bulk<'a> {
    topology: &'a Topology,
    delivery: &'a DeliveryArgs,
    progress: Progress,
    recent: Recent,
    end: Option<InputEnd>,
    /// The time of the last confirm.
    last_confirm: Instant,
    last_line: u64,
    requests: u64,
    /// RabbitMQ also confirms messages that it has returned.
    confirms: u64,
    invalid: u64,
    unrouted: u64,
    refused: u64,
    unknown: u64,
}

impl<'a> Bulk<'a> {
    fn new(topology: &'a Topology, delivery: &'a DeliveryArgs, size: Option<u64>) -> Self {
        Self {
            topology,
            delivery,
            progress: Progress::new(size),
            recent: Recent::new(2 * MAX_IN_FLIGHT),
            end: None,
            last_confirm: Instant::now(),
            last_line: 0,
            requests: 0,
            confirms: 0,
            invalid: 0,
            unrouted: 0,
            refused: 0,
            unknown: 0,
        }
    }

    /// The message to publish for a line, if any.
    fn next_message(&mut self, line: Option<io::Result<Line>>) -> Result<Option<Message>, Failure> {
        let line = match line {
            None => {
                self.end = Some(InputEnd::AllRead);
                return Ok(None);
            }
            Some(Err(error)) => {
                self.end = Some(InputEnd::Failed(format!("reading failed: {error}")));
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
                let id = ids.message_id.or(ids.request_id);
                let message_id = id.map_or_else(|| uuid::Uuid::now_v7().to_string(), Into::into);
                let properties = self.delivery.properties(&message_id);
                self.recent.add(message_id, line.number);
                match ids.correlation_id {
                    Some(id) => properties.with_correlation_id(id.as_ref().into()),
                    None => properties,
                }
            }
            Err(why) => {
                self.invalid += 1;
                self.print_line(line.number, format_args!("invalid: {why}"))?;
                return Ok(None);
            }
        };
        Ok(Some(Message { line, properties }))
    }

    fn settle(&mut self, line: u64, confirmation: lapin::Result<Confirmation>) -> Result<(), Failure> {
        self.last_confirm = Instant::now();
        let returned = match confirmation {
            Ok(Confirmation::Ack(returned)) => {
                self.confirms += 1;
                returned
            }
            Ok(Confirmation::Nack(returned)) => {
                self.refused += 1;
                self.print_line(line, format_args!("refused"))?;
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
        // The message id tells which of the recent lines was returned.
        let line = id.and_then(|id| self.recent.take(&id)).unwrap_or(line);
        self.print_line(line, format_args!("unrouted"))
    }

    fn published(&self) -> u64 {
        self.confirms.saturating_sub(self.unrouted)
    }

    /// Ends reading. `unknown` requests may or may not have been published. Keeps the first reason.
    fn stop(&mut self, unknown: u64, why: String) {
        self.unknown += unknown;
        if !matches!(self.end, Some(InputEnd::Failed(_))) {
            self.end = Some(InputEnd::Failed(why));
        }
    }

    /// Stops without waiting for more confirms.
    fn abandon_in_flight(&mut self, in_flight: usize) {
        self.unknown += in_flight as u64;
        self.end = Some(InputEnd::Stopped);
    }

    fn print_line(&self, line: u64, what: std::fmt::Arguments<'_>) -> Result<(), Failure> {
        self.progress.suspend(|| print(format_args!("line {line}: {what}")))
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
            None | Some(InputEnd::AllRead) => None,
            Some(InputEnd::Stopped) => Some("by a signal".to_owned()),
            Some(InputEnd::Failed(why)) => Some(why.clone()),
        };
        if let Some(why) = &stopped {
            eprintln!("unlocker: stopped after line {}: {why}", self.last_line);
        }
        let taken = stopped.is_none() && self.published() == self.requests;
        if taken { Ok(()) } else { Err(Failure::Reported) }
    }
}
