//! Connects to RabbitMQ with the URLs, the token and the certificates that are in their files now. The address that
//! answered last is tried first. Connections that are logged in with a token get each new one.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use lapin::uri::AMQPUri;

use super::{
    connect_error::ConnectError,
    connection::{Connection, address, connect_in_turn, with_small_frames},
    login::{Credentials, Login},
    token_keeper::{Handle, TokenKeeper},
    wire::WireConnection,
};
use crate::{
    secret::Secret,
    settings::{Broker, CertificateInfo},
    telemetry::LogThrottle,
};

/// How long reading the files may take. After that the last good values are used.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to RabbitMQ. Clones share which address answered last, and the token's connections.
#[derive(Clone, Debug)]
pub struct Connector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    broker: Broker,
    /// The address that answered last, without credentials.
    last_good: Mutex<Option<String>>,
    /// Whether a message has needed large frames; from then on all connections have them.
    full_frames: AtomicBool,
    /// RabbitMQ's own frame size in bytes; zero until it is known.
    frame_max: AtomicU32,
    token: Option<Arc<TokenKeeper>>,
    /// Why RabbitMQ refused the last login.
    refusal: Mutex<Option<String>>,
    /// Why the last try to connect failed, if it did.
    failure: Mutex<Option<String>>,
    throttle: LogThrottle,
}

/// What is needed to connect, as the files were a moment ago.
struct Access {
    urls: Vec<AMQPUri>,
    credentials: Credentials,
    token_version: u64,
}

impl Connector {
    pub fn new(broker: &Broker) -> Self {
        Self(Arc::new(Inner {
            broker: broker.clone(),
            last_good: Mutex::default(),
            full_frames: AtomicBool::new(false),
            frame_max: AtomicU32::new(0),
            token: broker.token_file.clone().map(TokenKeeper::new),
            refusal: Mutex::default(),
            failure: Mutex::default(),
            throttle: LogThrottle::default(),
        }))
    }

    /// Connects. RabbitMQ's management page shows `purpose` behind the program's name.
    ///
    /// # Errors
    /// If no address answers within its time limit, or all together not within theirs.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, ConnectError> {
        self.connect_with(self.access().await?, purpose).await
    }

    /// Connects to this address alone.
    ///
    /// # Errors
    /// If it does not answer within its time limit.
    pub async fn connect_to(&self, url: &AMQPUri, purpose: &str) -> Result<Connection, ConnectError> {
        self.connect_with(Access { urls: vec![url.clone()], ..self.access().await? }, purpose).await
    }

    /// A connection for short messages, which needs less memory.
    pub(crate) async fn connect_with_small_frames(&self, purpose: &str) -> Result<Connection, ConnectError> {
        let access = self.access().await?;
        self.connect_with(Access { urls: with_small_frames(&access.urls), ..access }, purpose).await
    }

    /// A connection to consume on, and RabbitMQ's own frame size in bytes. The frames of the connection are small
    /// until [`use_full_frames`](Self::use_full_frames).
    pub(super) async fn connect_to_consume(&self) -> Result<(Connection, u32), ConnectError> {
        const PURPOSE: &str = "consumes";
        if self.0.full_frames.load(Ordering::Relaxed) {
            let connection = self.connect(PURPOSE).await?;
            let frame_max = connection.configuration().frame_max();
            return Ok((connection, frame_max));
        }
        let frame_max = self.frame_max().await?;
        Ok((self.connect_with_small_frames(PURPOSE).await?, frame_max))
    }

    /// RabbitMQ's own frame size in bytes. lapin does not tell it on a connection that asked for less, so the first time
    /// another one is opened. It is not used otherwise, so its large buffers take no memory.
    async fn frame_max(&self) -> Result<u32, ConnectError> {
        let known = self.0.frame_max.load(Ordering::Relaxed);
        if known > 0 {
            return Ok(known);
        }
        let connection = self.connect("asks for the frame size").await?;
        let frame_max = connection.configuration().frame_max();
        connection.close().await;
        self.0.frame_max.store(frame_max, Ordering::Relaxed);
        Ok(frame_max)
    }

    /// From now on, connections to consume and to publish have the largest frames that RabbitMQ accepts. `false` if
    /// they had them already.
    pub(crate) fn use_full_frames(&self) -> bool {
        !self.0.full_frames.swap(true, Ordering::Relaxed)
    }

    /// A connection to publish on, and whether its frames are small. They are small until
    /// `full_frames` was `true` once.
    pub(super) async fn connect_to_publish(
        &self,
        full_frames: bool,
    ) -> Result<(Connection, bool), ConnectError> {
        if full_frames {
            self.use_full_frames();
        }
        match self.0.full_frames.load(Ordering::Relaxed) {
            true => Ok((self.connect("publishes").await?, false)),
            false => Ok((self.connect_with_small_frames("publishes").await?, true)),
        }
    }

    /// Connects with this program's own AMQP reader, which reads what lapin cannot.
    ///
    /// # Errors
    /// If no address answers within its time limit, or all together not within theirs.
    pub async fn connect_wire(&self, purpose: &str) -> Result<WireConnection, ConnectError> {
        let Access { urls, credentials, token_version } = self.access().await?;
        let connected = WireConnection::connect(&urls, &credentials, purpose).await;
        let connection = self.note(connected)?;
        self.keep(Handle::Wire(connection.secret()), purpose, token_version);
        Ok(connection)
    }

    /// The URLs to try, which hold passwords. The one that answered last is first.
    ///
    /// # Errors
    /// None are expected: the URLs were checked when they were read.
    pub async fn urls(&self) -> Result<Vec<AMQPUri>, ConnectError> {
        Ok(self.access().await?.urls)
    }

    /// How the program logs in at this address.
    pub fn login(&self, url: &AMQPUri) -> Login {
        Credentials::of(&self.0.broker).login(url)
    }

    /// The client certificate that is presented at this address.
    pub fn client_certificate(&self, url: &AMQPUri) -> Option<CertificateInfo> {
        Credentials::of(&self.0.broker).client_certificate(url).cloned()
    }

    /// Why RabbitMQ refuses the login, if it does: with the token that is in its file now; or, while not `connected`, at
    /// the last try.
    pub fn refusal(&self, connected: bool) -> Option<String> {
        // A password counts only at login. Nothing asks later whether RabbitMQ still accepts it.
        let counts = !connected || self.0.token.is_some();
        lock(&self.0.refusal).clone().filter(|_| counts)
    }

    /// For people, that there is no connection, and why the last try failed.
    pub fn not_connected(&self) -> String {
        match &*lock(&self.0.failure) {
            Some(failure) => format!("not connected to RabbitMQ: {failure}"),
            None => "not connected to RabbitMQ".to_owned(),
        }
    }

    /// Waits before the next try to connect: this long, or until there is a new token.
    pub async fn wait_to_retry(&self, wait: Duration) {
        let renewed = async {
            match &self.0.token {
                Some(token) => token.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = renewed => {}
        }
    }

    async fn connect_with(&self, access: Access, purpose: &str) -> Result<Connection, ConnectError> {
        let connected = connect_in_turn(&access.urls, &access.credentials, purpose).await;
        let connection = self.note(connected)?;
        self.keep(Handle::Lapin(connection.handle()), purpose, access.token_version);
        Ok(connection)
    }

    /// Remembers which address answered, or why none did.
    fn note<T>(&self, connected: Result<(T, String), ConnectError>) -> Result<T, ConnectError> {
        match connected {
            Ok((connection, address)) => {
                *lock(&self.0.last_good) = Some(address);
                *lock(&self.0.refusal) = None;
                *lock(&self.0.failure) = None;
                Ok(connection)
            }
            Err(error) => {
                let failure = format!("{}: {error}", error.summary());
                *lock(&self.0.failure) = Some(failure.clone());
                let is_connected = || self.0.token.as_ref().is_some_and(|token| token.has_open());
                match error.is_refusal() {
                    true => *lock(&self.0.refusal) = Some(failure),
                    // RabbitMQ did not say that the token is refused any less.
                    false if is_connected() => {}
                    false => *lock(&self.0.refusal) = None,
                }
                Err(error)
            }
        }
    }

    /// Lets the connection have each new token.
    fn keep(&self, connection: Handle, purpose: &str, version: u64) {
        let Some(keeper) = &self.0.token else { return };
        let inner = Arc::downgrade(&self.0);
        keeper.keep(connection, purpose, version, move |has_expired| {
            let connector = inner.upgrade().map(Self);
            async move {
                match connector {
                    Some(connector) => connector.try_login(has_expired).await,
                    None => false,
                }
            }
        });
    }

    /// Logs in with the token that is in the file now, if it has expired or was refused: RabbitMQ's answer tells whether
    /// it still is. `false` if there was no reason to try.
    async fn try_login(&self, has_expired: bool) -> bool {
        let was_refused = lock(&self.0.refusal).is_some();
        if !has_expired && !was_refused {
            return false;
        }
        match self.connect("tries the token").await {
            Ok(connection) => {
                connection.close().await;
                if was_refused {
                    tracing::info!(event = "token_accepted", "RabbitMQ accepts the token again");
                }
            }
            Err(error) if error.is_refusal() => {
                if let Some(left_out) = self.0.throttle.due(&("token_refused", error.to_string())) {
                    tracing::warn!(
                        event = "token_refused",
                        left_out,
                        "{}: {error}. What is done on open connections is refused, too, until it accepts a token",
                        error.summary()
                    );
                }
            }
            Err(error) => tracing::debug!(%error, "the token could not be tried"),
        }
        true
    }

    /// What the files hold now.
    async fn access(&self) -> Result<Access, ConnectError> {
        let refreshes = join_all(self.0.broker.files().map(Secret::refresh));
        if tokio::time::timeout(REFRESH_TIMEOUT, refreshes).await.is_err()
            && let Some(left_out) = self.0.throttle.due("secret_file_slow")
        {
            tracing::warn!(
                event = "secret_file_slow",
                left_out,
                "reading the files of broker.url, its token and its certificates takes too long: keeping the last values. \
                 Check their volumes"
            );
        }
        // Before the token itself: a newer one is then given again.
        let token_version = self.0.token.as_ref().map_or(0, |keeper| keeper.version());
        let credentials = Credentials::of(&self.0.broker);
        let mut urls = self.0.broker.uris()?;
        if let Some(last_good) = lock(&self.0.last_good).as_deref() {
            // The sort is stable, so all others keep their order.
            urls.sort_by_key(|url| address(url) != last_good);
        }
        Ok(Access { urls, credentials, token_version })
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    static DISK_HANGS: AtomicBool = AtomicBool::new(false);

    /// Blocks while the disk hangs.
    fn slow(_: &str) -> Result<(), String> {
        while DISK_HANGS.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn connector(urls: Secret) -> Connector {
        Connector::new(&Broker::with_url(urls))
    }

    #[tokio::test]
    async fn a_disk_that_hangs_leaves_the_last_good_urls() {
        let file = std::env::temp_dir().join(format!("unlocker-url-{}", uuid::Uuid::now_v7()));
        std::fs::write(&file, "amqp://well").expect("written");
        let connector = connector(Secret::open(&file, slow).expect("a URL"));
        DISK_HANGS.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let urls = tokio::time::timeout(Duration::from_secs(60), connector.urls()).await;
        let took = begun.elapsed();
        DISK_HANGS.store(false, Ordering::Relaxed);
        std::fs::remove_file(&file).expect("removed");
        let urls = urls.unwrap_or_else(|_| panic!("blocked for {took:?}")).expect("URLs");
        assert_eq!(urls.first().map(|url| url.authority.host.as_str()), Some("well"));
        assert!(took < Duration::from_secs(20), "{took:?}");
    }

    #[tokio::test]
    async fn the_address_that_answered_last_is_tried_first() {
        let connector = connector(Secret::fixed("amqp://a,amqp://u:p@b,amqp://c".to_owned()));
        let hosts = async || -> Vec<String> {
            let urls = connector.urls().await.expect("URLs");
            urls.into_iter().map(|url| url.authority.host).collect()
        };
        assert_eq!(hosts().await, ["a", "b", "c"]);
        let second = connector.urls().await.expect("URLs").remove(1);
        *lock(&connector.0.last_good) = Some(address(&second));
        assert_eq!(hosts().await, ["b", "a", "c"]);
    }

    /// What is said of a login with a token of this size to what sends this and ends each connection.
    async fn ended_with_token(bytes: usize, greeting: &'static [u8]) -> ConnectError {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("amqp://{}", listener.local_addr().expect("an address"));
        let broker = Broker {
            token_file: Some(Secret::fixed("x".repeat(bytes))),
            ..Broker::with_url(Secret::fixed(url))
        };
        let server = async {
            loop {
                let (mut stream, _) = listener.accept().await.expect("accepted");
                let mut header = [0; 8];
                stream.read_exact(&mut header).await.expect("AMQP's header");
                stream.write_all(greeting).await.expect("sent");
            }
        };
        tokio::select! {
            error = async { Connector::new(&broker).connect_wire("test").await.expect_err("ended") } => error,
            () = server => unreachable!("it runs for ever"),
        }
    }

    #[tokio::test]
    async fn a_token_is_too_large_only_if_it_is_and_rabbitmq_has_greeted() {
        for (bytes, greeting, is_refusal, part) in [
            (5000, &b"\x01"[..], true, "has 5000 bytes: raise initial_frame_max"),
            (5000, b"", false, "If this goes on"),
            (3500, b"\x01", false, "If this goes on"),
            (100, b"", false, "is it RabbitMQ's port"),
        ] {
            let error = ended_with_token(bytes, greeting).await;
            assert_eq!(error.is_refusal(), is_refusal, "{bytes}: {error}");
            assert!(error.to_string().contains(part), "{bytes}: {error}");
        }
    }

    #[tokio::test]
    async fn that_there_is_no_connection_is_said_with_the_last_failure() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr();
        let url = format!("amqp://u:hunter2@{}", closed.expect("an address"));
        let connector = connector(Secret::fixed(url));
        assert_eq!(connector.not_connected(), "not connected to RabbitMQ");
        connector.connect("test").await.expect_err("nobody listens");
        let said = connector.not_connected();
        assert!(said.contains("no program listens there") && !said.contains("hunter2"), "{said}");
    }

    #[tokio::test]
    async fn a_url_says_how_long_its_address_may_take() {
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("amqp://{}?connection_timeout=300", mute.local_addr().expect("an address"));
        let begun = Instant::now();
        let error = connector(Secret::fixed(url)).connect("test").await.expect_err("nobody answers");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert!(error.to_string().contains("no answer within 0.3 s"), "{error}");
    }
}
