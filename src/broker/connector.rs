//! Connects to RabbitMQ with the URLs and credentials that are in their file now. The address that
//! answered last is tried first.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::uri::AMQPUri;

use super::{
    connect_error::ConnectError,
    connection::{Connection, address, connect_in_turn, with_small_frames},
    wire::WireConnection,
};
use crate::{settings::Broker, telemetry::LogThrottle};

/// How long reading the URLs' file may take. After that the last good value is used.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to RabbitMQ. Clones share which address answered last.
#[derive(Clone, Debug)]
pub struct Connector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    broker: Broker,
    /// The address that answered last, without credentials.
    last_good: Mutex<Option<String>>,
    /// Whether a message has needed large frames; from then on all connections have them.
    full_frames: AtomicBool,
    throttle: LogThrottle,
}

impl Connector {
    pub fn new(broker: &Broker) -> Self {
        Self(Arc::new(Inner {
            broker: broker.clone(),
            last_good: Mutex::default(),
            full_frames: AtomicBool::new(false),
            throttle: LogThrottle::default(),
        }))
    }

    /// Connects. RabbitMQ's management page shows `purpose` behind the program's name.
    ///
    /// # Errors
    /// If no address answers within its time limit, or all together not within theirs.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, ConnectError> {
        self.connect_to(&self.addresses().await?, purpose).await
    }

    /// A connection for short messages, which needs less memory.
    pub(crate) async fn connect_with_small_frames(&self, purpose: &str) -> Result<Connection, ConnectError> {
        self.connect_to(&with_small_frames(&self.addresses().await?), purpose).await
    }

    /// A connection to publish on, and whether its frames are small. They are small until
    /// `full_frames` was `true` once.
    pub(super) async fn connect_to_publish(
        &self,
        full_frames: bool,
    ) -> Result<(Connection, bool), ConnectError> {
        if full_frames {
            self.0.full_frames.store(true, Ordering::Relaxed);
        }
        match self.0.full_frames.load(Ordering::Relaxed) {
            true => Ok((self.connect("publishes").await?, false)),
            false => Ok((self.connect_with_small_frames("publishes").await?, true)),
        }
    }

    /// Connects with this program's own AMQP reader, which reads what lapin cannot.
    pub(crate) async fn connect_wire(&self, purpose: &str) -> Result<WireConnection, ConnectError> {
        WireConnection::connect(&self.addresses().await?, purpose).await
    }

    async fn connect_to(&self, urls: &[AMQPUri], purpose: &str) -> Result<Connection, ConnectError> {
        let (connection, address) = connect_in_turn(urls, purpose).await?;
        *self.last_good() = Some(address);
        Ok(connection)
    }

    /// The URLs that are in their file now. The one that answered last is first.
    async fn addresses(&self) -> Result<Vec<AMQPUri>, ConnectError> {
        if tokio::time::timeout(REFRESH_TIMEOUT, self.0.broker.url.refresh()).await.is_err()
            && let Some(left_out) = self.0.throttle.due("secret_file_slow")
        {
            tracing::warn!(
                event = "secret_file_slow",
                left_out,
                "reading the file of broker.url takes too long: keeping the last value. Check its volume"
            );
        }
        let mut urls = self.0.broker.uris()?;
        if let Some(last_good) = self.last_good().as_deref() {
            // The sort is stable, so all others keep their order.
            urls.sort_by_key(|url| address(url) != last_good);
        }
        Ok(urls)
    }

    fn last_good(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.0.last_good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use super::*;
    use crate::secret::Secret;

    static DISK_HANGS: AtomicBool = AtomicBool::new(false);

    /// Blocks while the disk hangs.
    fn slow(_: &str) -> Result<(), String> {
        while DISK_HANGS.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn connector(urls: Secret) -> Connector {
        Connector::new(&Broker { url: urls, declare: true })
    }

    #[tokio::test]
    async fn a_disk_that_hangs_leaves_the_last_good_urls() {
        let file = std::env::temp_dir().join(format!("unlocker-url-{}", uuid::Uuid::now_v7()));
        std::fs::write(&file, "amqp://well").expect("written");
        let connector = connector(Secret::open(&file, slow).expect("a URL"));
        DISK_HANGS.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let urls = tokio::time::timeout(Duration::from_secs(60), connector.addresses()).await;
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
            let urls = connector.addresses().await.expect("URLs");
            urls.into_iter().map(|url| url.authority.host).collect()
        };
        assert_eq!(hosts().await, ["a", "b", "c"]);
        let second = connector.addresses().await.expect("URLs").remove(1);
        *connector.last_good() = Some(address(&second));
        assert_eq!(hosts().await, ["b", "a", "c"]);
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
