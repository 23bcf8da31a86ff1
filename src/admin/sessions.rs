//! The sessions of logged-in users. They are in memory, so a restart logs everyone out. The time is
//! an argument.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use super::access::{Tokens, User, random, same_text};

/// A session ends after this time without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// A session ends after this time in any case.
const MAX_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Beyond this number, the session that was idle for longest ends.
const MAX_SESSIONS: usize = 100;

/// A logged-in user.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) user: User,
    /// A secret in every form, unknown to other sites.
    pub(super) csrf: String,
    token_version: u64,
    started_at: Instant,
    last_used_at: Instant,
}

impl Session {
    /// Whether a form with this secret came from this session's pages.
    pub(super) fn has_csrf(&self, csrf: &str) -> bool {
        same_text(&self.csrf, csrf)
    }

    fn is_valid(&self, tokens: &Tokens, now: Instant) -> bool {
        now.saturating_duration_since(self.last_used_at) < IDLE_TIMEOUT
            && now.saturating_duration_since(self.started_at) < MAX_LIFETIME
            && self.token_version == tokens.version(self.user.role)
    }
}

/// All sessions. Clones share them. They are looked up by digest, so that the time of a lookup
/// reveals nothing about the keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<HashMap<[u8; 32], Session>>>);

impl Sessions {
    /// Starts a session and returns its key.
    ///
    /// # Errors
    /// If the system returns no random numbers.
    pub(super) fn start(
        &self,
        user: User,
        tokens: &Tokens,
        now: Instant,
    ) -> Result<String, getrandom::Error> {
        let (key, csrf) = (random()?, random()?);
        let token_version = tokens.version(user.role);
        let session = Session { user, csrf, token_version, started_at: now, last_used_at: now };
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.is_valid(tokens, now));
        if sessions.len() >= MAX_SESSIONS {
            let idle = sessions.iter().min_by_key(|(_, session)| session.last_used_at).map(|(key, _)| *key);
            idle.and_then(|key| sessions.remove(&key));
        }
        sessions.insert(digest(&key), session);
        Ok(key)
    }

    /// Finds the session with this key, if it has not ended.
    pub(super) fn find(&self, key: &str, tokens: &Tokens, now: Instant) -> Option<Session> {
        let key = digest(key);
        let mut sessions = self.lock();
        let session = sessions.get_mut(&key)?;
        if !session.is_valid(tokens, now) {
            sessions.remove(&key);
            return None;
        }
        session.last_used_at = now;
        Some(session.clone())
    }

    pub(super) fn end(&self, key: &str) {
        self.lock().remove(&digest(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admin::access::Role, settings::Admin};

    fn tokens() -> Tokens {
        Tokens::new(&Admin {
            listen: None,
            viewer_token: None,
            operator_token: Some(crate::secret::Secret::fixed("do")),
            allowed_hosts: Vec::new(),
            trace_url: None,
            audit_log: None,
        })
    }

    fn anna() -> User {
        User { name: "Anna".to_owned(), role: Role::Operator }
    }

    #[test]
    fn a_session_ends_when_it_is_idle_or_old_or_logged_out() {
        let (sessions, tokens, start) = (Sessions::default(), tokens(), Instant::now());
        let almost = IDLE_TIMEOUT - Duration::from_secs(1);
        let log_in = || sessions.start(anna(), &tokens, start).expect("a key");
        let key = log_in();
        let found = sessions.find(&key, &tokens, start + almost);
        assert_eq!(found.map(|session| session.user), Some(anna()));
        assert!(sessions.find(&key, &tokens, start + almost + IDLE_TIMEOUT).is_none(), "it was idle");

        let key = log_in();
        for hour in 1..=12 {
            assert!(sessions.find(&key, &tokens, start + almost * hour).is_some());
        }
        assert!(sessions.find(&key, &tokens, start + MAX_LIFETIME).is_none(), "it is old");

        let key = log_in();
        sessions.end(&key);
        assert!(sessions.find(&key, &tokens, start).is_none());
    }

    #[test]
    fn beyond_the_limit_the_session_that_was_idle_for_longest_ends() {
        let (sessions, tokens, start) = (Sessions::default(), tokens(), Instant::now());
        let log_in =
            |n: usize| sessions.start(anna(), &tokens, start + Duration::from_secs(n as u64)).expect("a key");
        let keys: Vec<String> = (0..=MAX_SESSIONS).map(log_in).collect();
        assert!(sessions.find(&keys[0], &tokens, start).is_none());
        assert!(sessions.find(&keys[1], &tokens, start).is_some());
    }
}
