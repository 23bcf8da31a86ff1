//! Which requests had an endpoint fault.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use tokio::time::Instant;

/// Requests whose endpoint fault is remembered, at most; the oldest is dropped first.
const MAX_REMEMBERED_FAULTS: usize = 10_000;

/// Identifies a request: a hash of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RequestKey(u64);

impl From<&str> for RequestKey {
    fn from(request_id: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        request_id.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// When requests had their first endpoint fault, as far as this process knows. In memory and not in
/// headers, because a producer could forge headers.
#[derive(Clone, Debug, Default)]
pub(super) struct RememberedFaults {
    at: HashMap<RequestKey, Instant>,
    oldest_first: VecDeque<RequestKey>,
}

impl RememberedFaults {
    pub(super) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    pub(super) fn at(&self, request: RequestKey) -> Option<Instant> {
        self.at.get(&request).copied()
    }

    pub(super) fn remember(&mut self, request: RequestKey, at: Instant) {
        if self.at.insert(request, at).is_none() {
            self.oldest_first.push_back(request);
        }
        while self.oldest_first.len() > MAX_REMEMBERED_FAULTS {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.at.remove(&oldest);
            }
        }
    }

    pub(super) fn forget(&mut self, request: RequestKey) {
        if self.at.remove(&request).is_some() {
            self.oldest_first.retain(|other| *other != request);
        }
    }
}
