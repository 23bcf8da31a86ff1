//! The stream that keeps every outcome, as a witness: it must have what the listener has heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::crew;
use crate::journal::Journal;
use crate::ledger::{Ledger, SHOWN, ids};
use crate::listener::{self, Heard, Outcome};

const SEARCH_TIMEOUT: Duration = Duration::from_secs(120);
/// More than any run has.
const LIMIT: &str = "100000000";

/// The outcomes in the stream.
#[derive(Default)]
pub struct Kept {
    /// By the request's number, newest first.
    pub outcomes: BTreeMap<u64, Vec<Outcome>>,
    /// What cannot be read.
    pub strange: Vec<String>,
}

impl Kept {
    /// All of them, as the program finds them. If it does not, that is a complaint.
    pub async fn search(url: &str, journal: &Journal) -> Self {
        let search = crew::unlocker(url).args(["history", "--json", "--limit", LIMIT]).start();
        let status = search.wait_exit(SEARCH_TIMEOUT).await;
        if !status.success() {
            let said = search.stderr().join(" ");
            journal.complain(format!("the history cannot be searched: {status}: {said}"));
        }
        let mut kept = Self::default();
        for line in search.stdout() {
            match listener::read(line.as_bytes()) {
                Some((n, outcome)) => kept.outcomes.entry(n).or_default().push(outcome),
                None => kept.strange.push(line),
            }
        }
        kept
    }

    pub fn count(&self) -> usize {
        self.outcomes.values().map(Vec::len).sum()
    }

    /// Outcomes that the listener has not heard. There are some if the broker was killed before it confirmed them:
    /// then the request was handled again, and has another outcome, too.
    pub fn unheard(&self, heard: &Heard) -> usize {
        let unheard = |(n, outcomes): (&u64, &Vec<Outcome>)| {
            let heard = bodies(heard.outcomes.get(n));
            bodies(Some(outcomes)).difference(&heard).count()
        };
        self.outcomes.iter().map(unheard).sum()
    }
}

impl Ledger<'_> {
    /// Confirmed requests that should have an outcome in the stream, and have none.
    pub fn not_kept(&self, kept: &Kept) -> Vec<u64> {
        let may_wait = |n: &u64| self.waiting.1.contains(n);
        self.confirmed().filter(|n| !kept.outcomes.contains_key(n) && !may_wait(n)).collect()
    }

    /// Where the stream and the listener differ.
    pub fn wrong_history(&self) -> Vec<String> {
        let Some(kept) = &self.kept else { return Vec::new() };
        let mut wrongs = Vec::new();
        let mut complain = |what: &str, requests: Vec<u64>| {
            if !requests.is_empty() {
                wrongs.push(format!("{} {what}: {}", requests.len(), ids(&requests)));
            }
        };
        complain("lost: they have no outcome in the history", self.not_kept(kept));
        let all = || kept.outcomes.iter();
        let unknown = all().map(|(&n, _)| n).filter(|&n| !self.was_published(n));
        complain("outcomes in the history of nothing that was published", unknown.collect());
        // The last one was confirmed by both.
        let heard = self.heard.outcomes.iter();
        let apart = heard.filter(|(n, heard)| bodies(Some(heard)).is_disjoint(&bodies(kept.outcomes.get(n))));
        complain("outcomes are not the ones in the history", apart.map(|(&n, _)| n).collect());
        let unequal = all().filter(|(_, outcomes)| {
            let times: BTreeSet<_> = outcomes.iter().map(|outcome| outcome.finished_at).collect();
            times.len() != bodies(Some(outcomes)).len()
        });
        complain("have different outcomes of one time in the history", unequal.map(|(&n, _)| n).collect());
        wrongs.extend(kept.strange.iter().take(SHOWN).map(|line| format!("strange in the history: {line}")));
        wrongs
    }
}

fn bodies(outcomes: Option<&Vec<Outcome>>) -> BTreeSet<&[u8]> {
    outcomes.into_iter().flatten().map(|outcome| outcome.body.as_slice()).collect()
}
