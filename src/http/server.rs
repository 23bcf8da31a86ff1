//! Serves HTTP/1 with bounds on what strangers can take: connections, the size and time of a head, and the
//! life of a connection.
//!
//! When all connections are in use, the one that has waited longest for its client is closed for the next
//! one. So slow and idle clients, however many, never keep others out.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header::CONNECTION},
    response::Response,
};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

use super::slot::{OpenConnections, Slot};

/// The pause after a failed accept: the process may be out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a head may take to arrive, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How often one that waits for its client is looked for, while a new connection waits for a place.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a server allows.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many connections may be open.
    pub connections: usize,
    /// The largest head of a request, in bytes: at least 8192.
    pub head_bytes: usize,
    /// How long a connection may last, with all its requests. The next answer then tells the client that it
    /// is the last one: a connection that is closed between two requests may cost the second one.
    pub lifetime: Duration,
    /// How long the last request may take.
    pub last_request: Duration,
    /// How long requests may continue when the server stops.
    pub drain: Duration,
}

/// Answers the requests of a server.
pub trait Handler: Clone + Send + Sync + 'static {
    /// `slot` is the place of the connection that the request came on.
    fn answer(&self, request: Request, peer: Peer, slot: &Slot) -> impl Future<Output = Response> + Send;
}

/// Each request has its [`Peer`] in its extensions.
impl Handler for Router {
    async fn answer(&self, mut request: Request, peer: Peer, _slot: &Slot) -> Response {
        request.extensions_mut().insert(peer);
        match self.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Who sent a request: the other end of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl Peer {
    pub fn ip(self) -> IpAddr {
        self.0.ip().to_canonical()
    }
}

/// Serves over HTTP. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Server {
    name: &'static str,
    bounds: Bounds,
    open: Arc<OpenConnections>,
    permits: Arc<Semaphore>,
}

impl Server {
    /// `name`: for the log, such as "gateway".
    pub fn new(name: &'static str, bounds: Bounds) -> Self {
        let permits = Arc::new(Semaphore::new(bounds.connections));
        Self { name, bounds, open: Arc::default(), permits }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.bounds.connections.saturating_sub(self.permits.available_permits())
    }

    /// Serves until `stop` is cancelled, and requests have finished within the bounds.
    pub async fn serve(&self, listener: TcpListener, handler: impl Handler, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let abort = CancellationToken::new();
        let accept = async {
            loop {
                let (stream, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::debug!(%error, "the {} could accept no connection", self.name);
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let permit = self.permit().await;
                let slot = OpenConnections::add(&self.open, abort.child_token());
                let connection =
                    self.clone().connection(stream, Peer(peer), slot, handler.clone(), stop.clone());
                // Boxed, because a future that is moved into another one takes its place in both.
                let connection = Box::pin(connection);
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
        };
        stop.run_until_cancelled(accept).await;
        drop(listener);
        connections.close();
        if timeout(self.bounds.drain, connections.wait()).await.is_err() {
            abort.cancel();
            connections.wait().await;
        }
    }

    /// A place for a connection. Closes another one if there is none.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        loop {
            // All may be busy now; but soon one may wait for its client.
            self.open.close_oldest();
            let permit = Arc::clone(&self.permits).acquire_owned();
            if let Ok(permit) = timeout(LOOK_AGAIN, permit).await {
                // The semaphore is never closed.
                return permit.ok();
            }
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        peer: Peer,
        slot: Slot,
        handler: impl Handler,
        stop: CancellationToken,
    ) {
        // Small answers must not wait for each other.
        stream.set_nodelay(true).ok();
        slot.wait_for_client();
        let is_last = AtomicBool::new(false);
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            slot.wait_no_more();
            let (handler, slot, is_last) = (&handler, &slot, &is_last);
            async move {
                let mut response = handler.answer(request.map(axum::body::Body::new), peer, slot).await;
                if is_last.load(Ordering::Relaxed) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                slot.wait_for_client();
                Ok::<_, Infallible>(response)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(self.bounds.head_bytes)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut lifetime = pin!(sleep(self.bounds.lifetime));
        let mut is_stopping = false;
        let ended = loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => break ended,
                () = slot.closed() => return,
                () = stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = lifetime.as_mut() => {
                    if is_last.swap(true, Ordering::Relaxed) {
                        // A client that does not read its answer must not hold the connection.
                        return;
                    }
                    lifetime.as_mut().reset(Instant::now() + HEAD_TIMEOUT + self.bounds.last_request);
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the {} failed", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);
    const BOUNDS: Bounds = Bounds {
        connections: 2,
        head_bytes: 8192,
        lifetime: LIMIT,
        last_request: LIMIT,
        drain: Duration::from_millis(100),
    };
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

    struct Served {
        address: SocketAddr,
        stop: CancellationToken,
        ended: JoinHandle<()>,
    }

    async fn serve(bounds: Bounds, router: Router) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let server = Server::new("test", bounds);
        let ended = tokio::spawn(async move { server.serve(listener, router, stopped).await });
        Served { address, stop, ended }
    }

    impl Served {
        async fn stop(self) {
            self.stop.cancel();
            timeout(LIMIT, self.ended).await.expect("in time").expect("no panic");
        }
    }

    async fn ask(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(GET).await.expect("sent");
        stream
    }

    /// Reads an answer; `None` if the connection ends before.
    async fn answer(stream: &mut TcpStream) -> Option<String> {
        let mut answer = Vec::new();
        while !answer.ends_with(b"here") {
            if timeout(LIMIT, stream.read_buf(&mut answer)).await.expect("in time").expect("received") == 0 {
                return None;
            }
        }
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    #[tokio::test]
    async fn a_connection_at_the_end_of_its_life_says_so_in_its_last_answer() {
        let router = Router::new().route("/", get(async || "here"));
        let served = serve(Bounds { lifetime: Duration::from_millis(20), ..BOUNDS }, router).await;
        let mut stream = TcpStream::connect(served.address).await.expect("connected");
        loop {
            stream.write_all(GET).await.expect("sent");
            let answer = answer(&mut stream).await.expect("an answer");
            if answer.contains("connection: close") {
                break;
            }
        }
        assert_eq!(answer(&mut stream).await, None);
        served.stop().await;
    }

    #[tokio::test]
    async fn a_request_that_never_ends_does_not_hold_up_the_stop() {
        let begun = Arc::new(tokio::sync::Notify::new());
        let begins = Arc::clone(&begun);
        let handler = get(async move || {
            begins.notify_one();
            std::future::pending::<()>().await;
        });
        let served = serve(BOUNDS, Router::new().route("/", handler)).await;
        let mut stream = ask(served.address).await;
        timeout(LIMIT, begun.notified()).await.expect("in time");
        served.stop().await;
        assert_eq!(answer(&mut stream).await, None);
    }

    #[tokio::test]
    async fn a_new_connection_gets_the_place_of_one_that_becomes_idle_only_later() {
        let go = Arc::new(Semaphore::new(0));
        let (gate, begun) = (Arc::clone(&go), Arc::new(Semaphore::new(0)));
        let begins = Arc::clone(&begun);
        let handler = get(async move || {
            begins.add_permits(1);
            gate.acquire().await.expect("open").forget();
            "here"
        });
        let served = serve(BOUNDS, Router::new().route("/", handler)).await;
        let mut busy = [ask(served.address).await, ask(served.address).await];
        let both = begun.acquire_many(2);
        timeout(LIMIT, both).await.expect("in time").expect("open").forget();
        let mut third = ask(served.address).await;
        // The first two become idle, and stay connected.
        go.add_permits(3);
        for stream in &mut busy {
            assert!(answer(stream).await.is_some());
        }
        assert!(answer(&mut third).await.is_some());
        served.stop().await;
    }
}
