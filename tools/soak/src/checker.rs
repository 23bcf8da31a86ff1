//! Checks the history of each request: what was sent, called, heard and answered, in the order in which it happened.
//! Pure; docs/decisions.md, 310 says what it holds equal.

mod event;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

pub use event::{Event, Outcome, What, since};

use crate::journal::Fault;
use crate::requests::{Kind, ids, message_id};
use rules::RULES;

/// What the checker knows besides the histories.
pub struct Known<'a> {
    /// What each request is.
    pub kind: &'a dyn Fn(u64) -> Kind,
    /// All that was done to the processes and their world.
    pub faults: &'a [Fault],
    /// Whether the stream of outcomes is there.
    pub has_history: bool,
    /// The run was ended early: requests may still wait.
    pub interrupted: bool,
}

impl Known<'_> {
    /// What may have been felt between two times.
    fn felt_between(&self, from: SystemTime, to: SystemTime) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(move |fault| fault.is_felt_between(from, to))
    }

    /// Whether a worker may have been cut off between two times.
    fn is_cut_off_between(&self, from: SystemTime, to: SystemTime) -> bool {
        self.felt_between(from, to).any(|fault| fault.cut_off > 0)
    }
}

/// A broken rule.
pub struct Finding {
    pub rule: &'static str,
    /// All requests that break it.
    pub requests: Vec<u64>,
    /// The one whose history shows it soonest, up to the event that shows it.
    pub n: u64,
    pub shortest: Vec<Event>,
    pub why: String,
    /// What was done meanwhile.
    pub meanwhile: Vec<String>,
}

/// The rules that are broken.
pub fn check(histories: &BTreeMap<u64, Vec<Event>>, known: &Known<'_>) -> Vec<Finding> {
    RULES.iter().filter_map(|(name, rule)| check_rule(name, *rule, histories, known)).collect()
}

fn check_rule(
    name: &'static str,
    rule: rules::Rule,
    histories: &BTreeMap<u64, Vec<Event>>,
    known: &Known<'_>,
) -> Option<Finding> {
    let mut requests = Vec::new();
    let mut shortest: Option<(usize, u64, String)> = None;
    for (&n, events) in histories {
        let Some(breach) = rule(events, (known.kind)(n), known) else { continue };
        requests.push(n);
        if shortest.as_ref().is_none_or(|(length, ..)| breach.events < *length) {
            shortest = Some((breach.events, n, breach.why));
        }
    }
    let (length, n, why) = shortest?;
    let shortest: Vec<_> = histories[&n].iter().take(length).cloned().collect();
    let meanwhile = match (shortest.first(), shortest.last()) {
        (Some(first), Some(last)) => known.felt_between(first.at, last.at).map(Fault::to_string).collect(),
        _ => Vec::new(),
    };
    Some(Finding { rule: name, requests, n, shortest, why, meanwhile })
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.requests.len();
        writeln!(f, "{count} histories break the rule that {}: {}", self.rule, ids(&self.requests))?;
        writeln!(f, "  the shortest one, of {}:", message_id(self.n))?;
        let begun = self.shortest.first().map(|event| event.at);
        for event in &self.shortest {
            let at = begun.map_or(0.0, |begun| since(event.at, begun).as_secs_f64());
            writeln!(f, "  {at:10.3} s  {}", event.what)?;
        }
        write!(f, "  {}", self.why)?;
        for fault in &self.meanwhile {
            write!(f, "\n  meanwhile: {fault}")?;
        }
        Ok(())
    }
}
