//! Where the outcomes of an identifier, a request or a trace are in the stream. Pure.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::{history::Found, message::request::Identifiers};

/// The most entries: some 40 MiB. An outcome has three to five.
const MAX_ENTRIES: usize = 1_500_000;

/// Keeps a digest of each text, so what is found must still be compared.
#[derive(Debug, Default)]
pub(super) struct OutcomeIndex {
    entries: BTreeSet<(u64, u64)>,
    first: u64,
    last: u64,
}

impl OutcomeIndex {
    /// Adds an outcome. `true`: the older half was dropped to make room.
    pub(super) fn add(&mut self, offset: u64, found: &Found) -> bool {
        if self.entries.is_empty() {
            self.first = offset;
        }
        self.last = offset;
        self.entries.extend(texts(found).map(|text| (digest(text), offset)));
        let is_full = self.entries.len() > MAX_ENTRIES;
        if is_full {
            self.first = self.first.midpoint(self.last);
            let first = self.first;
            self.entries.retain(|(_, offset)| *offset >= first);
        }
        is_full
    }

    /// At most `max` offsets of outcomes that may have this text, the newest ones in ascending order, and how
    /// many there are.
    pub(super) fn find(&self, text: &str, max: usize) -> (Vec<u64>, usize) {
        let digest = digest(text);
        let all: Vec<u64> =
            self.entries.range((digest, 0)..=(digest, u64::MAX)).map(|(_, offset)| *offset).collect();
        let count = all.len();
        (all.into_iter().skip(count.saturating_sub(max)).collect(), count)
    }
}

/// Whether an outcome has this text as an identifier, or as the id of its request or its trace.
pub(super) fn has(found: &Found, text: &str) -> bool {
    texts(found).any(|own| own == text)
}

fn texts(found: &Found) -> impl Iterator<Item = &str> {
    let identifiers = Identifiers::FIELDS.into_iter().filter_map(|name| found.outcome.identifier(name));
    identifiers.chain([found.outcome.request_id.as_str()]).chain(found.trace_id.as_deref())
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::RecordedOutcome;

    #[test]
    fn an_outcome_is_found_by_each_of_its_identifiers_its_request_and_its_trace() {
        let mut index = OutcomeIndex::default();
        for n in 0..10 {
            let text = format!(
                r#"{{"status":"refused","request_id":"r-{n}","request":{{"customer_id":"191","orderid":"o-{n}"}},
                "finished_at":"2026-11-23T09:00:00Z"}}"#
            );
            let outcome = RecordedOutcome::parse(text.as_bytes()).expect("an outcome");
            let found = Found { outcome, body: Vec::new(), trace_id: Some(format!("t-{n}")) };
            assert!(has(&found, "191") && !has(&found, "19"));
            index.add(100 + n, &found);
        }
        for text in ["r-3", "o-3", "t-3"] {
            assert_eq!(index.find(text, 5), (vec![103], 1), "{text}");
        }
        assert_eq!(index.find("191", 3), (vec![107, 108, 109], 10));
        assert_eq!(index.find("192", 3), (vec![], 0));
    }
}
