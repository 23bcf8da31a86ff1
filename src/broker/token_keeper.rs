//! Keeps open connections logged in: when the file of the token changes, each of them gets the new token
//! (`connection.update_secret`), without a reconnect. lapin's own refresh would read the file on its thread, and spin
//! once the token has expired.
//!
//! RabbitMQ 4.3 closes a connection whose token has expired. Older versions only refuse what is done on it, up to a minute
//! later. So once a token has expired by its own word, RabbitMQ is asked by a login whether that is so.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use secrecy::SecretString;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::wire::WireSecret;
use crate::{
    secret::Secret,
    settings::{TokenInfo, token_in},
};

/// How often the file is read.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// How long reading the file may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// How long RabbitMQ may take to accept a token. While it is short of memory or disk, it reads nothing from a connection
/// that publishes; the token is sent as soon as it does.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often RabbitMQ is asked whether it accepts the token again.
const LOGIN_INTERVAL: Duration = Duration::from_secs(5);

/// What it means that a connection was not given the new token.
const REFUSED: &str = "a connection could not be given the new token: RabbitMQ closes it, and a new one is opened if it is needed";
const UNANSWERED: &str = "RabbitMQ has not answered the new token on a connection: it may be short of memory or disk, see its \
    alarms";
/// The reason that RabbitMQ logs.
const REASON: &str = "the token's file has changed";

/// The open connections that are logged in with the token.
#[derive(Debug)]
pub(super) struct TokenKeeper {
    token: Secret,
    open: Mutex<Vec<Holder>>,
    is_running: AtomicBool,
}

/// An open connection, and the version of the token that it has.
#[derive(Debug)]
struct Holder {
    purpose: String,
    version: u64,
    connection: Handle,
}

/// A connection that may have been closed and dropped since.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    Lapin(Weak<lapin::Connection>),
    Wire(WireSecret),
}

impl Handle {
    fn is_open(&self) -> bool {
        match self {
            Self::Lapin(connection) => connection.upgrade().is_some_and(|open| open.status().connected()),
            Self::Wire(connection) => connection.is_open(),
        }
    }

    async fn update(&self, token: &SecretString) -> Result<(), String> {
        match self {
            Self::Lapin(connection) => match connection.upgrade() {
                Some(open) => open
                    .update_secret(token_in(token).into(), REASON.into())
                    .await
                    .map_err(|error| error.to_string()),
                None => Ok(()),
            },
            Self::Wire(connection) => {
                connection.update(token_in(token), REASON).map_err(|error| error.to_string())
            }
        }
    }
}

impl TokenKeeper {
    pub(super) fn new(token: Secret) -> Arc<Self> {
        Arc::new(Self { token, open: Mutex::default(), is_running: AtomicBool::new(false) })
    }

    /// The version of the token that a login would use now.
    pub(super) fn version(&self) -> u64 {
        self.token.version()
    }

    /// Waits for a new token.
    pub(super) async fn changed(&self) {
        self.token.changed_since(self.version()).await;
    }

    /// Keeps a connection logged in, which was opened with this version of the token. `try_login(has_expired)` logs in
    /// on a connection of its own, if that is worth a try, and says whether it did.
    pub(super) fn keep<F: Future<Output = bool> + Send + 'static>(
        self: &Arc<Self>,
        connection: Handle,
        purpose: &str,
        version: u64,
        try_login: impl Fn(bool) -> F + Send + Sync + 'static,
    ) {
        self.open().push(Holder { purpose: purpose.to_owned(), version, connection });
        if !self.is_running.swap(true, Ordering::AcqRel) {
            tokio::spawn(run(Arc::clone(self), try_login));
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<Holder>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the token to the connections that have another one.
    async fn hand_over(&self) {
        let (version, token) = (self.token.version(), self.token.current());
        let outdated: Vec<(String, Handle)> = {
            let mut open = self.open();
            open.retain(|holder| holder.connection.is_open());
            let outdated = open.iter_mut().filter(|holder| holder.version != version);
            outdated
                .map(|holder| {
                    holder.version = version;
                    (holder.purpose.clone(), holder.connection.clone())
                })
                .collect()
        };
        if outdated.is_empty() {
            return;
        }
        let count = outdated.len();
        let updates = outdated.into_iter().map(async |(purpose, connection)| {
            let (error, meaning) = match timeout(UPDATE_TIMEOUT, connection.update(&token)).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => (error, REFUSED),
                Err(_elapsed) => ("no answer".to_owned(), UNANSWERED),
            };
            tracing::warn!(event = "token_not_updated", connection = purpose, error, "{meaning}");
            false
        });
        let updated = join_all(updates).await.into_iter().filter(|updated| *updated).count();
        let info = TokenInfo::of(&self.token);
        tracing::info!(
            event = "token_updated",
            connections = count,
            updated,
            path = %info.file.display(),
            expires_at = info.expires_at.map(|expiry| expiry.to_string()),
            "open connections were given the new token"
        );
    }

    /// Whether a connection is open that is logged in with the token.
    pub(super) fn has_open(&self) -> bool {
        self.open().iter().any(|holder| holder.connection.is_open())
    }
}

/// Runs until no connection is open, and none can be opened any more.
async fn run<F: Future<Output = bool> + Send>(
    keeper: Arc<TokenKeeper>,
    try_login: impl Fn(bool) -> F + Send + Sync,
) {
    let mut ticks = tokio::time::interval(READ_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tried: Option<(u64, Instant)> = None;
    loop {
        ticks.tick().await;
        if Arc::strong_count(&keeper) == 1 && !keeper.has_open() {
            return;
        }
        if timeout(READ_TIMEOUT, keeper.token.refresh()).await.is_err() {
            tracing::debug!("reading the token's file takes too long: the last one is kept");
        }
        keeper.hand_over().await;
        let version = keeper.version();
        let is_due = tried.is_none_or(|(tried, at)| tried != version || at.elapsed() >= LOGIN_INTERVAL);
        // Without open connections, those who need one try to log in themselves.
        if is_due && keeper.has_open() && try_login(TokenInfo::of(&keeper.token).has_expired()).await {
            tried = Some((version, Instant::now()));
        }
    }
}
