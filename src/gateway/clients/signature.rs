//! Signed requests, by the published specification "Standard Webhooks": HMAC-SHA256 over
//! `id.timestamp.body`, in base64.

use axum::http::HeaderMap;
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::message::Timestamp;

pub(super) const SIGNATURE: &str = "webhook-signature";
const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
/// The only version of signatures that is verified here. `v1a` is ed25519.
const VERSION: &str = "v1";
/// How far the sender's clock may be from this machine's, in seconds.
const TOLERANCE_SECS: u64 = 5 * 60;

/// A signing secret.
#[derive(Clone)]
pub(super) struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    /// `None` if HMAC does not take these bytes; it takes all.
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    /// The signature in base64, without its version.
    pub(super) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

/// The headers of a signed request, not verified yet.
#[derive(Clone, Debug)]
pub(super) struct SignatureHeaders {
    pub(super) id: String,
    /// Seconds since the Unix epoch. Kept as it was sent, because these bytes are signed.
    timestamp: String,
    signatures: String,
}

impl SignatureHeaders {
    /// Reads the headers, without verifying them. `None` if one is missing, repeated or not usable.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |name| {
            let mut values = headers.get_all(name).iter();
            let value = values.next()?.to_str().ok()?;
            let is_usable = values.next().is_none() && !value.is_empty();
            // `to_str` lets tabs through.
            (is_usable && !value.contains(char::is_control)).then(|| value.to_owned())
        };
        let timestamp = text(TIMESTAMP)?;
        // A sign or a blank would parse, too.
        timestamp.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
        Some(Self { id: text(ID)?, timestamp, signatures: text(SIGNATURE)? })
    }

    /// Whether the request was signed within five minutes of `now`.
    pub(super) fn is_current(&self, now: Timestamp) -> bool {
        self.timestamp.parse::<u64>().is_ok_and(|seconds| seconds.abs_diff(now.as_secs()) <= TOLERANCE_SECS)
    }

    /// Whether one of the signatures is this key's. The time does not reveal where they differ.
    pub(super) fn is_signed_by(&self, key: &SigningKey, body: &[u8]) -> bool {
        let expected = key.sign(&self.id, &self.timestamp, body);
        let signatures = self.signatures.split(' ').filter_map(|signature| signature.split_once(','));
        let of_version = signatures.filter(|(version, _)| *version == VERSION);
        let matches = of_version
            .fold(Choice::from(0), |any, (_, text)| any | text.as_bytes().ct_eq(expected.as_bytes()));
        matches.into()
    }
}
