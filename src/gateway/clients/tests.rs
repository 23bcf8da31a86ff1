//! What the tests of several files share.

mod files;
mod identify;
mod read_again;
mod signatures;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tempfile::TempDir;

use super::{signature::SigningKey, *};
use crate::message::Timestamp;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OTHER_TOKEN: &str = "fedcba9876543210fedcba9876543210";
const THIRD_TOKEN: &str = "00112233445566778899aabbccddeeff";
/// The first is from the tests of Standard Webhooks' own libraries for Rust, the second from the others.
const SIGNING_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER_SIGNING_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

const NOW: u64 = 1_795_424_400;

fn now() -> Timestamp {
    Timestamp::from_secs(NOW)
}

fn peer() -> IpAddr {
    [192, 0, 2, 1].into()
}

/// A directory of clients that is gone when the test ends.
struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, content)| folder.write(name, content));
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.file(name), content).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    fn open(&self) -> Result<Clients, ClientsError> {
        Clients::open(self.path())
    }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(header) {
        headers.append(name, value);
    }
    headers
}

fn bearer(token: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {token}"))])
}

fn key(secret: &str) -> SigningKey {
    use base64::{Engine, engine::general_purpose::STANDARD};
    SigningKey::new(&STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap()).unwrap()
}

fn signed(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> HeaderMap {
    let signature = format!("v1,{}", key(secret).sign(id, timestamp, body));
    headers(&[("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", &signature)])
}

/// The name of the client, decided with head and body.
fn client(clients: &Clients, headers: &HeaderMap, body: &[u8]) -> Result<String, Denied> {
    let client = match clients.identify(peer(), headers)? {
        Identified::Client(client) => client,
        Identified::Signed(signed) => signed.verify(body, now())?,
    };
    Ok(client.name().to_owned())
}

fn has(clients: &Clients, token: &str) -> Option<String> {
    client(clients, &bearer(token), b"").ok()
}

fn names(clients: &Clients) -> Vec<String> {
    clients.names().iter().map(|name| name.to_string()).collect()
}
