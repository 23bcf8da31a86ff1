//! The sums of a run, and all that is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::checker::{self, Event, Known, Outcome, What};
use crate::duplicates::{Duplicates, times_sent};
use crate::install::Install;
use crate::journal::{Fault, Postponed};
use crate::requests::{Kind, SHOWN, UNREADABLE_FROM, goes_over_gateway, ids, kind};

/// Everything that was recorded, once all is still.
pub struct Ledger<'a> {
    pub seed: u64,
    pub histories: BTreeMap<u64, Vec<Event>>,
    /// Whether the stream of outcomes is there.
    pub has_history: bool,
    pub strange: Vec<String>,
    /// How many the listener alone got again, after its own line broke.
    pub delivered_again: usize,
    /// By the names of the other listeners' queues, the requests whose outcome they have not got.
    pub missed: Vec<(&'static str, Vec<u64>)>,
    /// Messages left, by queue.
    pub waiting: Vec<(String, usize)>,
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
        let duplicates = Duplicates::new(&self.histories, &self.faults);
        self.print_faults(&duplicates);
        println!("\nLedger, seed {}:\n", self.seed);
        self.print_requests();
        self.print_outcomes();
        self.print_duplicates(&duplicates);
        self.print_throughput();
        let wrongs = self.wrongs(&duplicates);
        for wrong in &wrongs {
            println!("WRONG: {wrong}");
        }
        wrongs.is_empty()
    }

    /// All that is not as it should be.
    fn wrongs(&self, duplicates: &Duplicates) -> Vec<String> {
        let mut wrongs = self.complaints.clone();
        if !self.interrupted {
            let left: usize = self.waiting.iter().map(|(_, count)| count).sum();
            if left > 0 {
                wrongs.push(format!("{left} messages are left in the queues"));
            }
            let unconfirmed = self.unconfirmed();
            if !unconfirmed.is_empty() {
                wrongs.push(format!(
                    "{} requests were never confirmed: {}",
                    unconfirmed.len(),
                    ids(&unconfirmed)
                ));
            }
        }
        if !duplicates.unexplained.is_empty() {
            let (count, ids) = (duplicates.unexplained.len(), ids(&duplicates.unexplained));
            wrongs.push(format!("{count} outcomes repeated beyond what the faults can explain: {ids}"));
        }
        wrongs.extend(self.strange.iter().take(SHOWN).map(|body| format!("a strange outcome: {body}")));
        for (queue, missed) in self.missed.iter().filter(|(_, missed)| !missed.is_empty()) {
            wrongs.push(format!("{queue} has not got {} outcomes: {}", missed.len(), ids(missed)));
        }
        let known = Known {
            kind: &|n| kind(self.seed, n),
            faults: &self.faults,
            has_history: self.has_history,
            interrupted: self.interrupted,
        };
        wrongs.extend(checker::check(&self.histories, &known).iter().map(ToString::to_string));
        wrongs
    }

    /// What may be in RabbitMQ or not. The gateway never takes what is no request.
    fn unconfirmed(&self) -> Vec<u64> {
        let is_refused = |n| kind(self.seed, n) == Kind::Invalid && goes_over_gateway(self.seed, n);
        let unconfirmed = self.numbers(|events| times_sent(events) > 0 && !is(events, accepted));
        unconfirmed.into_iter().filter(|&n| !is_refused(n)).collect()
    }

    /// Faults by sort: how many, how long, for how long no outcome was heard, and the outcomes each repeated.
    fn print_faults(&self, duplicates: &Duplicates) {
        #[derive(Default)]
        struct Sum {
            count: usize,
            lasted: Duration,
            silence: Duration,
            repeated: usize,
        }
        let mut heard: Vec<_> = self.outcomes().map(|(event, _)| event.at).collect();
        heard.sort_unstable();
        let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
        for (number, fault) in self.faults.iter().enumerate() {
            let healed = fault.healed.unwrap_or(fault.began);
            let sum = sums.entry(&fault.sort).or_default();
            sum.count += 1;
            sum.lasted += checker::since(healed, fault.began);
            sum.repeated += duplicates.by_fault.get(&number).copied().unwrap_or_default();
            let first = heard.partition_point(|&at| at < fault.began).saturating_sub(1);
            let end = heard.partition_point(|&at| at <= healed);
            let gaps = heard[first..heard.len().min(end + 1)].windows(2);
            let longest = gaps.map(|pair| checker::since(pair[1], pair[0].max(fault.began))).max();
            sum.silence = sum.silence.max(longest.unwrap_or_default());
        }
        println!(
            "\nFaults: how many, their seconds in all, the most seconds without an outcome, outcomes repeated:\n"
        );
        for (sort, sum) in &sums {
            let (lasted, silence) = (sum.lasted.as_secs_f64(), sum.silence.as_secs_f64());
            println!("  {:>4} {lasted:>7.1} {silence:>6.1} {:>6}  {sort}", sum.count, sum.repeated);
        }
    }

    fn print_requests(&self) {
        let histories = &self.histories;
        let again: usize = histories.values().map(|events| times_sent(events).saturating_sub(1)).sum();
        let count = |is_it: fn(&What) -> bool| histories.values().filter(|events| is(events, is_it)).count();
        line("accepted", count(accepted), &format!("sent {again} more times for want of an answer"));
        line("  cannot be read", histories.range(UNREADABLE_FROM..).count(), "");
        let answered = self.numbers(|events| is(events, |what| matches!(what, What::Answered(_))));
        line("  answered by gateway", answered.len(), "with an outcome");
        let not_taken = self.numbers(|events| {
            times_sent(events) == 0 && is(events, |what| matches!(what, What::NotTaken(_)))
        });
        line("not taken by gateway", not_taken.len(), "for good");
        line("with an outcome", count(|what| matches!(what, What::Heard(_))), "");
        let queues = self.waiting.iter().map(|(queue, count)| format!("{queue}: {count}"));
        let left: usize = self.waiting.iter().map(|(_, count)| count).sum();
        line("still waiting", left, &queues.collect::<Vec<_>>().join(", "));
        let lost = self.numbers(|events| {
            let is_known = |what: &What| matches!(what, What::Heard(_) | What::LeftWaiting);
            is(events, accepted) && !is(events, is_known)
        });
        line("lost", lost.len(), &ids(&lost));
        if self.has_history {
            let kept = histories.values().flatten().filter(|event| matches!(event.what, What::Kept(_)));
            line("in the history", kept.count(), "outcomes");
        }
    }

    fn print_outcomes(&self) {
        let reason = |outcome: &Outcome| (outcome.status.clone(), outcome.reason.clone().unwrap_or_default());
        println!();
        for ((status, reason), count) in counted(self.outcomes().map(|(_, outcome)| reason(outcome))) {
            line("outcomes", count, &format!("{status} {reason}"));
        }
        let left = self.histories.values().flatten().filter_map(|event| match &event.what {
            What::LeftDead { status, reason } => Some((status.clone(), reason.clone())),
            _ => None,
        });
        println!();
        for ((status, reason), count) in counted(left) {
            line("dead letters", count, &format!("{} {reason}", status.as_deref().unwrap_or("unknown")));
        }
    }

    fn print_duplicates(&self, duplicates: &Duplicates) {
        println!();
        line("repeated outcomes", duplicates.total(), "");
        line("  by the sender", duplicates.by_sender, "sent twice");
        line("  by a fault", duplicates.by_fault.values().sum(), "");
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
        if self.delivered_again > 0 {
            line(
                "(heard twice",
                self.delivered_again,
                "by the listener alone, after its own line broke; not counted)",
            );
        }
    }

    fn print_throughput(&self) {
        let (ran, settled) = (self.ran.as_secs_f64(), self.settled_in.as_secs_f64());
        let finished = self.numbers(|events| is(events, |what| matches!(what, What::Heard(_)))).len() as f64;
        println!(
            "\n  {:.0} requests finished per second, over {ran:.0} s of faults and {settled:.1} s until all was still",
            finished / (ran + settled)
        );
        let answers = self.install.answers();
        let answers: Vec<_> = answers.iter().map(|(what, count)| format!("{count} x {what}")).collect();
        println!("  {} calls to Trackfinity, answered {}\n", self.install.calls(), answers.join(", "));
    }

    /// The outcomes that the listener heard.
    fn outcomes(&self) -> impl Iterator<Item = (&Event, &Outcome)> {
        self.histories.values().flatten().filter_map(|event| match &event.what {
            What::Heard(outcome) => Some((event, &**outcome)),
            _ => None,
        })
    }

    fn numbers(&self, is_it: impl Fn(&[Event]) -> bool) -> Vec<u64> {
        self.histories.iter().filter(|(_, events)| is_it(events)).map(|(&n, _)| n).collect()
    }
}

fn is(events: &[Event], is_it: impl Fn(&What) -> bool) -> bool {
    events.iter().any(|event| is_it(&event.what))
}

fn accepted(what: &What) -> bool {
    matches!(what, What::Accepted)
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
