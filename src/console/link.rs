//! One connection to RabbitMQ for what is asked often and answered at once: how many messages wait. It is
//! opened when it is needed, and again when it was lost.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::broker::{ConnectError, Connector, connection::Connection};

/// The connection. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    connector: Connector,
    connection: Arc<Mutex<Option<Arc<Connection>>>>,
}

impl Link {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, connection: Arc::default() }
    }

    /// The connection, if it still is one; else a new one.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, ConnectError> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = connection.as_ref().filter(|open| open.status().connected()) {
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(self.connector.connect("shows what waits").await?);
        *connection = Some(Arc::clone(&open));
        Ok(open)
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            connection.close().await;
        }
    }
}
