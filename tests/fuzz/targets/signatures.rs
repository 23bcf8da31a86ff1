//! Signed requests (Standard Webhooks): a second reading of the specification decides which are right.

use std::net::{IpAddr, Ipv4Addr};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use proptest::prelude::*;
use sha2::Sha256;
use trackfinity_unlocker::{
    gateway::clients::{Clients, Identified},
    message::Timestamp,
};

use super::{Checked, text::Text};

pub const SIGNING_KEY: [u8; 32] = [7; 32];
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The time on this machine, in seconds.
const NOW: u64 = 1_795_424_400;
const TOLERANCE: u64 = 300;

thread_local! {
    static CLIENTS: Clients = {
        let directory = tempfile::tempdir().expect("a directory");
        let secret = format!("whsec_{}\n", STANDARD.encode(SIGNING_KEY));
        std::fs::write(directory.path().join("shop"), secret).expect("written");
        Clients::open(directory.path()).expect("a client")
    };
}

/// The right signature, in base64.
pub fn signature(id: &[u8], timestamp: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&SIGNING_KEY).expect("a key");
    for part in [id, b".", timestamp, b".", body] {
        mac.update(part);
    }
    STANDARD.encode(mac.finalize().into_bytes())
}

/// The lines of the head are headers. In their values, `{signature}` stands for the right signature of the
/// first id, the first timestamp and this body; `{other}` for that of the same with another body.
pub fn check_bytes(bytes: &[u8]) -> Checked {
    let text = Text::parse(bytes);
    let first = |name: &str| {
        text.lines().find(|(given, _)| *given == name.as_bytes()).map_or(&b""[..], |(_, value)| value)
    };
    let (id, timestamp) = (first("webhook-id"), first("webhook-timestamp"));
    let right = signature(id, timestamp, text.body);
    let other = signature(id, timestamp, b"another body");
    let mut headers = HeaderMap::new();
    for (name, value) in text.lines() {
        let value = match std::str::from_utf8(value) {
            Ok(value) => value.replace("{signature}", &right).replace("{other}", &other).into_bytes(),
            Err(_) => value.to_vec(),
        };
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(&value)) else {
            return Ok(());
        };
        headers.append(name, value);
    }
    let is_right = is_right(&headers, text.body);
    let now = Timestamp::from_secs(NOW);
    CLIENTS.with(|clients| {
        let name = match clients.identify(PEER, &headers) {
            Ok(Identified::Signed(signed)) => {
                let id = signed.id().to_owned();
                prop_assert!(!id.is_empty());
                signed.verify(text.body, now).ok().map(|client| client.name().to_owned())
            }
            // No file has a token.
            Ok(Identified::Client(client)) => {
                return Err(TestCaseError::fail(format!("let in without a signature: {client:?}")));
            }
            Err(_) => None,
        };
        prop_assert_eq!(name.as_deref(), is_right.then_some("shop"));
        Ok(())
    })
}

fn is_right(headers: &HeaderMap, body: &[u8]) -> bool {
    let one = |name: &str| {
        let all: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        let [value] = all[..] else { return None };
        (!value.is_empty() && value.iter().all(|byte| matches!(byte, b' '..=b'~'))).then_some(value)
    };
    let (Some(id), Some(timestamp), Some(signatures)) =
        (one("webhook-id"), one("webhook-timestamp"), one("webhook-signature"))
    else {
        return false;
    };
    let all: Vec<_> = headers.get_all("authorization").iter().collect();
    let has_bearer = all.iter().any(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"bearer "));
    let digits =
        std::str::from_utf8(timestamp).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let seconds = digits.and_then(|text| text.parse::<u64>().ok());
    let expected = format!("v1,{}", signature(id, timestamp, body));
    all.len() < 2
        && !has_bearer
        && seconds.is_some_and(|seconds| seconds.abs_diff(NOW) <= TOLERANCE)
        && signatures.split(|byte| *byte == b' ').any(|one| one == expected.as_bytes())
}
