//! The sessions of logged-in users. A session is its cookie, which is signed: no process keeps it. The key comes
//! from the token of the user's role, so that another token ends the session. The time is an argument.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use cookie::{Cookie, CookieJar, Key};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::access::{Role, Tokens, User, random, same_text};
use crate::{message::Timestamp, secret::Secret};

/// The cookie of a session.
pub(super) const COOKIE_NAME: &str = "unlocker_session";
/// A session ends after this time without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// A session ends after this time in any case.
pub(super) const MAX_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// The cookie is written anew after this time, because it says when the session was last used.
const RENEW_AFTER: Duration = Duration::from_secs(300);

/// A logged-in user.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) user: User,
    content: Content,
}

/// What the cookie says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    id: String,
    name: String,
    /// A secret in every form, unknown to other sites.
    csrf: String,
    started: Timestamp,
    used: Timestamp,
}

impl Session {
    /// Starts a session.
    ///
    /// # Errors
    /// If the system returns no random numbers.
    pub(super) fn start(user: User, now: Timestamp) -> Result<Self, getrandom::Error> {
        let content =
            Content { id: random()?, name: user.name.clone(), csrf: random()?, started: now, used: now };
        Ok(Self { user, content })
    }

    /// Reads a cookie. `None` if it is forged, or its session has ended.
    pub(super) fn read(cookie: &str, tokens: &Tokens, now: Timestamp) -> Option<Self> {
        let (role, content) = [Role::Operator, Role::Viewer].into_iter().find_map(|role| {
            let mut jar = CookieJar::new();
            jar.add_original(Cookie::new(COOKIE_NAME, cookie.to_owned()));
            let signed = jar.signed(&key(role, tokens.of(role)?)).get(COOKIE_NAME)?;
            let content = BASE64_URL_SAFE_NO_PAD.decode(signed.value()).ok()?;
            Some((role, serde_json::from_slice::<Content>(&content).ok()?))
        })?;
        // The clocks of replicas may differ a little.
        let is_alive = now.since(content.used) < IDLE_TIMEOUT && now.since(content.started) < MAX_LIFETIME;
        is_alive.then(|| Self { user: User { name: content.name.clone(), role }, content })
    }

    /// The value of the cookie. `None` if the role has no token any more.
    pub(super) fn cookie(&self, tokens: &Tokens) -> Option<String> {
        let content = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&self.content).ok()?);
        let mut jar = CookieJar::new();
        jar.signed_mut(&key(self.user.role, tokens.of(self.user.role)?))
            .add(Cookie::new(COOKIE_NAME, content));
        jar.get(COOKIE_NAME).map(|cookie| cookie.value().to_owned())
    }

    /// The session as used now, if its cookie has to say so.
    pub(super) fn renewed(&self, now: Timestamp) -> Option<Self> {
        let content = Content { used: now, ..self.content.clone() };
        (now.since(self.content.used) >= RENEW_AFTER).then(|| Self { user: self.user.clone(), content })
    }

    pub(super) fn id(&self) -> &str {
        &self.content.id
    }

    pub(super) fn csrf(&self) -> &str {
        &self.content.csrf
    }

    /// Whether a form with this secret came from this session's pages.
    pub(super) fn has_csrf(&self, csrf: &str) -> bool {
        same_text(&self.content.csrf, csrf)
    }
}

/// The key of a role's sessions, the same in every process that has the same token.
fn key(role: Role, token: &Secret) -> Key {
    Key::derive_from(
        format!("unlocker console, sessions of an {role}: {}", token.current().expose_secret()).as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::EPOCH;

    fn tokens(operator: &str) -> Tokens {
        Tokens::fixed(Some("a-viewers-token-0"), Some(operator))
    }

    fn anna(role: Role) -> User {
        User { name: "Anna; \"Ünlock\" K.".to_owned(), role }
    }

    fn at(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_session_is_the_same_in_every_process_with_the_same_token() {
        for role in [Role::Viewer, Role::Operator] {
            let session = Session::start(anna(role), START).expect("a session");
            let cookie = session.cookie(&tokens("one-token-0123456")).expect("a cookie");
            assert!(
                cookie.bytes().all(|byte| byte.is_ascii_graphic() && !b"\";,\\".contains(&byte)),
                "{cookie}"
            );
            let read = Session::read(&cookie, &tokens("one-token-0123456"), at(1)).expect("the session");
            assert_eq!((&read.user, read.csrf()), (&session.user, session.csrf()));
        }
    }

    #[test]
    fn a_cookie_that_was_changed_or_signed_with_another_token_is_none() {
        let session = Session::start(anna(Role::Operator), START).expect("a session");
        let tokens = tokens("one-token-0123456");
        let cookie = session.cookie(&tokens).expect("a cookie");
        assert!(Session::read(&cookie, &super::tests::tokens("another-token-012"), START).is_none());
        let last = cookie.len() - 1;
        for forged in ["", "x", &cookie[1..], &cookie[..last], &format!("{cookie}A")] {
            assert!(Session::read(forged, &tokens, START).is_none(), "{forged}");
        }
        // A viewer cannot make an operator of the own session.
        let viewer = Session::start(anna(Role::Viewer), START).expect("a session");
        let as_viewer = viewer.cookie(&tokens).expect("a cookie");
        assert_eq!(Session::read(&as_viewer, &tokens, START).expect("a session").user.role, Role::Viewer);
        assert!(Session::read(&cookie, &Tokens::fixed(Some("one-token-0123456"), None), START).is_none());
    }

    #[test]
    fn a_session_ends_when_it_is_idle_or_old() {
        let tokens = tokens("one-token-0123456");
        let session = Session::start(anna(Role::Operator), START).expect("a session");
        let cookie = session.cookie(&tokens).expect("a cookie");
        assert!(Session::read(&cookie, &tokens, at(3599)).is_some());
        assert!(Session::read(&cookie, &tokens, at(3600)).is_none(), "it was idle");
        assert!(session.renewed(at(299)).is_none());
        let mut session = session;
        for hour in 1..=12 {
            session = session.renewed(at(hour * 3599)).expect("a renewed session");
            let cookie = session.cookie(&tokens).expect("a cookie");
            assert!(Session::read(&cookie, &tokens, at(hour * 3599 + 1)).is_some());
        }
        let cookie = session.cookie(&tokens).expect("a cookie");
        assert!(Session::read(&cookie, &tokens, at(12 * 3600)).is_none(), "it is old");
    }
}
