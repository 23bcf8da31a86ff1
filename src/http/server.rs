//! Serves HTTP/1 with bounds on what strangers can take: connections, the size and time of a head, and the
//! life of a connection.
//!
//! When all connections are in use, the one that has waited longest for its client is closed for the next
//! one. So slow and idle clients, however many, never keep others out.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

/// The pause after a failed accept: the process may be out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a head may take to arrive, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What a server allows.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many connections may be open.
    pub connections: usize,
    /// The largest head of a request, in bytes: at least 8192.
    pub head_bytes: usize,
    /// How long a connection may last, with all its requests. The last request is finished.
    pub lifetime: Duration,
    /// How long the last request may take then.
    pub last_request: Duration,
    /// How long requests may continue when the server stops.
    pub drain: Duration,
}

/// Who sent a request: the other end of its connection. In the extensions of each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl Peer {
    pub fn ip(self) -> IpAddr {
        self.0.ip().to_canonical()
    }
}

/// Serves one router. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Server {
    name: &'static str,
    bounds: Bounds,
    idle: Arc<IdleConnections>,
    permits: Arc<Semaphore>,
}

impl Server {
    /// `name`: for the log, such as "gateway".
    pub fn new(name: &'static str, bounds: Bounds) -> Self {
        let permits = Arc::new(Semaphore::new(bounds.connections));
        Self { name, bounds, idle: Arc::default(), permits }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.bounds.connections.saturating_sub(self.permits.available_permits())
    }

    /// Serves until `stop` is cancelled, and requests have finished within the bounds.
    pub async fn serve(&self, listener: TcpListener, router: Router, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let abort = CancellationToken::new();
        let accept = async {
            loop {
                let (stream, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::debug!(%error, "the {} could accept no connection", self.name);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let permit = self.permit().await;
                // Boxed, because a future that is moved into another one takes its place in both.
                let connection =
                    Box::pin(self.clone().connection(stream, peer, router.clone(), stop.clone()));
                let abort = abort.clone();
                connections.spawn(async move {
                    abort.run_until_cancelled(connection).await;
                    drop(permit);
                });
            }
        };
        stop.run_until_cancelled(accept).await;
        drop(listener);
        connections.close();
        if tokio::time::timeout(self.bounds.drain, connections.wait()).await.is_err() {
            abort.cancel();
            connections.wait().await;
        }
    }

    /// A place for a connection. Closes another one if there is none.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        self.idle.close_oldest();
        // The semaphore is never closed.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr, router: Router, stop: CancellationToken) {
        // Small answers must not wait for each other.
        stream.set_nodelay(true).ok();
        let slot = Slot { idle: self.idle, close: CancellationToken::new() };
        let close = slot.close.clone();
        let waiting = Mutex::new(Some(slot.waits_for_client()));
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            drop(waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(Peer(peer));
            request.extensions_mut().insert(slot.clone());
            let (mut router, slot, waiting) = (router.clone(), &slot, &waiting);
            async move {
                let response = router.call(request).await;
                *waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(slot.waits_for_client());
                Ok::<_, Infallible>(match response {
                    Ok(response) => response,
                    Err(never) => match never {},
                })
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(self.bounds.head_bytes)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = close.cancelled() => return,
            () = stop.cancelled() => finish(connection).await,
            () = tokio::time::sleep(self.bounds.lifetime) => {
                // A client that does not read its answer must not hold the connection.
                let finished = tokio::time::timeout(self.bounds.last_request, finish(connection));
                finished.await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the {} failed", self.name);
        }
    }
}

/// Ends a connection after its current request.
async fn finish<S>(
    mut connection: std::pin::Pin<&mut hyper::server::conn::http1::Connection<TokioIo<TcpStream>, S>>,
) -> hyper::Result<()>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = axum::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// A connection's place. In the extensions of each request.
#[derive(Clone, Debug)]
pub struct Slot {
    idle: Arc<IdleConnections>,
    close: CancellationToken,
}

impl Slot {
    /// A place outside of any server: for a request without a connection.
    pub fn detached() -> Self {
        Self { idle: Arc::default(), close: CancellationToken::new() }
    }

    /// Until the result is dropped, the connection may be closed for another one: it waits for bytes of
    /// its client, and nothing is lost with it.
    #[must_use]
    pub fn waits_for_client(&self) -> WaitsForClient {
        let mut connections = self.idle.lock();
        connections.last += 1;
        let number = connections.last;
        connections.waiting.insert(number, self.close.clone());
        WaitsForClient { number, idle: Arc::clone(&self.idle) }
    }
}

/// A connection that may be closed for another one.
#[derive(Debug)]
pub struct WaitsForClient {
    number: u64,
    idle: Arc<IdleConnections>,
}

impl Drop for WaitsForClient {
    fn drop(&mut self) {
        self.idle.lock().waiting.remove(&self.number);
    }
}

/// The connections that wait for their clients, by the order in which they began to wait.
#[derive(Debug, Default)]
struct IdleConnections(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

impl IdleConnections {
    fn close_oldest(&self) {
        if let Some((_, close)) = self.lock().waiting.pop_first() {
            close.cancel();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
