//! Who is logged in. In memory: a restart logs everybody out.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::tokens::{Role, TokenHash, Tokens, hash};

/// A session ends after so long without a request,
const IDLE: Duration = Duration::from_secs(30 * 60);
/// and after so long in any case.
const LONGEST: Duration = Duration::from_secs(8 * 3600);
/// The most sessions; the one that was idle longest goes first.
const MOST: usize = 200;

/// A text that nobody can guess: 256 bits, in hex.
///
/// # Errors
/// If the system has no randomness to give.
pub(super) fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub name: String,
    pub role: Role,
    /// What each of their forms has to bring.
    pub csrf: String,
    /// The session ends when this is no token any more.
    token: TokenHash,
    began: Instant,
    seen: Instant,
}

/// All sessions, by the hash of their cookie.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<TokenHash, Session>>);

impl Sessions {
    /// Begins a session and returns its cookie's value.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub(super) fn begin(
        &self,
        name: String,
        role: Role,
        token: TokenHash,
        now: Instant,
    ) -> Result<String, getrandom::Error> {
        let (cookie, csrf) = (random()?, random()?);
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.lives(now));
        if sessions.len() >= MOST {
            let idle = sessions.iter().min_by_key(|(_, session)| session.seen).map(|(key, _)| *key);
            idle.and_then(|key| sessions.remove(&key));
        }
        sessions.insert(hash(&cookie), Session { name, role, csrf, token, began: now, seen: now });
        Ok(cookie)
    }

    /// The session of this cookie, unless it is over or its token was replaced.
    pub(super) fn find(&self, cookie: &str, tokens: &Tokens, now: Instant) -> Option<Session> {
        let key = hash(cookie);
        let mut sessions = self.lock();
        let session = sessions.get_mut(&key)?;
        if !session.lives(now) || tokens.role(&session.token) != Some(session.role) {
            sessions.remove(&key);
            return None;
        }
        session.seen = now;
        Some(session.clone())
    }

    pub(super) fn end(&self, cookie: &str) {
        self.lock().remove(&hash(cookie));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenHash, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn lives(&self, now: Instant) -> bool {
        now.duration_since(self.seen) < IDLE && now.duration_since(self.began) < LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{secret::Secret, settings::Admin};

    fn tokens() -> Tokens {
        Tokens::new(&Admin {
            listen: None,
            viewer_token: None,
            operator_token: Some(Secret::fixed("op".to_owned())),
            allowed_hosts: Vec::new(),
            trace_url: None,
            audit_log: None,
        })
    }

    fn begin(sessions: &Sessions, now: Instant) -> String {
        sessions.begin("ann".to_owned(), Role::Operator, hash("op"), now).expect("randomness")
    }

    #[test]
    fn a_session_ends_when_idle_and_after_eight_hours_in_any_case() {
        let (sessions, tokens, start) = (Sessions::default(), tokens(), Instant::now());
        let idle = begin(&sessions, start);
        assert!(sessions.find(&idle, &tokens, start + IDLE).is_none());
        let busy = begin(&sessions, start);
        let step = Duration::from_secs(20 * 60);
        let lived = (1..).take_while(|n| sessions.find(&busy, &tokens, start + step * *n).is_some()).count();
        assert_eq!(lived, 23);
    }

    #[test]
    fn there_are_never_more_than_so_many_sessions_and_the_idlest_goes_first() {
        let (sessions, tokens, start) = (Sessions::default(), tokens(), Instant::now());
        let at = |n: usize| start + Duration::from_millis(n as u64);
        let cookies: Vec<String> = (0..=MOST).map(|n| begin(&sessions, at(n))).collect();
        let alive = |cookie: &String| sessions.find(cookie, &tokens, at(MOST)).is_some();
        assert_eq!(cookies.iter().filter(|cookie| alive(cookie)).count(), MOST);
        assert!(!alive(&cookies[0]));
    }

    #[test]
    fn a_session_of_another_token_is_none() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let cookie = sessions.begin("ann".to_owned(), Role::Operator, hash("old"), now).expect("randomness");
        assert!(sessions.find(&cookie, &tokens(), now).is_none());
    }
}
