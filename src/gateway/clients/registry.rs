//! The clients and their credentials at one time. No IO.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use subtle::ConstantTimeEq;

use super::{
    client::Client,
    directory::{Found, Listing},
    error::ClientFault,
    file::{Credentials, Digest, digest},
    signature::SignatureHeaders,
};

/// The clients, by name. No two share a secret.
#[derive(Default)]
pub(super) struct Registry(BTreeMap<Arc<str>, Entry>);

#[derive(Clone)]
struct Entry {
    client: Client,
    credentials: Arc<Credentials>,
}

/// What differs between two registries: the names of clients.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) added: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) removed: Vec<String>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// The faults of each file that has some.
pub(super) type FileFaults = BTreeMap<String, Vec<ClientFault>>;

impl Registry {
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.0.values().map(|entry| entry.client.shared_name()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The client that has this bearer token. Compares with all tokens, so that the time reveals nothing.
    pub(super) fn with_token(&self, token: &[u8]) -> Option<Client> {
        let sent = digest(token);
        let mut found = None;
        for Entry { client, credentials } in self.0.values() {
            for token in credentials.tokens.keys() {
                if token.ct_eq(&sent).into() {
                    found = Some(client);
                }
            }
        }
        found.cloned()
    }

    /// The client that signed this request. Tries all keys, so that the time reveals nothing.
    pub(super) fn signer(&self, headers: &SignatureHeaders, body: &[u8]) -> Option<Client> {
        let mut found = None;
        for Entry { client, credentials } in self.0.values() {
            for key in credentials.keys.values() {
                if headers.is_signed_by(&key.key, body) {
                    found = Some(client);
                }
            }
        }
        found.cloned()
    }

    /// The registry after this listing was read. A client whose file has a fault keeps what it had;
    /// one whose file is gone is gone.
    pub(super) fn updated(&self, listing: Listing) -> (Self, FileFaults) {
        let mut faults = FileFaults::new();
        let mut clients = BTreeMap::new();
        for (name, found) in listing {
            let previous = self.0.get(name.as_str());
            let entry = match found {
                Found::Usable(credentials) => Some(Self::entry(&name, credentials, previous)),
                Found::Unusable(of_file) => {
                    faults.insert(name, of_file);
                    previous.cloned()
                }
                Found::Gone => None,
            };
            if let Some(entry) = entry {
                clients.insert(entry.client.shared_name(), entry);
            }
        }
        let mut updated = Self(clients);
        // To revert a client may bring back a secret that another client has now, hence the loop. It
        // ends, because without any change no two clients share a secret.
        loop {
            let ambiguous = updated.ambiguous(self);
            if ambiguous.is_empty() {
                return (updated, faults);
            }
            for (name, of_file) in ambiguous {
                match self.0.get(name.as_str()) {
                    Some(previous) => _ = updated.0.insert(name.as_str().into(), previous.clone()),
                    None => _ = updated.0.remove(name.as_str()),
                }
                faults.entry(name).or_default().extend(of_file);
            }
        }
    }

    fn entry(name: &str, credentials: Credentials, previous: Option<&Entry>) -> Entry {
        match previous {
            Some(previous) if previous.credentials.is_same(&credentials) => previous.clone(),
            Some(previous) => Entry {
                client: previous.client.with_rate(credentials.rate),
                credentials: Arc::new(credentials),
            },
            None => Entry {
                client: Client::new(name.into(), credentials.rate),
                credentials: Arc::new(credentials),
            },
        }
    }

    /// The clients that have a secret that another client has, too, and that are not as in `previous`.
    fn ambiguous(&self, previous: &Self) -> FileFaults {
        let mut owners: BTreeMap<&Digest, Vec<(&str, usize)>> = BTreeMap::new();
        for (name, entry) in &self.0 {
            for (secret, line) in entry.credentials.secrets() {
                owners.entry(secret).or_default().push((name, line));
            }
        }
        let mut faults = FileFaults::new();
        for owners in owners.values().filter(|owners| owners.len() > 1) {
            for (name, line) in owners {
                if self.is_unchanged(previous, name) {
                    continue;
                }
                let others: BTreeSet<_> =
                    owners.iter().map(|(other, _)| *other).filter(|other| other != name).collect();
                let others = others.into_iter().collect::<Vec<_>>().join(", ");
                let fault = ClientFault::new(
                    format!("is a secret that another client has, too: {others}"),
                    "give each client secrets of its own, so that it is clear who asks",
                );
                faults.entry((*name).to_owned()).or_default().push(fault.in_line(*line));
            }
        }
        faults.values_mut().for_each(|of_file| of_file.sort_by_key(|fault| fault.line));
        faults
    }

    fn is_unchanged(&self, previous: &Self, name: &str) -> bool {
        match (self.0.get(name), previous.0.get(name)) {
            (Some(now), Some(before)) => Arc::ptr_eq(&now.credentials, &before.credentials),
            _ => false,
        }
    }

    /// What has changed since `previous`.
    pub(super) fn changes_since(&self, previous: &Self) -> Changes {
        let mut changes = Changes::default();
        for name in self.0.keys() {
            if !previous.0.contains_key(name) {
                changes.added.push(name.to_string());
            } else if !self.is_unchanged(previous, name) {
                changes.changed.push(name.to_string());
            }
        }
        let is_removed = |name: &&Arc<str>| !self.0.contains_key(*name);
        changes.removed = previous.0.keys().filter(is_removed).map(|name| name.to_string()).collect();
        changes
    }
}
