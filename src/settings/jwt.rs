//! `broker.token_file`: a JSON Web Token (RFC 7519). Only RabbitMQ knows whether it is valid. Here it is read
//! just as far as to refuse what cannot be a token, and to say when it expires.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use crate::{message::Timestamp, secret::Secret};

/// The largest file with a token, in bytes: RabbitMQ ends a connection over which a larger one comes.
pub(super) const MAX_TOKEN_BYTES: u64 = 16 * 1024;

/// Where a token is, and when it says that it expires. Never the token itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    pub file: PathBuf,
    /// Its claim `exp`, if it has one. By this machine's clock it may be over while RabbitMQ still accepts the token,
    /// and the reverse.
    pub expires_at: Option<Timestamp>,
    /// In bytes.
    pub length: usize,
}

impl TokenInfo {
    /// What the secret's file held when it was last read.
    pub fn of(token: &Secret) -> Self {
        let file = token.path().map(Path::to_path_buf).unwrap_or_default();
        let token = token.current();
        let token = token_in(&token);
        Self { file, expires_at: expires_at(token), length: token.len() }
    }

    /// Whether it has expired by this machine's clock.
    pub fn has_expired(&self) -> bool {
        self.expires_at.is_some_and(|expiry| expiry <= Timestamp::now())
    }
}

impl fmt::Display for TokenInfo {
    /// No time relative to now: equal texts are logged once a minute at most.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the token in broker.token_file ({}), which ", self.file.display())?;
        match self.expires_at {
            Some(expiry) if self.has_expired() => write!(f, "expired at {expiry}"),
            Some(expiry) => write!(f, "expires at {expiry}"),
            None => f.write_str("has no expiry (exp)"),
        }
    }
}

/// The token in its file's content: white space around it is never sent.
pub fn token_in(content: &SecretString) -> &str {
    content.expose_secret().trim()
}

/// Whether the text has the form of a token, perhaps with white space around it.
///
/// # Errors
/// What is wrong, as a phrase for people that never repeats any of it.
pub fn check_jwt(text: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.trim().split('.').collect();
    let [header, claims, signature] = parts.as_slice() else {
        return Err("it is not a JSON Web Token: three parts with dots between them".into());
    };
    if object(header).is_none() || object(claims).is_none() {
        return Err(
            "it is not a JSON Web Token: its first two parts are not JSON objects in base64url".into()
        );
    }
    if signature.is_empty() || URL_SAFE_NO_PAD.decode(signature).is_err() {
        return Err(
            "it is not a JSON Web Token with a signature: its third part is empty or not base64url".into()
        );
    }
    Ok(())
}

fn expires_at(token: &str) -> Option<Timestamp> {
    let claims = object(token.split('.').nth(1)?)?;
    let seconds = claims.get("exp")?.as_f64().filter(|seconds| *seconds >= 0.0)?;
    // A number too large for a moment is limited to the last one.
    #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
    let milliseconds = (seconds * 1000.0) as i64;
    Some(Timestamp::from_millis(milliseconds))
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        let [header, claims] = [r#"{"alg":"none"}"#, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{header}.{claims}.c2lnbmF0dXJl")
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_and_never_repeated() {
        assert_eq!(check_jwt(&token("{}")), Ok(()));
        assert_eq!(check_jwt(&format!(" {} \n\n", token("{}"))), Ok(()));
        let signed = token("{}");
        let (unsigned, _) = signed.rsplit_once('.').expect("a signature");
        for (text, wrong) in [
            ("hunter2", "three parts"),
            ("hunter2.hunter2.hunter2.hunter2", "three parts"),
            ("hunter2.hunter2.hunter2", "not JSON objects"),
            (&token("[1]"), "not JSON objects"),
            (&signed.replacen('.', " .", 1), "not JSON objects"),
            (&format!("{unsigned}."), "third part"),
        ] {
            let error = check_jwt(text).expect_err(text);
            assert!(error.contains(wrong) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn the_expiry_is_read_as_far_as_there_is_one() {
        let expiry = |claims: &str| expires_at(&token(claims)).map(|expiry| expiry.to_string());
        assert_eq!(expiry(r#"{"exp":1795424400}"#).as_deref(), Some("2026-11-23T09:00:00.000Z"));
        assert_eq!(expiry(r#"{"exp":1795424400.12}"#).as_deref(), Some("2026-11-23T09:00:00.120Z"));
        assert!(expiry(r#"{"exp":1e300}"#).is_some_and(|expiry| expiry.starts_with("9999-")));
        for claims in ["{}", r#"{"exp":null}"#, r#"{"exp":"1795424400"}"#, r#"{"exp":-1}"#] {
            assert_eq!(expiry(claims), None, "{claims}");
        }
    }
}
