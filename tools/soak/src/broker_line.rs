//! A connection of the soak's own, which comes and goes with the broker.

use std::time::Duration;

use lapin::{Connection, ConnectionProperties};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// Tries one address after the other until it has one; `None` when `stop` comes first.
pub async fn connect(urls: &[String], stop: &CancellationToken) -> Option<Connection> {
    let tries = async {
        loop {
            for url in urls {
                let connecting = Connection::connect(url, ConnectionProperties::default());
                if let Ok(Ok(connection)) = timeout(CONNECTS_WITHIN, connecting).await {
                    return connection;
                }
            }
            sleep(BETWEEN_TRIES).await;
        }
    };
    tokio::select! {
        connection = tries => Some(connection),
        () = stop.cancelled() => None,
    }
}
