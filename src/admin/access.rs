//! Who may do what: a viewer looks, an operator changes and sees what is masked.

use std::fmt;

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{dead_letters::Actor, secret::Secret, settings::Admin};

/// The longest name somebody may give, in characters.
const NAME_CHARS: usize = 64;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Looks; identifiers and bodies are masked.
    Viewer,
    /// Sees, replays and discards, too.
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

/// Somebody who may be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) role: Role,
}

impl Person {
    /// Somebody without a token, where none is needed to look.
    pub(super) fn unknown() -> Self {
        Self { name: "somebody".to_owned(), role: Role::Viewer }
    }

    pub(super) fn is_operator(&self) -> bool {
        self.role == Role::Operator
    }

    /// As whom they are written down.
    pub(super) fn actor(&self, via: &'static str) -> Actor {
        Actor { name: format!("{} ({})", self.name, self.role), via }
    }
}

/// A name for the audit log, and for others who find the letters locked.
pub(super) fn name(text: &str) -> Option<String> {
    let name = text.trim();
    let fits = !name.is_empty() && name.chars().count() <= NAME_CHARS && !name.chars().any(char::is_control);
    fits.then(|| name.to_owned())
}

/// The tokens, as they are now.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    viewer: Option<Secret>,
    operator: Option<Secret>,
}

impl Tokens {
    pub(super) fn new(settings: &Admin) -> Self {
        Self { viewer: settings.viewer_token.clone(), operator: settings.operator_token.clone() }
    }

    /// Whether one may look without a token. Settings see to it that this is so on loopback alone.
    pub(super) fn looking_is_free(&self) -> bool {
        self.viewer.is_none()
    }

    /// Whether anybody can log in at all.
    pub(super) fn are_set(&self) -> bool {
        self.viewer.is_some() || self.operator.is_some()
    }

    pub(super) fn operator_is_set(&self) -> bool {
        self.operator.is_some()
    }

    /// Whose token this is. A token is compared as a whole, however soon it differs.
    pub(super) fn role_of(&self, token: &str) -> Option<Role> {
        let is = |secret: &Option<Secret>| secret.as_ref().is_some_and(|secret| same(secret, token));
        // Both, always: the time tells nothing.
        let (operator, viewer) = (is(&self.operator), is(&self.viewer));
        match (operator, viewer) {
            (true, _) => Some(Role::Operator),
            (false, true) => Some(Role::Viewer),
            (false, false) => None,
        }
    }

    /// Changes with the role's token.
    pub(super) fn version(&self, role: Role) -> u64 {
        let secret = match role {
            Role::Viewer => &self.viewer,
            Role::Operator => &self.operator,
        };
        secret.as_ref().map_or(0, Secret::version)
    }
}

/// Digests have one length, so that not even the token's is told.
fn same(secret: &Secret, token: &str) -> bool {
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    digest(secret.current().expose_secret()).as_slice().ct_eq(digest(token).as_slice()).into()
}

/// Whether two texts are the same, in a time that does not tell where they differ.
pub(super) fn same_text(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// 256 random bits, as text.
///
/// # Errors
/// If the system gives no random numbers.
pub(super) fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(viewer: Option<&str>, operator: Option<&str>) -> Tokens {
        Tokens { viewer: viewer.map(Secret::fixed), operator: operator.map(Secret::fixed) }
    }

    #[test]
    fn a_token_is_one_roles_or_nobodys() {
        let tokens = tokens(Some("see"), Some("do"));
        assert_eq!(tokens.role_of("see"), Some(Role::Viewer));
        assert_eq!(tokens.role_of("do"), Some(Role::Operator));
        for wrong in ["", "se", "see ", "DO", "seedo"] {
            assert_eq!(tokens.role_of(wrong), None, "{wrong:?}");
        }
        assert!(!tokens.looking_is_free());
    }

    #[test]
    fn without_tokens_nobody_is_anything_more_than_one_who_looks() {
        let tokens = tokens(None, None);
        assert_eq!(tokens.role_of(""), None);
        assert!(tokens.looking_is_free() && !tokens.are_set());
        assert!(!Person::unknown().is_operator());
    }

    #[test]
    fn a_name_is_short_and_visible() {
        assert_eq!(name("  Anna K. ").as_deref(), Some("Anna K."));
        for wrong in ["", " \t", "a\nb", &"x".repeat(65)] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
    }
}
