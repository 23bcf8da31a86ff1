//! Finds the client that sent a request, and reads the directory again while the program runs.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use axum::http::{
    HeaderMap, HeaderName,
    header::{HOST, ORIGIN},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    client::{Client, LOCAL},
    credentials::{Presented, Wrong, presented},
    directory::{self, Found, Listing},
    error::{ClientFault, ClientsError},
    registry::Registry,
    signature::SignatureHeaders,
};
use crate::{
    http::{Gcra, Throttle, network},
    message::Timestamp,
    telemetry::LogThrottle,
};

/// How often the directory is read again.
const READ_INTERVAL: Duration = Duration::from_secs(2);

/// How many wrong credentials a network may send: ten at once, then one a second.
const WRONG_CREDENTIALS: Gcra = Gcra { interval: Duration::from_secs(1), burst: 10 };

/// Who may use the gateway. Clones share all state.
#[derive(Clone)]
pub struct Clients(Arc<Inner>);

enum Inner {
    Local(Client),
    Directory(Guarded),
}

/// Clients with credentials.
struct Guarded {
    directory: PathBuf,
    registry: RwLock<Arc<Registry>>,
    throttle: Throttle,
    wrong_log: LogThrottle,
}

/// Who sent a request, as far as its head shows.
#[derive(Debug)]
pub enum Identified {
    /// The client is known: its token is right, or none is needed.
    Client(Client),
    /// The request is signed; its body decides.
    Signed(Signed),
}

/// A signed request whose body is not verified yet.
#[derive(Debug)]
pub struct Signed {
    clients: Clients,
    peer: IpAddr,
    headers: SignatureHeaders,
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request is not let in. The text is the same for every cause, so that a stranger learns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No credentials, or wrong ones.
    #[error(
        "the request has no valid credentials: one bearer token, or a signature by Standard Webhooks of the last five minutes"
    )]
    Unauthorized,
    /// Wrong credentials, after too many others from the same network: how long to wait. Right
    /// credentials are always let in.
    #[error("too many requests from this address had wrong credentials")]
    TooManyFailures(Duration),
    /// A browser sends this for a page, to a gateway that lets everybody on this machine in.
    #[error("a browser sends this request for a page")]
    Browser,
}

impl Clients {
    /// Everybody is the client `local`: for a gateway that serves loopback only.
    pub fn local() -> Self {
        Self(Arc::new(Inner::Local(Client::local())))
    }

    /// Reads the clients of a directory. Blocks on the disk.
    ///
    /// # Errors
    /// If the directory cannot be read or holds no client, or if any file in it has a fault. The error
    /// lists all faults, and shows no secret.
    pub fn open(directory: &Path) -> Result<Self, ClientsError> {
        let error = |faults| ClientsError { directory: directory.to_owned(), faults };
        let mut listing = directory::read(directory).map_err(|cause| error(vec![unreadable(&cause)]))?;
        for found in listing.values_mut().filter(|found| matches!(found, Found::Gone)) {
            let fault = ClientFault::new("leads to no file", "remove this symlink, or create the file");
            *found = Found::Unusable(vec![fault]);
        }
        let (registry, faults) = Registry::default().updated(listing);
        let faults: Vec<_> = faults
            .into_iter()
            .flat_map(|(file, faults)| faults.into_iter().map(move |fault| fault.in_file(&file)))
            .collect();
        if !faults.is_empty() {
            return Err(error(faults));
        }
        if registry.is_empty() {
            let remedy = "create a file for each client, named after it, with a secret in each line";
            return Err(error(vec![ClientFault::new(
                "holds no client, so no request could be taken",
                remedy,
            )]));
        }
        Ok(Self(Arc::new(Inner::Directory(Guarded {
            directory: directory.to_owned(),
            registry: RwLock::new(Arc::new(registry)),
            throttle: Throttle::new(WRONG_CREDENTIALS, None),
            wrong_log: LogThrottle::default(),
        }))))
    }

    /// Reads the directory again every two seconds, until `stop`. A file with a fault leaves its
    /// client as it was, and is logged once. A directory that cannot be read leaves all clients.
    pub async fn watch(self, stop: CancellationToken) {
        let Inner::Directory(guarded) = &*self.0 else {
            return stop.cancelled().await;
        };
        let mut ticks = tokio::time::interval(READ_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let read_again_and_again = async {
            let mut reported = Reported::default();
            loop {
                ticks.tick().await;
                guarded.read_again(&mut reported).await;
            }
        };
        stop.run_until_cancelled(read_again_and_again).await;
    }

    /// Who sent a request, from its head alone. A wrong token is denied before the body is read.
    ///
    /// # Errors
    /// If the request has no credentials, or wrong ones.
    pub fn identify(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Identified, Denied> {
        let guarded = match &*self.0 {
            // Any page that somebody opens on this machine could send requests. Browsers say so.
            Inner::Local(_) if is_of_a_page(headers) => return Err(Denied::Browser),
            Inner::Local(client) => return Ok(Identified::Client(client.clone())),
            Inner::Directory(guarded) => guarded,
        };
        match presented(headers) {
            Presented::Nothing => Err(Denied::Unauthorized),
            Presented::Unusable(wrong) => Err(guarded.deny(peer, wrong)),
            Presented::Token(token) => {
                let client = guarded.registry().with_token(token);
                client.map(Identified::Client).ok_or_else(|| guarded.deny(peer, Wrong::Token))
            }
            Presented::Signature(headers) => {
                Ok(Identified::Signed(Signed { clients: self.clone(), peer, headers }))
            }
        }
    }

    /// The names of all clients, sorted.
    pub fn names(&self) -> Vec<Arc<str>> {
        match &*self.0 {
            Inner::Local(client) => vec![client.shared_name()],
            Inner::Directory(guarded) => guarded.registry().names(),
        }
    }

    #[cfg(test)]
    pub(super) async fn read_again(&self, reported: &mut Reported) {
        if let Inner::Directory(guarded) = &*self.0 {
            guarded.read_again(reported).await;
        }
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Inner::Local(_) => f.write_str(LOCAL),
            Inner::Directory(guarded) => write!(f, "[clients in {}]", guarded.directory.display()),
        }
    }
}

impl Signed {
    /// The id that the sender gave the request (`webhook-id`): visible ASCII and blanks, not empty.
    pub fn id(&self) -> &str {
        &self.headers.id
    }

    /// The client that signed this body within five minutes of `now`.
    ///
    /// # Errors
    /// If no client did.
    pub fn verify(self, body: &[u8], now: Timestamp) -> Result<Client, Denied> {
        match &*self.clients.0 {
            Inner::Local(client) => Ok(client.clone()),
            Inner::Directory(guarded) if !self.headers.is_current(now) => {
                Err(guarded.deny(self.peer, Wrong::Timestamp))
            }
            Inner::Directory(guarded) => {
                let client = guarded.registry().signer(&self.headers, body);
                client.ok_or_else(|| guarded.deny(self.peer, Wrong::Signature))
            }
        }
    }
}

/// The failures that were logged: by file, or of the directory (`None`).
#[derive(Default)]
pub(super) struct Reported(BTreeMap<Option<String>, String>);

impl Guarded {
    fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn deny(&self, peer: IpAddr, wrong: Wrong) -> Denied {
        if let Some(left_out) = self.wrong_log.due(&(network(peer), wrong)) {
            let cause = wrong.as_str();
            warn!(event = "wrong_credentials", address = %peer, cause, left_out, "a request to the gateway had wrong credentials");
        }
        match self.throttle.record_failure(peer, Instant::now()) {
            Ok(()) => Denied::Unauthorized,
            Err(wait) => Denied::TooManyFailures(wait.0),
        }
    }

    async fn read_again(&self, reported: &mut Reported) {
        let directory = self.directory.clone();
        let read = tokio::task::spawn_blocking(move || directory::read(&directory)).await;
        match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(listing) => self.update(listing, reported),
            Err(error) => {
                let failure = unreadable(&error).to_string();
                if reported.0.insert(None, failure.clone()).as_ref() != Some(&failure) {
                    warn!(event = "clients_unusable", path = %self.directory.display(), error = %failure, "the clients' directory cannot be read: all clients stay as they are");
                }
            }
        }
    }

    fn update(&self, listing: Listing, reported: &mut Reported) {
        let before = self.registry();
        let (after, faults) = before.updated(listing);
        let changes = after.changes_since(&before);
        if !changes.is_empty() {
            let clients = after.names().len();
            // The clients are let in or not before anyone reads the line.
            *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
            let names = |names: &[String]| (!names.is_empty()).then(|| names.join(", "));
            let (added, changed, removed) =
                (names(&changes.added), names(&changes.changed), names(&changes.removed));
            info!(
                event = "clients_changed",
                added, changed, removed, clients, "the gateway's clients have changed"
            );
        }
        let failures: BTreeMap<_, _> = faults
            .into_iter()
            .map(|(file, faults)| {
                let faults: Vec<_> = faults.iter().map(ClientFault::to_string).collect();
                (Some(file), faults.join("; "))
            })
            .collect();
        for (file, failure) in &failures {
            if reported.0.get(file) != Some(failure) {
                warn!(event = "clients_unusable", path = self.path(file.as_deref()), error = %failure, "a client's file cannot be used: the client stays as it was");
            }
        }
        for file in reported.0.keys().filter(|file| !failures.contains_key(file)) {
            info!(
                event = "clients_readable",
                path = self.path(file.as_deref()),
                "a client's file, or the directory, has no fault any more"
            );
        }
        reported.0 = failures;
    }

    fn path(&self, file: Option<&str>) -> String {
        let path = file.map_or_else(|| self.directory.clone(), |file| self.directory.join(file));
        path.display().to_string()
    }
}

/// Whether a browser sends this for a page. To a page whose own name leads to this machine, the gateway is of the
/// same origin: then the name is in the host.
fn is_of_a_page(headers: &HeaderMap) -> bool {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_foreign_host = text(&HOST).is_some_and(|host| {
        let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let name = name.map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        let is_loopback = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        !is_loopback && !name.eq_ignore_ascii_case("localhost")
    });
    let is_cross_site = text(&SEC_FETCH_SITE).is_some_and(|site| !matches!(site, "none" | "same-origin"));
    headers.contains_key(ORIGIN) || is_cross_site || is_foreign_host
}

fn unreadable(error: &io::Error) -> ClientFault {
    let remedy = "mount it, and give the gateway's user the right to list it";
    ClientFault::new(format!("cannot be read: {error}"), remedy)
}
