//! A scripted fake Trackfinity.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use axum::serve::{Listener, ListenerExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::Certificate;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    /// 1 for the first call.
    pub n: u64,
    pub method: Method,
    /// With the query, if there is one.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

impl Call {
    /// The pairs of a form body, decoded, in order.
    pub fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// The first value of a form field.
    pub fn field(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(&self.body).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// A header's value if it is there and visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    delay: Duration,
}

impl Answer {
    /// 200 and JSON `true`.
    pub fn unlocked() -> Self {
        Self::json(200, "true")
    }

    /// A status and an empty body.
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status from 100 to 999");
        Self { status, headers: Vec::new(), body: Bytes::new(), delay: Duration::ZERO }
    }

    /// A status and a JSON text.
    pub fn json(status: u16, body: &'static str) -> Self {
        let mut answer = Self::status(status);
        answer.headers.push((axum::http::header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        answer.body = Bytes::from_static(body.as_bytes());
        answer
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = name.parse().expect("a header name");
        self.headers.push((name, value.parse().expect("a header value")));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Answers this long after the request was read.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Script = Arc<dyn Fn(&Call) -> Answer + Send + Sync>;

struct Shared {
    script: RwLock<Script>,
    recording: AtomicBool,
    calls: Mutex<Vec<Call>>,
    count: watch::Sender<u64>,
    arrived: AtomicU64,
    in_flight: AtomicUsize,
    max_in_flight: AtomicUsize,
}

/// An HTTP server whose answers are a closure. It has a thread and a runtime of its own: one core at most, and the
/// test's runtime can't slow it down. Dropping it closes everything.
pub struct Trackfinity {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Trackfinity {
    /// Plain HTTP on a free loopback port.
    pub fn start(answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(Arc::new(answer), None)
    }

    /// HTTPS with that certificate.
    pub fn start_tls(
        certificate: &Certificate,
        answer: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Arc::new(answer), Some(certificate.acceptor()))
    }

    fn serve(script: Script, tls: Option<TlsAcceptor>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            script: RwLock::new(script),
            recording: AtomicBool::new(true),
            calls: Mutex::default(),
            count: watch::Sender::new(0),
            arrived: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            max_in_flight: AtomicUsize::new(0),
        });
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let listener = testbed::listen();
        let address = listener.local_addr().expect("a listener has an address");
        let (stop, stopped) = oneshot::channel();
        let thread = on_own_thread("trackfinity", async move {
            let listener = from_std(listener);
            let serve = async {
                match tls {
                    None => axum::serve(listener.tap_io(|stream| drop(stream.set_nodelay(true))), app).await,
                    Some(acceptor) => axum::serve(TlsListener { listener, acceptor }, app).await,
                }
            };
            tokio::select! {
                _ = stopped => {}
                _ = serve => {}
            }
        });
        Self { address, scheme, shared, stop: Some(stop), thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For example `http://127.0.0.1:12345`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Answers otherwise from now on.
    pub fn answer_with(&self, answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) {
        *self.shared.script.write().expect("no panic holds the script") = Arc::new(answer);
    }

    /// Whether calls are kept for [`Trackfinity::calls`], which is the default. Otherwise they are only counted.
    pub fn record(&self, on: bool) {
        self.shared.recording.store(on, Ordering::SeqCst);
    }

    /// The calls recorded, in order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        let mut calls = self.shared.calls.lock().expect("no panic holds the calls").clone();
        calls.sort_by_key(|call| call.n);
        calls
    }

    /// How many calls have arrived.
    pub fn count(&self) -> u64 {
        self.shared.arrived.load(Ordering::SeqCst)
    }

    /// Waits until `count` calls have arrived.
    ///
    /// # Panics
    /// When fewer came within `deadline`.
    pub async fn wait_count(&self, count: u64, deadline: Duration) {
        let mut arrived = self.shared.count.subscribe();
        let reached = timeout(deadline, arrived.wait_for(|arrived| *arrived >= count)).await.is_ok();
        assert!(reached, "{} of {count} calls within {deadline:?}", self.count());
    }

    /// Calls read and not answered yet.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// The largest number of calls in flight so far.
    pub fn max_in_flight(&self) -> usize {
        self.shared.max_in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for Trackfinity {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let at = Instant::now();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return status(StatusCode::BAD_REQUEST);
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let n = shared.arrived.fetch_add(1, Ordering::SeqCst) + 1;
    let _in_flight = InFlight::enter(shared.clone());
    let call = Call { n, method: head.method, path, headers: head.headers, body, at };
    let script = shared.script.read().expect("no panic holds the script").clone();
    if shared.recording.load(Ordering::SeqCst) {
        shared.calls.lock().expect("no panic holds the calls").push(call.clone());
    }
    shared.count.send_modify(|count| *count = n.max(*count));
    let answer = script(&call);
    if !answer.delay.is_zero() {
        sleep(answer.delay).await;
    }
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    for (name, value) in answer.headers {
        response.headers_mut().append(name, value);
    }
    response
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Counts also if the client closes the connection and the response is dropped.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn enter(shared: Arc<Shared>) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.max_in_flight.fetch_max(now, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            // A client that refuses the certificate, or sends nothing, must not block the next one for long.
            if let Ok(Ok(stream)) = timeout(Duration::from_secs(5), self.acceptor.accept(stream)).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

pub(crate) fn from_std(listener: std::net::TcpListener) -> TcpListener {
    listener.set_nonblocking(true).expect("a socket can be non-blocking");
    TcpListener::from_std(listener).expect("a runtime with IO")
}

pub(crate) fn on_own_thread(
    name: &str,
    work: impl Future<Output = ()> + Send + 'static,
) -> thread::JoinHandle<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(work)).expect("a thread")
}
