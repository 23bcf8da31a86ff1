//! Reads the content of a client's file. No IO.

use std::collections::BTreeMap;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use secrecy::zeroize::Zeroizing;
use sha2::{Digest as _, Sha256};

use super::{error::ClientFault, signature::SigningKey};
use crate::settings::RateLimit;

/// The shortest bearer token, in characters: a shorter one could be guessed.
const MIN_TOKEN_CHARS: usize = 32;
/// The lengths of a signing secret that Standard Webhooks allows, in bytes.
const MIN_KEY_BYTES: usize = 24;
const MAX_KEY_BYTES: usize = 64;
const SIGNING_PREFIX: &str = "whsec_";
/// Asymmetric keys of Standard Webhooks. As a bearer token, a public key would let everyone in.
const ASYMMETRIC_PREFIXES: [&str; 2] = ["whpk_", "whsk_"];

/// With or without padding: senders show both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const NEW_TOKEN: &str = "make one with `openssl rand -hex 32`";
const NEW_SIGNING_SECRET: &str =
    "copy the sender's secret, or make one: `whsec_` and the output of `openssl rand -base64 32`";

/// The SHA-256 of a secret.
pub(super) type Digest = [u8; 32];

/// The SHA-256 of `secret`.
pub(super) fn digest(secret: &[u8]) -> Digest {
    Sha256::digest(secret).into()
}

/// What a client's file holds: at least one secret.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    /// The digests of the bearer tokens, with the lines they are in.
    pub(super) tokens: BTreeMap<Digest, usize>,
    pub(super) keys: BTreeMap<Digest, Key>,
    pub(super) rate: Option<RateLimit>,
}

#[derive(Clone)]
pub(super) struct Key {
    pub(super) line: usize,
    pub(super) key: SigningKey,
}

impl Credentials {
    /// Whether both hold the same secrets and rate, wherever in the file.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.tokens.keys().eq(other.tokens.keys())
            && self.keys.keys().eq(other.keys.keys())
            && self.rate == other.rate
    }

    /// The digest of each secret, with its line.
    pub(super) fn secrets(&self) -> impl Iterator<Item = (&Digest, usize)> {
        let tokens = self.tokens.iter().map(|(digest, line)| (digest, *line));
        tokens.chain(self.keys.iter().map(|(digest, key)| (digest, key.line)))
    }

    /// Reads a client's file.
    ///
    /// # Errors
    /// All faults, each with its line. None shows a secret.
    pub(super) fn parse(content: &[u8]) -> Result<Self, Vec<ClientFault>> {
        let text = std::str::from_utf8(content).map_err(|_| {
            vec![ClientFault::new("is not valid UTF-8", "write it as plain text, a secret in each line")]
        })?;
        // Some editors begin a file with a byte order mark, which nobody sees.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut found = Self::default();
        let mut faults = Vec::new();
        for (number, line) in (1..).zip(text.split('\n')) {
            if let Err(fault) = found.read_line(number, line.trim_end()) {
                faults.push(fault.in_line(number));
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        if found.tokens.is_empty() && found.keys.is_empty() {
            return Err(vec![ClientFault::new(
                "holds no secret",
                format!("write a bearer token: {NEW_TOKEN}"),
            )]);
        }
        Ok(found)
    }

    fn read_line(&mut self, number: usize, line: &str) -> Result<(), ClientFault> {
        if let Some(comment) = line.strip_prefix('#') {
            return match rate_of(comment) {
                Some(_) if self.rate.is_some() => {
                    Err(ClientFault::new("is a second rate", "keep one of them"))
                }
                Some(text) => {
                    self.rate = Some(rate(text)?);
                    Ok(())
                }
                None => Ok(()),
            };
        }
        if line.is_empty() {
            return Ok(());
        }
        if let Some(encoded) = line.strip_prefix(SIGNING_PREFIX) {
            let bytes = Zeroizing::new(signing_secret(encoded)?);
            let key = SigningKey::new(&bytes)
                .ok_or_else(|| ClientFault::new("is no key for HMAC", NEW_SIGNING_SECRET))?;
            self.keys.entry(digest(&bytes)).or_insert(Key { line: number, key });
            return Ok(());
        }
        check_token(line)?;
        self.tokens.entry(digest(line.as_bytes())).or_insert(number);
        Ok(())
    }
}

/// The text after `rate=`, if the comment is a rate.
fn rate_of(comment: &str) -> Option<&str> {
    let (name, value) = comment.split_once('=')?;
    name.trim().eq_ignore_ascii_case("rate").then(|| value.trim())
}

fn rate(text: &str) -> Result<RateLimit, ClientFault> {
    text.parse().ok().and_then(RateLimit::new).ok_or_else(|| {
        let wrong = "is a rate that is not a number from 0.001 to 1000000";
        ClientFault::new(wrong, "write the requests per second, such as `# rate=20`")
    })
}

fn signing_secret(encoded: &str) -> Result<Vec<u8>, ClientFault> {
    let bytes = BASE64
        .decode(encoded)
        .map_err(|_| ClientFault::new("is a signing secret that is not base64", NEW_SIGNING_SECRET))?;
    if !(MIN_KEY_BYTES..=MAX_KEY_BYTES).contains(&bytes.len()) {
        let wrong = format!("is a signing secret of {} bytes, which must have 24 to 64", bytes.len());
        return Err(ClientFault::new(wrong, NEW_SIGNING_SECRET));
    }
    Ok(bytes)
}

fn check_token(token: &str) -> Result<(), ClientFault> {
    if ASYMMETRIC_PREFIXES.iter().any(|prefix| token.starts_with(prefix)) {
        let wrong = "is an asymmetric key of Standard Webhooks, which cannot be used here";
        return Err(ClientFault::new(wrong, "let the sender sign with a `whsec_…` secret"));
    }
    if token.contains([' ', '\t']) {
        let wrong = "contains a blank: a bearer token has none, a comment begins with #";
        return Err(ClientFault::new(
            wrong,
            "write each secret in a line of its own, without a blank before it",
        ));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ClientFault::new("contains a character other than visible ASCII", NEW_TOKEN));
    }
    if token.len() < MIN_TOKEN_CHARS {
        return Err(ClientFault::new("is a bearer token of fewer than 32 characters", NEW_TOKEN));
    }
    Ok(())
}
