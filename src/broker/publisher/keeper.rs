//! Keeps a publisher's connection open: replaces one that is lost, worn, or whose frames are too
//! small, while the session lives on.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::{StreamExt, stream::BoxStream};
use lapin::Event;
use tokio::{sync::mpsc::UnboundedSender, time::Instant};

use super::{line::Line, lines::Lines};
use crate::broker::{Backoff, ConnectError, Connector};

/// What happens to the connection that publishes.
#[derive(Debug)]
pub(crate) enum PublishingEvent {
    /// RabbitMQ is short of memory or disk, and takes no messages for now.
    Blocked(String),
    Unblocked,
}

/// The lines that were replaced and may still have publishes in flight.
#[derive(Debug, Default)]
pub(super) struct OldLines(RwLock<Vec<std::sync::Weak<Line>>>);

impl OldLines {
    fn push(&self, line: &Arc<Line>) {
        let mut lines = self.0.write().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|line| line.strong_count() > 0);
        lines.push(Arc::downgrade(line));
    }

    pub(super) fn take(&self) -> Vec<Arc<Line>> {
        let lines = std::mem::take(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner));
        lines.iter().filter_map(std::sync::Weak::upgrade).collect()
    }
}

/// Opens one line after the other, until the publisher is closed.
pub(super) struct Keeper {
    pub(super) lines: Arc<Lines>,
    pub(super) old: Arc<OldLines>,
    pub(super) connector: Connector,
    pub(super) events: UnboundedSender<PublishingEvent>,
    pub(super) blocked: bool,
    pub(super) backoff: Backoff,
    /// Not before then is a line replaced that still works.
    pub(super) replace_at: Instant,
}

/// A line that stayed open so long was a good one.
const PROVEN_AFTER: Duration = Duration::from_secs(10);

pub(super) async fn open(connector: &Connector, lines: &Lines) -> Result<Arc<Line>, ConnectError> {
    let (link, has_small_frames) = connector.connect_to_publish(lines.needs_large_frames()).await?;
    Ok(Arc::new(Line::new(Arc::new(link), has_small_frames, Arc::clone(&lines.refusals))))
}

impl Keeper {
    pub(super) async fn run(mut self, first: Arc<Line>) {
        let over = self.lines.over.clone();
        // Whatever is in flight when the publisher is closed ends with its connections.
        over.run_until_cancelled(async {
            let mut line = first;
            loop {
                let opened = Instant::now();
                let lost = self.watch(&line).await;
                if lost && opened.elapsed() >= PROVEN_AFTER {
                    self.backoff.reset();
                }
                line = match lost {
                    true => self.reopen(&line).await,
                    false => self.replace(line).await,
                };
            }
        })
        .await;
    }

    /// Waits until the line is lost (`true`), or had better be replaced.
    async fn watch(&mut self, line: &Arc<Line>) -> bool {
        let mut events = line.events();
        loop {
            if !line.is_connected() {
                return true;
            }
            let replace = line.is_worn() || (line.has_small_frames && self.lines.needs_large_frames());
            tokio::select! {
                event = events.next() => match event {
                    // RabbitMQ closed a channel alone; whoever uses the channel is told.
                    Some(Event::Error(error)) if error.is_amqp_soft_error() => line.channel_closed_by_server(),
                    Some(Event::Error(error)) => {
                        tracing::warn!(%error, "the connection that publishes is lost: it is opened anew");
                        return true;
                    }
                    Some(Event::ConnectionBlocked(reason)) => self.tell_blocked(reason),
                    Some(Event::ConnectionUnblocked) => self.tell_unblocked(),
                    Some(_) => {}
                    None => return true,
                },
                () = self.lines.look.notified() => {}
                () = tokio::time::sleep_until(self.replace_at), if replace => return false,
            }
        }
    }

    /// Opens a line in the place of one that is lost. Publishes wait meanwhile, and those in flight
    /// have failed.
    async fn reopen(&mut self, lost: &Arc<Line>) -> Arc<Line> {
        self.lines.replace(None);
        // lapin ends its thread when the socket is closed.
        lost.link().close().await;
        self.tell_unblocked();
        loop {
            tokio::time::sleep(self.backoff.next(fastrand::f64())).await;
            match open(&self.connector, &self.lines).await {
                Ok(line) => {
                    tracing::info!("the connection that publishes is open again");
                    self.lines.replace(Some(Arc::clone(&line)));
                    return line;
                }
                Err(error) => tracing::warn!("not publishing: RabbitMQ cannot be reached: {error}"),
            }
        }
    }

    /// Opens a line in the place of one that still works, and goes on with that if it can't.
    async fn replace(&mut self, old: Arc<Line>) -> Arc<Line> {
        match open(&self.connector, &self.lines).await {
            Ok(line) => {
                tracing::debug!("another connection publishes from now on");
                self.old.push(&old);
                self.lines.replace(Some(Arc::clone(&line)));
                self.tell_unblocked();
                line
            }
            Err(error) => {
                tracing::warn!("the connection that publishes cannot be replaced: {error}");
                self.replace_at = Instant::now() + self.backoff.next(fastrand::f64());
                old
            }
        }
    }

    fn tell_blocked(&mut self, reason: String) {
        self.blocked = true;
        self.events.send(PublishingEvent::Blocked(reason)).ok();
    }

    fn tell_unblocked(&mut self) {
        if std::mem::take(&mut self.blocked) {
            self.events.send(PublishingEvent::Unblocked).ok();
        }
    }
}

impl Line {
    fn events(&self) -> BoxStream<'static, Event> {
        self.link().events_listener().boxed()
    }
}
