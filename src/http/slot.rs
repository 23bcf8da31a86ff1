//! The places of a server's connections. One that waits for its client may be closed for another one.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio_util::sync::CancellationToken;

/// A connection that waits for less than this, in µs, keeps its place: its request may have come already.
const MIN_WAIT: u64 = 100_000;

/// A connection's place among those that are open, which it leaves when this is dropped.
#[derive(Debug)]
pub struct Slot(Arc<OpenConnection>);

impl Slot {
    /// Ends when the connection must be closed.
    pub(super) async fn closed(&self) {
        self.0.close.cancelled().await;
    }

    /// The connection waits for its client from now on.
    pub(super) fn wait_for_client(&self) {
        self.0.wait_for_client();
    }

    pub(super) fn wait_no_more(&self) {
        self.0.wait_no_more();
    }

    /// A place outside of any server: for a request without a connection.
    pub fn detached() -> Self {
        OpenConnections::add(&Arc::default(), CancellationToken::new())
    }

    /// Until the result is dropped, the connection may be closed for another one: it waits for bytes of
    /// its client, and nothing is lost with it.
    #[must_use]
    pub fn waits_for_client(&self) -> WaitsForClient<'_> {
        self.0.wait_for_client();
        WaitsForClient(&self.0)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.all.lock().retain(|open| !Arc::ptr_eq(open, &self.0));
    }
}

/// A connection that may be closed for another one.
#[derive(Debug)]
pub struct WaitsForClient<'a>(&'a OpenConnection);

impl Drop for WaitsForClient<'_> {
    fn drop(&mut self) {
        self.0.wait_no_more();
    }
}

#[derive(Debug)]
struct OpenConnection {
    all: Arc<OpenConnections>,
    close: CancellationToken,
    /// When it began to wait for its client, in µs of [`OpenConnections::begun`]; zero if it does not wait.
    waits_since: AtomicU64,
}

impl OpenConnection {
    fn wait_for_client(&self) {
        self.waits_since.store(self.all.now().max(1), Ordering::Relaxed);
    }

    fn wait_no_more(&self) {
        self.waits_since.store(0, Ordering::Relaxed);
    }
}

/// The connections of a server.
#[derive(Debug)]
pub(super) struct OpenConnections {
    open: Mutex<Vec<Arc<OpenConnection>>>,
    begun: Instant,
}

impl Default for OpenConnections {
    fn default() -> Self {
        Self { open: Mutex::default(), begun: Instant::now() }
    }
}

impl OpenConnections {
    pub(super) fn add(all: &Arc<Self>, close: CancellationToken) -> Slot {
        let connection = OpenConnection { all: Arc::clone(all), close, waits_since: AtomicU64::new(0) };
        let connection = Arc::new(connection);
        all.lock().push(Arc::clone(&connection));
        Slot(connection)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Closes the one that has waited longest for its client, if it has waited for [`MIN_WAIT`].
    pub(super) fn close_oldest(&self) {
        let open = self.lock();
        let until = self.now().saturating_sub(MIN_WAIT);
        let waits_since = |connection: &OpenConnection| connection.waits_since.load(Ordering::Relaxed);
        let waiting = open.iter().filter(|connection| (1..=until).contains(&waits_since(connection)));
        if let Some(oldest) = waiting.min_by_key(|connection| waits_since(connection)) {
            // Not twice: it takes a moment until it is closed.
            oldest.wait_no_more();
            oldest.close.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<OpenConnection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
