//! Keeps a publisher's connection open during a session: replaces it when it is lost, when it has used
//! up its channel numbers, or when its frames are too small.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::{StreamExt, stream::BoxStream};
use lapin::Event;
use tokio::{sync::mpsc::UnboundedSender, time::Instant};

use super::{connection::PublishConnection, pool::ChannelPool};
use crate::{
    broker::{Backoff, ConnectError, Connector},
    telemetry::LogThrottle,
};

/// An event on the connection that publishes.
#[derive(Debug)]
pub(crate) enum PublishingEvent {
    /// RabbitMQ is short of memory or disk, and accepts no messages for now.
    Blocked(String),
    Unblocked,
}

/// The connections that were replaced and may still have publishes in flight.
#[derive(Debug, Default)]
pub(super) struct ReplacedConnections(RwLock<Vec<std::sync::Weak<PublishConnection>>>);

impl ReplacedConnections {
    fn push(&self, connection: &Arc<PublishConnection>) {
        let mut connections = self.0.write().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(connection));
    }

    pub(super) fn take(&self) -> Vec<Arc<PublishConnection>> {
        let connections = std::mem::take(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner));
        connections.iter().filter_map(std::sync::Weak::upgrade).collect()
    }
}

/// Opens one connection after the other, until the publisher is closed.
pub(super) struct Keeper {
    pub(super) pool: Arc<ChannelPool>,
    pub(super) replaced: Arc<ReplacedConnections>,
    pub(super) connector: Connector,
    pub(super) events: UnboundedSender<PublishingEvent>,
    pub(super) blocked: bool,
    pub(super) backoff: Backoff,
    /// A connection that still works is not replaced before this time.
    pub(super) replace_at: Instant,
    pub(super) throttle: LogThrottle,
}

/// After a connection was open this long, the backoff starts again at its minimum.
const STABLE_AFTER: Duration = Duration::from_secs(10);

pub(super) async fn open(
    connector: &Connector,
    pool: &ChannelPool,
) -> Result<Arc<PublishConnection>, ConnectError> {
    let (amqp, has_small_frames) = connector.connect_to_publish(pool.needs_large_frames()).await?;
    Ok(Arc::new(PublishConnection::new(Arc::new(amqp), has_small_frames, Arc::clone(&pool.refusals))))
}

impl Keeper {
    pub(super) async fn run(mut self, first: Arc<PublishConnection>) {
        let closed = self.pool.closed.clone();
        // What is in flight when the publisher is closed fails with its connections.
        closed
            .run_until_cancelled(async {
                let mut connection = first;
                loop {
                    let opened = Instant::now();
                    let lost = self.watch(&connection).await;
                    if lost && opened.elapsed() >= STABLE_AFTER {
                        self.backoff.reset();
                    }
                    connection = match lost {
                        true => self.reopen(&connection).await,
                        false => self.replace(connection).await,
                    };
                }
            })
            .await;
    }

    /// Waits until the connection is lost (`true`) or should be replaced (`false`).
    async fn watch(&mut self, connection: &Arc<PublishConnection>) -> bool {
        let mut events = connection.events();
        loop {
            if !connection.is_connected() {
                return true;
            }
            let replace = connection.needs_replacement()
                || (connection.has_small_frames && self.pool.needs_large_frames());
            tokio::select! {
                event = events.next() => match event {
                    // RabbitMQ closed only a channel. The user of the channel gets the error.
                    Some(Event::Error(error)) if error.is_amqp_soft_error() => connection.channel_closed_by_server(),
                    Some(Event::Error(error)) => {
                        self.warn_lost(&error);
                        return true;
                    }
                    Some(Event::ConnectionBlocked(reason)) => self.report_blocked(reason),
                    Some(Event::ConnectionUnblocked) => self.report_unblocked(),
                    Some(_) => {}
                    None => return true,
                },
                () = self.pool.check.notified() => {}
                () = tokio::time::sleep_until(self.replace_at), if replace => return false,
            }
        }
    }

    /// Replaces a lost connection. New publishes wait meanwhile; those in flight have failed.
    async fn reopen(&mut self, lost: &Arc<PublishConnection>) -> Arc<PublishConnection> {
        self.pool.replace(None);
        // lapin ends its thread when the socket is closed.
        lost.amqp().close().await;
        self.report_unblocked();
        loop {
            self.connector.wait_to_retry(self.backoff.next(fastrand::f64())).await;
            match open(&self.connector, &self.pool).await {
                Ok(connection) => {
                    tracing::info!(
                        event = "publishing_connected",
                        "the connection that publishes is open again"
                    );
                    self.pool.replace(Some(Arc::clone(&connection)));
                    return connection;
                }
                Err(error) => {
                    if let Some(left_out) = self.throttle.due(&("not_publishing", error.to_string())) {
                        tracing::warn!(
                            event = "not_publishing",
                            left_out,
                            "not publishing: {}: {error}",
                            error.summary()
                        );
                    }
                }
            }
        }
    }

    /// Replaces a connection that still works. If no new one can be opened, the old one stays in use.
    async fn replace(&mut self, old: Arc<PublishConnection>) -> Arc<PublishConnection> {
        match open(&self.connector, &self.pool).await {
            Ok(connection) => {
                tracing::debug!("publishing on a new connection from now on");
                self.replaced.push(&old);
                self.pool.replace(Some(Arc::clone(&connection)));
                self.report_unblocked();
                connection
            }
            Err(error) => {
                if let Some(left_out) = self.throttle.due(&("publishing_not_replaced", error.to_string())) {
                    tracing::warn!(
                        event = "publishing_not_replaced",
                        left_out,
                        "the connection that publishes has used up its channel numbers or needs larger frames, and \
                         no new one can be opened: {error}. The old one is still used"
                    );
                }
                self.replace_at = Instant::now() + self.backoff.next(fastrand::f64());
                old
            }
        }
    }

    fn warn_lost(&self, error: &lapin::Error) {
        if let Some(left_out) = self.throttle.due(&("publishing_lost", error.to_string())) {
            tracing::warn!(
                event = "publishing_lost",
                %error,
                left_out,
                "the connection that publishes is lost: a new one is opened"
            );
        }
    }

    fn report_blocked(&mut self, reason: String) {
        self.blocked = true;
        self.events.send(PublishingEvent::Blocked(reason)).ok();
    }

    fn report_unblocked(&mut self) {
        if std::mem::take(&mut self.blocked) {
            self.events.send(PublishingEvent::Unblocked).ok();
        }
    }
}

impl PublishConnection {
    fn events(&self) -> BoxStream<'static, Event> {
        self.amqp().events_listener().boxed()
    }
}
