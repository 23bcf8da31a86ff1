//! How the worker connects to RabbitMQ: with the URLs and credentials as their file is now, and to
//! the address that answered last first.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::uri::AMQPUri;

use super::{
    connection::{ConnectError, Link, address, connect_in_turn, with_small_frames},
    wire::WireConnection,
};
use crate::settings::Broker;

/// How long it may take to read the URLs' file again; then the last good value is used.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to RabbitMQ; clones share what was learned of its addresses.
#[derive(Clone, Debug)]
pub struct Connector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    broker: Broker,
    /// The address that answered last, without credentials.
    last_good: Mutex<Option<String>>,
    /// Whether a message has needed larger frames than usual: where one has there may be more.
    full_frames: AtomicBool,
}

impl Connector {
    #[must_use]
    pub fn new(broker: &Broker) -> Self {
        Self(Arc::new(Inner {
            broker: broker.clone(),
            last_good: Mutex::default(),
            full_frames: AtomicBool::new(false),
        }))
    }

    /// Connects; `purpose` is what the management page shows behind the program's name.
    ///
    /// # Errors
    /// If no address answers. Each has a time limit of its own, and so has the whole.
    pub async fn connect(&self, purpose: &str) -> Result<Link, ConnectError> {
        self.connect_to(&self.addresses().await?, purpose).await
    }

    /// A connection for short messages, which takes less memory.
    pub(super) async fn connect_with_small_frames(&self, purpose: &str) -> Result<Link, ConnectError> {
        self.connect_to(&with_small_frames(&self.addresses().await?), purpose).await
    }

    /// A connection to publish on, and whether its frames are smaller than RabbitMQ's. They are
    /// until `full_frames` was asked for once.
    pub(super) async fn connect_to_publish(&self, full_frames: bool) -> Result<(Link, bool), ConnectError> {
        if full_frames {
            self.0.full_frames.store(true, Ordering::Relaxed);
        }
        match self.0.full_frames.load(Ordering::Relaxed) {
            true => Ok((self.connect("publishes").await?, false)),
            false => Ok((self.connect_with_small_frames("publishes").await?, true)),
        }
    }

    /// Connects by the reader of our own, which reads what lapin cannot.
    pub(crate) async fn connect_wire(&self, purpose: &str) -> Result<WireConnection, ConnectError> {
        WireConnection::connect(&self.addresses().await?, purpose).await
    }

    async fn connect_to(&self, urls: &[AMQPUri], purpose: &str) -> Result<Link, ConnectError> {
        let (link, address) = connect_in_turn(urls, purpose).await?;
        *self.last_good() = Some(address);
        Ok(link)
    }

    /// The URLs as their file is now, the one that answered last first.
    async fn addresses(&self) -> Result<Vec<AMQPUri>, ConnectError> {
        if tokio::time::timeout(REFRESH_TIMEOUT, self.0.broker.urls.refresh()).await.is_err() {
            tracing::warn!("the file of broker.url cannot be read in time: keeping the last value");
        }
        let mut urls = self.0.broker.uris()?;
        if let Some(last_good) = self.last_good().as_deref() {
            // Stable: all others keep their order.
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
    use std::{error::Error, thread, time::Instant};

    use super::*;
    use crate::secret::Secret;

    static DISK_HANGS: AtomicBool = AtomicBool::new(false);

    /// Takes as long as the disk hangs.
    fn slow(_: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
        while DISK_HANGS.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn connector(urls: Secret) -> Connector {
        Connector::new(&Broker { urls, declare: true })
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
        let urls = urls.unwrap_or_else(|_| panic!("held up for {took:?}")).expect("URLs");
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
