//! The account of every request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::duplicates::Duplicates;
use crate::install::Install;
use crate::journal::Fault;
use crate::listener::Heard;
use crate::requests::{Kind, kind, message_id};
use crate::waiting::Letter;

/// So many of a kind are shown in full.
const SHOWN: usize = 10;

/// Everything that was counted, once all is still.
pub struct Ledger<'a> {
    pub seed: u64,
    /// Numbers given out; each is published unless it is among the unconfirmed.
    pub due: u64,
    pub unconfirmed: BTreeSet<u64>,
    pub repeats: BTreeMap<u64, u32>,
    pub heard: &'a Heard,
    pub waiting: (Vec<(String, usize)>, BTreeSet<u64>),
    pub letters: Vec<Letter>,
    pub faults: Vec<Fault>,
    pub complaints: Vec<String>,
    pub install: &'a Install,
    /// How long requests and faults flowed, and how long the rest took.
    pub ran: Duration,
    pub settled_in: Duration,
    /// Ended by a signal, so that requests may still wait.
    pub interrupted: bool,
}

impl Ledger<'_> {
    /// Prints it; true if everything is as it should be.
    pub fn print(&self) -> bool {
        let duplicates = Duplicates::of(&self.heard.outcomes, &self.repeats, &self.faults);
        let lost = self.lost();
        self.print_faults(&duplicates);
        println!("\nLedger, seed {}:\n", self.seed);
        self.print_requests(&lost);
        self.print_outcomes();
        self.print_letters();
        self.print_duplicates(&duplicates);
        self.print_throughput();
        let wrongs = self.wrongs(&lost, &duplicates);
        for wrong in &wrongs {
            println!("WRONG: {wrong}");
        }
        wrongs.is_empty()
    }

    fn confirmed(&self) -> impl Iterator<Item = u64> {
        (0..self.due).filter(|n| !self.unconfirmed.contains(n))
    }

    /// Requests that the broker confirmed, that have no outcome and wait nowhere.
    fn lost(&self) -> Vec<u64> {
        let known = |n: &u64| self.heard.outcomes.contains_key(n) || self.waiting.1.contains(n);
        self.confirmed().filter(|n| !known(n)).collect()
    }

    fn unfinished(&self) -> usize {
        self.confirmed().filter(|n| !self.heard.outcomes.contains_key(n)).count()
    }

    fn print_faults(&self, duplicates: &Duplicates) {
        println!("\nFaults, and the outcomes each repeated:\n");
        for (number, fault) in self.faults.iter().enumerate() {
            let repeated = match duplicates.by_fault.get(&number) {
                Some(count) => format!("  -> {count} repeated"),
                None => String::new(),
            };
            println!("{:7.1} s  {}{repeated}", fault.at.as_secs_f64(), fault.what);
        }
    }

    fn print_requests(&self, lost: &[u64]) {
        let published = self.confirmed().count();
        let again: u32 = self.repeats.values().sum();
        line("published", published, &format!("{again} more times for want of a confirm"));
        if !self.unconfirmed.is_empty() {
            line("not confirmed", self.unconfirmed.len(), "the broker may have them or not");
        }
        line("with an outcome", self.heard.outcomes.len(), "");
        let queues = self.waiting.0.iter().map(|(queue, count)| format!("{queue}: {count}"));
        line("still waiting", self.waiting.1.len(), &queues.collect::<Vec<_>>().join(", "));
        line("lost", lost.len(), "");
    }

    fn print_outcomes(&self) {
        let outcomes = self.heard.outcomes.values().flatten();
        let kinds = outcomes.map(|outcome| (outcome.status.clone(), outcome.reason.clone()));
        println!();
        for ((status, reason), count) in counted(kinds) {
            line("outcomes", count, &format!("{status} {}", reason.unwrap_or_default()));
        }
    }

    fn print_letters(&self) {
        let kinds = self.letters.iter().map(|letter| {
            let status = letter.status.clone().unwrap_or_else(|| "unknown".into());
            (status, letter.reason.clone())
        });
        println!();
        for ((status, reason), count) in counted(kinds) {
            line("dead letters", count, &format!("{status} {reason}"));
        }
    }

    fn print_duplicates(&self, duplicates: &Duplicates) {
        println!();
        line("repeated outcomes", duplicates.total(), "");
        line("  by the publisher", duplicates.by_publisher, "published twice by the publisher");
        let mut by_kind: BTreeMap<&str, usize> = BTreeMap::new();
        for (&fault, count) in &duplicates.by_fault {
            *by_kind.entry(sort_of(&self.faults[fault].what)).or_default() += count;
        }
        for (sort, count) in by_kind {
            line("  by a fault", count, sort);
        }
        line("  unexplained", duplicates.unexplained.len(), "");
        if self.heard.delivered_again > 0 {
            let count = usize::try_from(self.heard.delivered_again).unwrap_or(usize::MAX);
            line("(heard twice", count, "by the listener alone, after its own line broke; not counted)");
        }
    }

    fn print_throughput(&self) {
        let (ran, settled) = (self.ran.as_secs_f64(), self.settled_in.as_secs_f64());
        let finished = self.heard.outcomes.len() as f64;
        println!(
            "\n  {:.0} requests finished per second, over {ran:.0} s of faults and {settled:.1} s until all was still",
            finished / (ran + settled)
        );
        let answers = self.install.answers();
        let answers: Vec<_> = answers.iter().map(|(what, count)| format!("{count} x {what}")).collect();
        println!("  {} calls to Trackfinity, answered {}\n", self.install.calls(), answers.join(", "));
    }

    /// All that is not as it should be.
    fn wrongs(&self, lost: &[u64], duplicates: &Duplicates) -> Vec<String> {
        let mut wrongs = self.complaints.clone();
        if !lost.is_empty() {
            wrongs.push(format!("{} lost: {}", lost.len(), ids(lost)));
        }
        if !self.interrupted {
            if self.unfinished() > 0 {
                wrongs.push(format!("{} requests have no outcome", self.unfinished()));
            }
            let left: usize = self.waiting.0.iter().map(|(_, count)| count).sum();
            if left > 0 {
                wrongs.push(format!("{left} messages are left in the queues"));
            }
            if !self.unconfirmed.is_empty() {
                wrongs.push(format!("{} publishes were never confirmed", self.unconfirmed.len()));
            }
        }
        if !duplicates.unexplained.is_empty() {
            let (count, ids) = (duplicates.unexplained.len(), ids(&duplicates.unexplained));
            wrongs.push(format!("{count} outcomes repeated beyond what the faults can explain: {ids}"));
        }
        wrongs.extend(self.heard.strange.iter().take(SHOWN).map(|body| format!("a strange outcome: {body}")));
        wrongs.extend(self.wrong_outcomes());
        wrongs.extend(self.wrong_letters());
        wrongs
    }

    /// Outcomes that are not true.
    fn wrong_outcomes(&self) -> Vec<String> {
        let mut wrongs = Vec::new();
        for (&n, outcomes) in &self.heard.outcomes {
            let kind = kind(self.seed, n);
            for outcome in outcomes {
                let reason = outcome.reason.as_deref();
                let holds = match (outcome.status.as_str(), kind) {
                    ("unlocked", Kind::Good | Kind::Doomed) => reason.is_none() && self.install.unlocked(n),
                    ("refused", Kind::Refused) => reason == Some("http_400"),
                    ("invalid", Kind::Invalid) => matches!(reason, Some("malformed" | "no_identifier")),
                    ("abandoned", Kind::Good | Kind::Refused | Kind::Doomed) => {
                        reason.is_some_and(is_transient)
                    }
                    _ => false,
                };
                if !holds && n < self.due {
                    let status = &outcome.status;
                    wrongs.push(format!("{}, {kind:?}, is said to be {status} {reason:?}", message_id(n)));
                } else if n >= self.due {
                    wrongs.push(format!("an outcome of {}, which was never published", message_id(n)));
                }
            }
        }
        shortened(wrongs)
    }

    /// Letters that should not be, and letters and outcomes that do not belong together.
    fn wrong_letters(&self) -> Vec<String> {
        let mut wrongs = Vec::new();
        let mut of_request: BTreeSet<(u64, &str)> = BTreeSet::new();
        for letter in &self.letters {
            let Some(status) = letter.status.as_deref() else {
                wrongs.push(format!("crashed, dead-lettered by the broker: {}", letter.shown));
                continue;
            };
            if is_endpoint_fault(&letter.reason) {
                wrongs.push(format!("dead for an endpoint fault, {}: {}", letter.reason, letter.shown));
            }
            let outcomes = letter.n.and_then(|n| self.heard.outcomes.get(&n));
            if outcomes.is_none_or(|outcomes| outcomes.iter().all(|outcome| outcome.status != status)) {
                // Its outcome may still have been on its way.
                let waits = letter.n.is_some_and(|n| self.waiting.1.contains(&n));
                if !(self.interrupted && waits) {
                    wrongs
                        .push(format!("a dead letter, {status}, without such an outcome: {}", letter.shown));
                }
            }
            of_request.extend(letter.n.map(|n| (n, status)));
        }
        for (&n, outcomes) in &self.heard.outcomes {
            for outcome in outcomes {
                let status = outcome.status.as_str();
                if status != "unlocked" && !of_request.contains(&(n, status)) {
                    wrongs.push(format!("{} is {status}, and has no such dead letter", message_id(n)));
                }
            }
        }
        shortened(wrongs)
    }
}

fn is_transient(reason: &str) -> bool {
    let status = reason.strip_prefix("http_").and_then(|status| status.parse::<u16>().ok());
    match status {
        Some(status) => status >= 500 && status != 501,
        None => matches!(reason, "timeout" | "connection" | "unexpected_reply" | "rate_limited"),
    }
}

fn is_endpoint_fault(reason: &str) -> bool {
    let status = reason.strip_prefix("http_").and_then(|status| status.parse::<u16>().ok());
    status.is_some_and(|status| matches!(status, 300..=399 | 401 | 403 | 405 | 407 | 501))
}

/// What a fault is, without its times.
fn sort_of(what: &str) -> &str {
    let end = [" for ", ", "].iter().filter_map(|mark| what.find(mark)).min();
    &what[..end.unwrap_or(what.len())]
}

fn counted<T: Ord>(items: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

fn line(name: &str, count: usize, note: &str) {
    println!("{}", format!("  {name:<20} {count:>8}  {note}").trim_end());
}

fn ids(numbers: &[u64]) -> String {
    let ids: Vec<_> = numbers.iter().take(SHOWN).map(|&n| message_id(n)).collect();
    format!("{}{}", ids.join(" "), if numbers.len() > SHOWN { " …" } else { "" })
}

fn shortened(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > SHOWN {
        let rest = lines.len() - SHOWN;
        lines.truncate(SHOWN);
        lines.push(format!("and {rest} more such"));
    }
    lines
}
