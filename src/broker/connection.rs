//! A connection to RabbitMQ.
//!
//! lapin's own recovery is off: if RabbitMQ is away for longer than its attempts, it stays
//! "connecting" for ever and reports nothing. Here any error ends the connection, and its supervisor
//! opens a new one.

use std::{
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::{AsyncTcpStream, ConnectionProperties, tcp::RustlsConnector, uri::AMQPUri};

use super::{
    connect_error::{ConnectCause, ConnectError, RawError},
    greeting,
    login::Credentials,
    tls_alert,
};

/// How long one address may take, with the handshake, unless its URL has a `connection_timeout`.
/// lapin itself has no limit for the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all addresses together may take. Each gets at least an equal share of the remaining time.
const ALL_ADDRESSES_TIMEOUT: Duration = Duration::from_secs(60);
/// Frame size of the connection that publishes, in bytes. An outcome's header frame has 6 KiB at most.
const SMALL_FRAME_MAX: u32 = 16 * 1024;
/// How long RabbitMQ may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that can always be ended. lapin waits for ever, on its own thread, for a peer that is
/// silent during the handshake. Shutting down the socket ends that.
#[derive(Debug)]
pub struct Connection {
    connection: Arc<lapin::Connection>,
    socket: Socket,
}

impl std::ops::Deref for Connection {
    type Target = lapin::Connection;

    fn deref(&self) -> &lapin::Connection {
        &self.connection
    }
}

impl Connection {
    /// To give it a new token.
    pub(super) fn handle(&self) -> Weak<lapin::Connection> {
        Arc::downgrade(&self.connection)
    }

    /// Closes the connection; waits at most `CLOSE_TIMEOUT` for the answer.
    pub async fn close(&self) {
        match tokio::time::timeout(CLOSE_TIMEOUT, self.connection.close(200, "done".into())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the connection was closed already"),
            Err(_elapsed) => tracing::debug!("RabbitMQ did not answer the close"),
        }
        self.socket.shut_down();
    }
}

/// A second handle of a connection's socket. Shuts it down when dropped.
#[derive(Clone, Debug, Default)]
struct Socket(Arc<OnceLock<TcpStream>>);

impl Socket {
    fn keep(&self, socket: impl AsFd) -> std::io::Result<()> {
        let handle = TcpStream::from(socket.as_fd().try_clone_to_owned()?);
        // A connection has one socket, because lapin never reconnects.
        self.0.get_or_init(|| handle);
        Ok(())
    }

    fn shut_down(&self) {
        if let Some(socket) = self.0.get()
            && let Err(error) = socket.shutdown(Shutdown::Both)
        {
            tracing::trace!(%error, "the socket was closed already");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // lapin's thread has the other handle. The shutdown ends that thread.
        self.shut_down();
    }
}

/// Connects to the first address that answers. RabbitMQ's management page shows `purpose` behind the
/// program's name. Also returns which address answered.
pub(super) async fn connect_in_turn(
    urls: &[AMQPUri],
    credentials: &Credentials,
    purpose: &str,
) -> Result<(Connection, String), ConnectError> {
    first_that_answers(urls, credentials, |url, tls| connect_to(url, tls, purpose)).await
}

/// Tries the addresses in their order, each for a limited time. Also returns the one that answered.
pub(super) async fn first_that_answers<T, E: Into<RawError>, F: Future<Output = Result<T, E>>>(
    urls: &[AMQPUri],
    credentials: &Credentials,
    connect_to: impl Fn(AMQPUri, Option<RustlsConnector>) -> F,
) -> Result<(T, String), ConnectError> {
    let mut last = ConnectError::NoAddress;
    let mut remaining = ALL_ADDRESSES_TIMEOUT;
    for (index, url) in urls.iter().enumerate() {
        let address = address(url);
        let untried = u32::try_from(urls.len() - index).unwrap_or(u32::MAX);
        let limit = url.query.connection_timeout.map_or(CONNECT_TIMEOUT, Duration::from_millis);
        let limit = limit.min(remaining / untried);
        let started = Instant::now();
        let tls = match credentials.tls(url) {
            Ok(tls) => tls,
            Err(wrong) => {
                last = ConnectError::Failed { address, cause: ConnectCause::Files(wrong) };
                continue;
            }
        };
        match tokio::time::timeout(limit, connect_to(url.clone(), tls.clone())).await {
            Ok(Ok(connected)) => return Ok((connected, address)),
            Ok(Err(error)) => {
                let mut cause = ConnectCause::new(url, credentials, error.into());
                if cause.lacks_alert()
                    && let Some(alert) = tls_alert::listen(url, tls.as_ref()).await
                {
                    cause = ConnectCause::new(url, credentials, alert.into());
                }
                if let Some(token) = cause.large_token()
                    && greeting::is_received(url, tls.as_ref()).await
                {
                    cause = ConnectCause::TokenTooLarge { token: token.clone() };
                }
                last = ConnectError::Failed { address, cause };
            }
            Err(_elapsed) => last = ConnectError::Timeout { address, limit },
        }
        remaining = remaining.saturating_sub(started.elapsed());
    }
    Err(last)
}

/// The connection's name on RabbitMQ's management page.
pub(super) fn connection_name(purpose: &str) -> String {
    format!("trackfinity-unlocker {} {purpose}", env!("CARGO_PKG_VERSION"))
}

/// Uses TLS if the address needs it; see [`Credentials::tls`].
pub(super) async fn secured<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: AsyncTcpStream<S>,
    tls: Option<&RustlsConnector>,
    url: &AMQPUri,
) -> std::io::Result<AsyncTcpStream<S>> {
    match tls {
        None => Ok(stream),
        Some(tls) => stream.into_rustls(tls, &url.authority.host).await,
    }
}

async fn connect_to(url: AMQPUri, tls: Option<RustlsConnector>, purpose: &str) -> lapin::Result<Connection> {
    let name = connection_name(purpose);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let socket = Socket::default();
    let kept = socket.clone();
    let connecting = lapin::Connection::connector(
        url,
        lapin::runtime::default_runtime()?,
        async move |url, runtime| {
            let authority = &url.authority;
            let addresses = runtime.to_socket_addrs((authority.host.clone(), authority.port));
            let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
            if let AsyncTcpStream::Plain(stream) = &stream {
                kept.keep(stream.get_ref())?;
            }
            Ok(secured(stream, tls.as_ref(), &url).await?)
        },
        properties,
    );
    let connection = Arc::new(connecting.await?);
    Ok(Connection { connection, socket })
}

/// Host, port and virtual host, without user and password.
pub fn address(url: &AMQPUri) -> String {
    let authority = &url.authority;
    format!("{}://{}:{} (virtual host {})", url.scheme, authority.host, authority.port, url.vhost)
}

/// The same URLs with small frames, which are large enough for outcomes.
pub(super) fn with_small_frames(urls: &[AMQPUri]) -> Vec<AMQPUri> {
    let mut urls = urls.to_vec();
    for url in &mut urls {
        let asked = url.query.frame_max.filter(|bytes| *bytes != 0);
        url.query.frame_max = Some(asked.map_or(SMALL_FRAME_MAX, |bytes| bytes.min(SMALL_FRAME_MAX)));
    }
    urls
}
