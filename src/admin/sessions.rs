//! Who is logged in: kept in memory, so that a restart logs everybody out. The time is an argument.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use super::access::{Person, Tokens, random, same_text};

/// A session ends after so long without a request, …
const IDLE: Duration = Duration::from_secs(3600);
/// … and after so long in any case.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// The most sessions; the one that was idle for longest goes first.
const MOST: usize = 100;

/// Somebody is logged in.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) person: Person,
    /// Stands in every form, and no other site can know it.
    pub(super) csrf: String,
    token_version: u64,
    begun: Instant,
    seen: Instant,
}

impl Session {
    /// Whether a form came from this session's own pages.
    pub(super) fn wrote(&self, csrf: &str) -> bool {
        same_text(&self.csrf, csrf)
    }

    fn lasts(&self, tokens: &Tokens, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < IDLE
            && now.saturating_duration_since(self.begun) < LIFETIME
            && self.token_version == tokens.version(self.person.role)
    }
}

/// All sessions; clones share them. They are found by a digest, so that the time a search takes tells
/// nothing about the keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<HashMap<[u8; 32], Session>>>);

impl Sessions {
    /// Begins a session and returns its key.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub(super) fn begin(
        &self,
        person: Person,
        tokens: &Tokens,
        now: Instant,
    ) -> Result<String, getrandom::Error> {
        let (key, csrf) = (random()?, random()?);
        let token_version = tokens.version(person.role);
        let session = Session { person, csrf, token_version, begun: now, seen: now };
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.lasts(tokens, now));
        if sessions.len() >= MOST {
            let idlest = sessions.iter().min_by_key(|(_, session)| session.seen).map(|(key, _)| *key);
            idlest.and_then(|key| sessions.remove(&key));
        }
        sessions.insert(digest(&key), session);
        Ok(key)
    }

    /// The session with this key, if it has not ended.
    pub(super) fn find(&self, key: &str, tokens: &Tokens, now: Instant) -> Option<Session> {
        let key = digest(key);
        let mut sessions = self.lock();
        let session = sessions.get_mut(&key)?;
        if !session.lasts(tokens, now) {
            sessions.remove(&key);
            return None;
        }
        session.seen = now;
        Some(session.clone())
    }

    pub(super) fn end(&self, key: &str) {
        self.lock().remove(&digest(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        // Nothing panics while it holds the lock.
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

    fn anna() -> Person {
        Person { name: "Anna".to_owned(), role: Role::Operator }
    }

    #[test]
    fn a_session_ends_when_it_is_idle_or_old_or_told_to() {
        let (sessions, tokens, start) = (Sessions::default(), tokens(), Instant::now());
        let almost = IDLE - Duration::from_secs(1);
        let begin = || sessions.begin(anna(), &tokens, start).expect("a key");
        let key = begin();
        let found = sessions.find(&key, &tokens, start + almost);
        assert_eq!(found.map(|session| session.person), Some(anna()));
        assert!(sessions.find(&key, &tokens, start + almost + IDLE).is_none(), "it was idle");

        let key = begin();
        for hour in 1..=12 {
            assert!(sessions.find(&key, &tokens, start + almost * hour).is_some());
        }
        assert!(sessions.find(&key, &tokens, start + LIFETIME).is_none(), "it is old");

        let key = begin();
        sessions.end(&key);
        assert!(sessions.find(&key, &tokens, start).is_none());
    }

    #[test]
    fn the_idlest_session_makes_room() {
        let (sessions, tokens, start) = (Sessions::default(), tokens(), Instant::now());
        let begin =
            |n: usize| sessions.begin(anna(), &tokens, start + Duration::from_secs(n as u64)).expect("a key");
        let keys: Vec<String> = (0..=MOST).map(begin).collect();
        assert!(sessions.find(&keys[0], &tokens, start).is_none());
        assert!(sessions.find(&keys[1], &tokens, start).is_some());
    }
}
