use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use lapin::{
    AsyncTcpStream,
    protocol::{AMQPClass, connection},
    tcp::RustlsConnector,
    uri::AMQPUri,
};
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use super::{
    WireChannel, WireError,
    frame::encode_method,
    handshake::shake_hands,
    io::{Shared, run},
};
use crate::broker::{
    connect_error::ConnectError,
    connection::{connection_name, first_that_answers, secured},
    login::Credentials,
};

/// How long RabbitMQ may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to RabbitMQ that can read any message. Dropping it ends it.
#[derive(Debug)]
pub struct WireConnection {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl WireConnection {
    /// Connects to the first address that answers. Also returns which one did.
    pub(in crate::broker) async fn connect(
        urls: &[AMQPUri],
        credentials: &Credentials,
        purpose: &str,
    ) -> Result<(Self, String), ConnectError> {
        first_that_answers(urls, credentials, |url, tls| Self::connect_to(url, tls, purpose)).await
    }

    async fn connect_to(
        url: AMQPUri,
        tls: Option<RustlsConnector>,
        purpose: &str,
    ) -> Result<Self, WireError> {
        let stream = TcpStream::connect((url.authority.host.as_str(), url.authority.port)).await?;
        stream.set_nodelay(true)?;
        let stream = AsyncTcpStream::Plain(stream.compat());
        let mut stream = secured(stream, tls.as_ref(), &url).await?.compat();
        let limits = shake_hands(&mut stream, &url, &connection_name(purpose)).await?;
        let (sender, outgoing) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(limits, sender));
        let task = tokio::spawn(run(stream, Arc::clone(&shared), outgoing));
        Ok(Self { shared, task })
    }

    /// To give it a new token.
    pub(in crate::broker) fn secret(&self) -> WireSecret {
        WireSecret(Arc::downgrade(&self.shared))
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn open_channel(&self) -> Result<WireChannel, WireError> {
        WireChannel::open(Arc::clone(&self.shared)).await
    }

    /// Whether RabbitMQ blocks this connection because it is short of memory or disk.
    pub fn is_blocked(&self) -> bool {
        self.shared.is_blocked()
    }

    /// The largest frame, in bytes. A message's properties must fit into one frame.
    pub fn frame_max(&self) -> u32 {
        self.shared.limits.frame_max
    }

    /// Closes the connection; waits at most `CLOSE_TIMEOUT` for the answer.
    pub async fn close(mut self) {
        let close =
            connection::Close { reply_code: 200, reply_text: "done".into(), class_id: 0, method_id: 0 };
        let close = AMQPClass::Connection(connection::AMQPMethod::Close(close));
        if encode_method(0, &close).and_then(|close| self.shared.send(close)).is_ok()
            && tokio::time::timeout(CLOSE_TIMEOUT, &mut self.task).await.is_err()
        {
            tracing::debug!("RabbitMQ did not answer the close");
        }
    }
}

/// A connection to which a new token can be given.
#[derive(Clone, Debug)]
pub(in crate::broker) struct WireSecret(Weak<Shared>);

impl WireSecret {
    pub(in crate::broker) fn is_open(&self) -> bool {
        self.0.upgrade().is_some_and(|shared| shared.is_open())
    }

    /// Sends the token. RabbitMQ closes the connection if it refuses it.
    pub(in crate::broker) fn update(&self, token: &str, reason: &str) -> Result<(), WireError> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let update = connection::UpdateSecret { new_secret: token.into(), reason: reason.into() };
        let update = AMQPClass::Connection(connection::AMQPMethod::UpdateSecret(update));
        shared.send(encode_method(0, &update)?)
    }
}

impl Drop for WireConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}
