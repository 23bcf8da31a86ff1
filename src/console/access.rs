//! Who may do what: a viewer reads; an operator also sees what is masked, and changes dead letters.

use std::{fmt, time::Duration};

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    dead_letters::Actor,
    http::{Gcra, Throttle},
    secret::Secret,
    settings::Console,
};

/// The longest name of a user, in characters.
const MAX_NAME_CHARS: usize = 64;

/// How many wrong tokens a network may send: five at once, then five a minute.
const WRONG_TOKENS: Gcra = Gcra { interval: Duration::from_secs(12), burst: 5 };
/// How many all networks together may send: fifty at once, then fifty a minute.
const WRONG_TOKENS_OVERALL: Gcra = Gcra { interval: Duration::from_millis(1200), burst: 50 };

/// Limits wrong tokens. Right ones must wait, too, because people choose tokens that could be guessed.
pub(super) fn throttle() -> Throttle {
    Throttle::new(WRONG_TOKENS, Some(WRONG_TOKENS_OVERALL))
}

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Reads; identifiers and bodies are masked.
    Viewer,
    /// Also sees identifiers and bodies, replays and discards.
    Operator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        })
    }
}

/// A user with access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) role: Role,
}

impl User {
    /// A user without a token, where none is needed to read.
    pub(super) fn anonymous() -> Self {
        Self { name: "anonymous".to_owned(), role: Role::Viewer }
    }

    pub(super) fn is_operator(&self) -> bool {
        self.role == Role::Operator
    }

    /// The user in the audit log and in locks.
    pub(super) fn actor(&self, via: &'static str) -> Actor {
        Actor { name: format!("{} ({})", self.name, self.role), via }
    }
}

/// Checks a name. It stands in the audit log and in messages about locks.
pub(super) fn name(text: &str) -> Option<String> {
    let name = text.trim();
    let fits =
        !name.is_empty() && name.chars().count() <= MAX_NAME_CHARS && !name.chars().any(char::is_control);
    fits.then(|| name.to_owned())
}

/// The current tokens.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    viewer: Option<Secret>,
    operator: Option<Secret>,
}

impl Tokens {
    pub(super) fn new(settings: &Console) -> Self {
        Self { viewer: settings.viewer_token.clone(), operator: settings.operator_token.clone() }
    }

    /// Whether reading needs no token. The settings allow this on loopback only.
    pub(super) fn anyone_may_read(&self) -> bool {
        self.viewer.is_none()
    }

    /// Whether anyone can log in.
    pub(super) fn are_set(&self) -> bool {
        self.viewer.is_some() || self.operator.is_some()
    }

    pub(super) fn operator_is_set(&self) -> bool {
        self.operator.is_some()
    }

    /// The role of this token. The comparison takes constant time.
    pub(super) fn role_of(&self, token: &str) -> Option<Role> {
        let is = |secret: &Option<Secret>| secret.as_ref().is_some_and(|secret| same(secret, token));
        // Always compares both, so that the time reveals nothing.
        let (operator, viewer) = (is(&self.operator), is(&self.viewer));
        match (operator, viewer) {
            (true, _) => Some(Role::Operator),
            (false, true) => Some(Role::Viewer),
            (false, false) => None,
        }
    }

    /// The role's token.
    pub(super) fn of(&self, role: Role) -> Option<&Secret> {
        match role {
            Role::Viewer => self.viewer.as_ref(),
            Role::Operator => self.operator.as_ref(),
        }
    }

    #[cfg(test)]
    pub(super) fn fixed(viewer: Option<&str>, operator: Option<&str>) -> Self {
        Self { viewer: viewer.map(Secret::fixed), operator: operator.map(Secret::fixed) }
    }
}

/// Compares digests, so that the time does not reveal the length of the token either.
fn same(secret: &Secret, token: &str) -> bool {
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    digest(secret.current().expose_secret()).as_slice().ct_eq(digest(token).as_slice()).into()
}

/// Compares two strings in a time that does not reveal where they differ.
pub(super) fn same_text(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// 256 random bits, in hex.
///
/// # Errors
/// If the system returns no random numbers.
pub(super) fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a text looks like one of [`random`].
pub(super) fn is_random(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_one_role_or_to_none() {
        let tokens = Tokens::fixed(Some("see"), Some("do"));
        assert_eq!(tokens.role_of("see"), Some(Role::Viewer));
        assert_eq!(tokens.role_of("do"), Some(Role::Operator));
        for wrong in ["", "se", "see ", "DO", "seedo"] {
            assert_eq!(tokens.role_of(wrong), None, "{wrong:?}");
        }
        assert!(!tokens.anyone_may_read());
    }

    #[test]
    fn without_tokens_everyone_may_read_and_no_one_may_do_more() {
        let tokens = Tokens::fixed(None, None);
        assert_eq!(tokens.role_of(""), None);
        assert!(tokens.anyone_may_read() && !tokens.are_set());
        assert!(!User::anonymous().is_operator());
    }

    #[test]
    fn a_name_is_short_and_visible() {
        assert_eq!(name("  Anna K. ").as_deref(), Some("Anna K."));
        for wrong in ["", " \t", "a\nb", &"x".repeat(65)] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
    }
}
