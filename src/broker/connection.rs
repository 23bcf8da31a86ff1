//! The two connections to RabbitMQ: one consumes, one publishes. The broker blocks a connection
//! that publishes while it is short of memory or disk; acknowledgements must not wait for that.
//!
//! lapin's own recovery is off: with the broker away for longer than its attempts it stays
//! "connecting" for ever, without a word. Here any error ends the session, and whoever supervises
//! it opens a new one.

use std::{
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{
    StreamExt,
    io::{AsyncRead, AsyncWrite},
    stream::BoxStream,
};
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, Event,
    tcp::TLSConfig,
    uri::{AMQPScheme, AMQPUri},
};

use super::{Publisher, wire::WireError};

/// How long one try may take, handshake included; lapin itself has no limit for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Frames of the connection that publishes, in bytes: an outcome's header frame takes 6 KiB at most.
const SMALL_FRAME_MAX: u32 = 16 * 1024;
/// How long a broker may take to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// RabbitMQ could not be reached under any of its addresses. Never shows a password.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{address}: {source}")]
    Failed { address: String, source: lapin::Error },
    #[error("{address}: {source}")]
    Wire { address: String, source: WireError },
    #[error("{address}: no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout { address: String },
    #[error("broker.url names no address")]
    NoAddress,
}

/// A connection, and the means to end it whatever its peer does: lapin waits for a peer that is
/// silent in mid-handshake for ever, on a thread of its own.
#[derive(Debug)]
pub struct Link {
    connection: Connection,
    socket: Socket,
}

impl std::ops::Deref for Link {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Link {
    /// Says goodbye; does not wait long for an answer.
    pub async fn close(&self) {
        match tokio::time::timeout(CLOSE_TIMEOUT, self.connection.close(200, "done".into())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the connection was closed already"),
            Err(_elapsed) => tracing::debug!("RabbitMQ did not answer the goodbye"),
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
        // There is one socket a connection, as lapin never reconnects.
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
        // The other clone lives in lapin's thread, which this is to end.
        self.shut_down();
    }
}

/// Connects to the first of the addresses that answers; `purpose` is what the management page
/// shows behind the program's name.
///
/// # Errors
/// The last address's error, if none answers.
pub async fn connect(urls: &[AMQPUri], purpose: &str) -> Result<Link, ConnectError> {
    let failed = |address, source| ConnectError::Failed { address, source };
    first_that_answers(urls, |url| connect_to(url, purpose), failed).await
}

/// Tries each address in turn, none for longer than [`CONNECT_TIMEOUT`].
pub(super) async fn first_that_answers<T, E, F: Future<Output = Result<T, E>>>(
    urls: &[AMQPUri],
    connect_to: impl Fn(AMQPUri) -> F,
    failed: impl Fn(String, E) -> ConnectError,
) -> Result<T, ConnectError> {
    let mut last = ConnectError::NoAddress;
    for url in urls {
        let address = address(url);
        match tokio::time::timeout(CONNECT_TIMEOUT, connect_to(url.clone())).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => last = failed(address, error),
            Err(_elapsed) => last = ConnectError::Timeout { address },
        }
    }
    Err(last)
}

/// What the management page shows of a connection.
pub(super) fn connection_name(purpose: &str) -> String {
    format!("trackfinity-unlocker {} {purpose}", env!("CARGO_PKG_VERSION"))
}

/// Speaks TLS where the address says so, and never without.
pub(super) async fn secured<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: AsyncTcpStream<S>,
    url: &AMQPUri,
) -> std::io::Result<AsyncTcpStream<S>> {
    match url.scheme {
        AMQPScheme::AMQP => Ok(stream),
        AMQPScheme::AMQPS => stream.into_tls(&url.authority.host, TLSConfig::default()).await,
    }
}

async fn connect_to(url: AMQPUri, purpose: &str) -> lapin::Result<Link> {
    let name = connection_name(purpose);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let socket = Socket::default();
    let kept = socket.clone();
    let connecting = Connection::connector(
        url,
        lapin::runtime::default_runtime()?,
        async move |url, runtime| {
            let authority = &url.authority;
            let addresses = runtime.to_socket_addrs((authority.host.clone(), authority.port));
            let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
            if let AsyncTcpStream::Plain(stream) = &stream {
                kept.keep(stream.get_ref())?;
            }
            Ok(secured(stream, &url).await?)
        },
        properties,
    );
    let connection = connecting.await?;
    Ok(Link { connection, socket })
}

/// Whether the connection ended because of what a message holds: as when a text in its properties is
/// not UTF-8, which RabbitMQ passes on and lapin cannot read.
#[must_use]
pub fn is_unreadable(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ParsingError(_))
}

/// Host, port and virtual host, without user and password.
fn address(url: &AMQPUri) -> String {
    let authority = &url.authority;
    format!("{}://{}:{} (virtual host {})", url.scheme, authority.host, authority.port, url.vhost)
}

/// How large the frames of the connection that publishes are. lapin holds 32 of them each way: with
/// RabbitMQ's usual ones 8 MiB. Few messages have headers that need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// As outcomes need them.
    Small,
    /// As RabbitMQ takes them.
    Full,
}

/// Both connections, as long as both live.
#[derive(Debug)]
pub struct Session {
    consuming: Link,
    publishing: Arc<Link>,
    publisher: Publisher,
}

impl Session {
    /// Opens both connections; also returns what happens to them from now on.
    ///
    /// # Errors
    /// If either cannot be opened.
    pub async fn open(urls: &[AMQPUri], frames: Frames) -> Result<(Self, SessionEvents), ConnectError> {
        let narrowed = match frames {
            Frames::Small => with_small_frames(urls),
            Frames::Full => urls.to_vec(),
        };
        let (consuming, publishing) =
            tokio::try_join!(connect(urls, "consumes"), connect(&narrowed, "publishes"))?;
        let publishing = Arc::new(publishing);
        let publisher = match frames {
            Frames::Small => {
                let frame_max = consuming.configuration().frame_max();
                Publisher::with_small_frames(Arc::clone(&publishing), frame_max)
            }
            Frames::Full => Publisher::new(Arc::clone(&publishing)),
        };
        let session = Self { consuming, publishing, publisher };
        let events = session.events();
        Ok((session, events))
    }

    /// The connection that consumes; also the one to declare on, as it is never blocked.
    #[must_use]
    pub fn consuming(&self) -> &Connection {
        &self.consuming
    }

    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    fn events(&self) -> SessionEvents {
        let consuming = self.consuming.events_listener();
        let publishing = self.publishing.events_listener();
        let events = futures_util::stream::select(consuming, publishing).filter_map(|event| {
            std::future::ready(match event {
                // One that closes a channel alone comes here, too; whoever uses the channel is told.
                Event::Error(error) if error.is_amqp_soft_error() => None,
                Event::Error(error) => Some(SessionEvent::Lost(error)),
                Event::ConnectionBlocked(reason) => Some(SessionEvent::Blocked(reason)),
                Event::ConnectionUnblocked => Some(SessionEvent::Unblocked),
                _ => None,
            })
        });
        events.boxed()
    }

    /// Says goodbye; does not wait long for an answer.
    pub async fn close(&self) {
        tokio::join!(self.consuming.close(), self.publishing.close());
    }
}

/// The same addresses, for a connection whose frames are no larger than outcomes need.
pub(super) fn with_small_frames(urls: &[AMQPUri]) -> Vec<AMQPUri> {
    let mut urls = urls.to_vec();
    for url in &mut urls {
        let asked = url.query.frame_max.filter(|bytes| *bytes != 0);
        url.query.frame_max = Some(asked.map_or(SMALL_FRAME_MAX, |bytes| bytes.min(SMALL_FRAME_MAX)));
    }
    urls
}

/// What happens to a session's connections, as it happens.
pub type SessionEvents = BoxStream<'static, SessionEvent>;

/// Something happened to a connection.
#[derive(Debug)]
pub enum SessionEvent {
    Lost(lapin::Error),
    /// The broker is short of memory or disk, and takes no messages for now.
    Blocked(String),
    Unblocked,
}
