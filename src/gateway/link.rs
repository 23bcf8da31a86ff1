//! Keeps the connection that publishes.

use tokio_util::sync::CancellationToken;

use super::app::App;
use crate::broker::{Backoff, Connector, Publisher, publisher::PublishingEvent};

/// The largest frame that RabbitMQ allows unless it is configured, in bytes.
const FRAME_MAX: u32 = 128 * 1024;

/// Opens the connection, and keeps the status up to date while the publisher reopens it. Ends when `end`
/// is cancelled.
pub(super) async fn keep_connected(app: App, connector: Connector, end: CancellationToken) {
    let Some((publisher, mut events)) = end.run_until_cancelled(open(&app, &connector)).await else {
        return;
    };
    tracing::info!(event = "publishing_connected", "the connection that publishes is open");
    let mut connected = publisher.connected();
    let follow = async {
        loop {
            app.status.connected(connected.now().then(|| publisher.clone()));
            tokio::select! {
                () = connected.changed() => {}
                event = events.recv() => match event {
                    Some(PublishingEvent::Blocked(reason)) => {
                        tracing::warn!(
                            event = "publishing_blocked",
                            reason,
                            "RabbitMQ is short of memory or disk and accepts no requests: see its alarms"
                        );
                        app.status.blocked(Some(reason));
                    }
                    Some(PublishingEvent::Unblocked) => {
                        tracing::info!(event = "publishing_unblocked", "RabbitMQ accepts requests again");
                        app.status.blocked(None);
                    }
                    // The publisher lives until the end.
                    None => std::future::pending().await,
                },
            }
        }
    };
    end.run_until_cancelled(follow).await;
    app.status.connected(None);
    publisher.close().await;
}

async fn open(
    app: &App,
    connector: &Connector,
) -> (Publisher, tokio::sync::mpsc::UnboundedReceiver<PublishingEvent>) {
    let mut backoff = Backoff::new();
    loop {
        match Publisher::open(connector, FRAME_MAX).await {
            Ok(opened) => return opened,
            Err(error) => {
                if let Some(left_out) = app.throttle.due(&("not_publishing", error.to_string())) {
                    tracing::warn!(
                        event = "not_publishing",
                        left_out,
                        "not publishing: {}: {error}",
                        error.summary()
                    );
                }
            }
        }
        connector.wait_to_retry(backoff.next(fastrand::f64())).await;
    }
}
