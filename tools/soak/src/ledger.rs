//! The account of every request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::duplicates::Duplicates;
use crate::history::Kept;
use crate::install::Install;
use crate::journal::{Fault, Postponed};
use crate::listener::Heard;
use crate::requests::message_id;
use crate::waiting::DeadLetter;

/// So many of a kind are shown in full.
pub const SHOWN: usize = 10;

/// Everything that was counted, once all is still.
pub struct Ledger<'a> {
    pub seed: u64,
    /// Numbers given out; each is published unless it is among the unconfirmed.
    pub due: u64,
    pub unconfirmed: BTreeSet<u64>,
    /// Those that cannot be read, all confirmed.
    pub unreadable: BTreeSet<u64>,
    pub repeats: BTreeMap<u64, u32>,
    pub heard: &'a Heard,
    /// What the history has, where it is on.
    pub kept: Option<Kept>,
    /// By the names of the other listeners' queues, the requests whose outcome they have not got.
    pub missed: Vec<(&'static str, Vec<u64>)>,
    pub waiting: (Vec<(String, usize)>, BTreeSet<u64>),
    pub dead_letters: Vec<DeadLetter>,
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
        let duplicates = Duplicates::new(&self.heard.outcomes, &self.repeats, &self.faults);
        let lost = self.lost();
        self.print_faults(&duplicates);
        println!("\nLedger, seed {}:\n", self.seed);
        self.print_requests(&lost);
        self.print_outcomes();
        self.print_dead_letters();
        self.print_duplicates(&duplicates);
        self.print_throughput();
        let wrongs = self.wrongs(&lost, &duplicates);
        for wrong in &wrongs {
            println!("WRONG: {wrong}");
        }
        wrongs.is_empty()
    }

    pub fn confirmed(&self) -> impl Iterator<Item = u64> {
        (0..self.due).filter(|n| !self.unconfirmed.contains(n)).chain(self.unreadable.iter().copied())
    }

    pub fn was_published(&self, n: u64) -> bool {
        n < self.due || self.unreadable.contains(&n)
    }

    /// Requests that the broker confirmed, that have no outcome and wait nowhere.
    pub fn lost(&self) -> Vec<u64> {
        let known = |n: &u64| self.heard.outcomes.contains_key(n) || self.waiting.1.contains(n);
        self.confirmed().filter(|n| !known(n)).collect()
    }

    pub fn unfinished(&self) -> usize {
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
        line("  cannot be read", self.unreadable.len(), "");
        line("with an outcome", self.heard.outcomes.len(), "");
        let queues = self.waiting.0.iter().map(|(queue, count)| format!("{queue}: {count}"));
        line("still waiting", self.waiting.1.len(), &queues.collect::<Vec<_>>().join(", "));
        line("lost", lost.len(), "");
        if let Some(kept) = &self.kept {
            line("in the history", kept.outcomes.len(), &format!("{} outcomes", kept.count()));
            line("  unheard outcomes", kept.unheard(self.heard), "the listener's queue has not got them");
            line("  lost", self.not_kept(kept).len(), "");
        }
    }

    fn print_outcomes(&self) {
        let outcomes = self.heard.outcomes.values().flatten();
        let kinds = outcomes.map(|outcome| (outcome.status.clone(), outcome.reason.clone()));
        println!();
        for ((status, reason), count) in counted(kinds) {
            line("outcomes", count, &format!("{status} {}", reason.unwrap_or_default()));
        }
    }

    fn print_dead_letters(&self) {
        let kinds = self.dead_letters.iter().map(|dead_letter| {
            let status = dead_letter.status.clone().unwrap_or_else(|| "unknown".into());
            (status, dead_letter.reason.clone())
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
        for (cause, &count) in &duplicates.postponed {
            let note = match cause {
                Postponed::Refused => "published again, as a listener's queue refused it",
                Postponed::Late => "published again by a worker that does not know of the late confirm",
            };
            line("  postponed", count, note);
        }
        line("  unexplained", duplicates.unexplained.len(), "");
        line(
            "(another status",
            duplicates.with_another_status,
            "than the first, after another run of the request)",
        );
        line("(copies at most", duplicates.most_copies, "of one outcome)");
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

pub fn ids(numbers: &[u64]) -> String {
    let ids: Vec<_> = numbers.iter().take(SHOWN).map(|&n| message_id(n)).collect();
    format!("{}{}", ids.join(" "), if numbers.len() > SHOWN { " …" } else { "" })
}
