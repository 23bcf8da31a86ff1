//! What a request's head shows about who sent it.

use axum::http::{HeaderMap, header::AUTHORIZATION};

use super::signature::{SIGNATURE, SignatureHeaders};

/// The credentials of a request, not verified yet.
pub(super) enum Presented<'a> {
    Nothing,
    Token(&'a [u8]),
    Signature(SignatureHeaders),
    /// Credentials, but not in a form that could be right.
    Unusable(Wrong),
}

/// Why credentials are wrong, for the log alone: a stranger learns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wrong {
    Authorization,
    Token,
    SignatureHeaders,
    Timestamp,
    Signature,
}

impl Wrong {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Authorization => "authorization_header",
            Self::Token => "token",
            Self::SignatureHeaders => "signature_headers",
            Self::Timestamp => "timestamp",
            Self::Signature => "signature",
        }
    }
}

/// Finds the credentials. A bearer token decides if there is one; else a signature.
pub(super) fn presented(headers: &HeaderMap) -> Presented<'_> {
    let mut authorizations = headers.get_all(AUTHORIZATION).iter();
    let authorization = authorizations.next();
    if authorizations.next().is_some() {
        return Presented::Unusable(Wrong::Authorization);
    }
    if let Some(token) = authorization.and_then(|header| bearer(header.as_bytes())) {
        return Presented::Token(token);
    }
    if headers.contains_key(SIGNATURE) {
        return SignatureHeaders::read(headers)
            .map_or(Presented::Unusable(Wrong::SignatureHeaders), Presented::Signature);
    }
    match authorization {
        Some(_) => Presented::Unusable(Wrong::Authorization),
        None => Presented::Nothing,
    }
}

/// The token, if the header's scheme is `Bearer`.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let blank = header.iter().position(|byte| *byte == b' ')?;
    let (scheme, token) = header.split_at_checked(blank)?;
    scheme.eq_ignore_ascii_case(b"bearer").then(|| token.trim_ascii())
}
