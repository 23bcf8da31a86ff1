//! Why outcomes were repeated, and whether so many can have been.
//!
//! Outcomes of one request that differ come of two runs of it: it was sent twice, or a worker was cut off and did not
//! settle it. Outcomes that are equal are one that was published twice, most often as it was postponed. The checker
//! asks whether a crash is listed at all; this counts how many outcomes each fault has repeated.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::checker::{Event, Outcome, What};
use crate::crew::CONCURRENCY;
use crate::journal::{Fault, Postponed};

/// Copies of one outcome that a listener may get while another one's queue refuses them.
const MAX_COPIES: usize = 12;

/// An outcome, and when the listener heard it.
type Heard<'a> = (SystemTime, &'a Outcome);

/// Outcomes beyond the first of their requests, by cause.
#[derive(Default)]
pub struct Duplicates {
    /// By the sender, which sent a request again for want of an answer.
    pub by_sender: usize,
    /// By the number of the fault that cut a worker off.
    pub by_fault: BTreeMap<usize, usize>,
    /// Equal ones, that were postponed.
    pub postponed: BTreeMap<Postponed, usize>,
    /// Of those with another cause than that, the ones with another status than the first.
    pub with_another_status: usize,
    pub most_copies: usize,
    /// More than the faults of the time can have caused.
    pub unexplained: Vec<u64>,
}

impl Duplicates {
    pub fn new(histories: &BTreeMap<u64, Vec<Event>>, faults: &[Fault]) -> Self {
        let mut duplicates = Self::default();
        for (&n, events) in histories {
            let mut runs: BTreeMap<(SystemTime, u64), Vec<Heard<'_>>> = BTreeMap::new();
            for event in events {
                let What::Heard(outcome) = &event.what else { continue };
                let run = runs.entry((outcome.finished_at, outcome.digest)).or_default();
                run.push((event.at, outcome));
            }
            // By when they came: a clock that jumps gives them times in another order.
            let mut runs: Vec<_> = runs.into_values().collect();
            runs.sort_by_key(|run| run[0].0);
            duplicates.explain_runs(n, &runs, times_sent(events).saturating_sub(1), faults);
            for copies in &runs {
                duplicates.explain_copies(n, copies, faults);
            }
        }
        duplicates
    }

    fn explain_runs(&mut self, n: u64, runs: &[Vec<Heard<'_>>], by_sender: usize, faults: &[Fault]) {
        let Some([(first_at, first), ..]) = runs.first().map(Vec::as_slice) else { return };
        for (again, run) in runs[1..].iter().enumerate() {
            let (heard_at, outcome) = run[0];
            self.with_another_status += usize::from(outcome.status != first.status);
            if again < by_sender {
                self.by_sender += 1;
            } else {
                self.explain_by_fault(n, faults, *first_at, heard_at);
            }
        }
    }

    fn explain_copies(&mut self, n: u64, copies: &[Heard<'_>], faults: &[Fault]) {
        self.most_copies = self.most_copies.max(copies.len());
        let (first_at, _) = copies[0];
        for (number, &(heard_at, _)) in copies.iter().enumerate().skip(1) {
            match postponed(faults, first_at, heard_at) {
                Some(cause) if number < MAX_COPIES => *self.postponed.entry(cause).or_default() += 1,
                Some(_) => self.unexplained.push(n),
                None => self.explain_by_fault(n, faults, first_at, heard_at),
            }
        }
    }

    fn explain_by_fault(&mut self, n: u64, faults: &[Fault], first: SystemTime, again: SystemTime) {
        match self.cause(faults, first, again) {
            Some(fault) => *self.by_fault.entry(fault).or_default() += 1,
            None => self.unexplained.push(n),
        }
    }

    /// The fault nearest to the first outcome that began before the second, and may have caused one more.
    ///
    /// A request that was cut off after its retry was published is in two queues, and both copies may live long: so a
    /// fault before the first outcome counts as well, if none after it does.
    fn cause(&self, faults: &[Fault], first: SystemTime, again: SystemTime) -> Option<usize> {
        let spent = |fault: usize| self.by_fault.get(&fault).copied().unwrap_or_default();
        let may = |&(number, fault): &(usize, &Fault)| {
            fault.began <= again && spent(number) < fault.cut_off * CONCURRENCY
        };
        let distance = |fault: &Fault| match fault.began.duration_since(first) {
            Ok(after) => after,
            Err(before) => before.duration(),
        };
        let candidates = || faults.iter().enumerate().filter(may);
        let near = candidates().filter(|(_, fault)| fault.is_felt(first));
        let near = near.min_by_key(|(_, fault)| distance(fault));
        near.or_else(|| candidates().next_back()).map(|(number, _)| number)
    }

    pub fn total(&self) -> usize {
        let counts = self.by_fault.values().chain(self.postponed.values());
        self.by_sender + counts.sum::<usize>() + self.unexplained.len()
    }
}

/// How often a request was sent, without what was answered not to be taken.
pub fn times_sent(events: &[Event]) -> usize {
    let count = |is_it: fn(&What) -> bool| events.iter().filter(|event| is_it(&event.what)).count();
    let not_taken = count(|what| matches!(what, What::NotTaken(_)));
    count(|what| matches!(what, What::Sent)).saturating_sub(not_taken)
}

/// Why an outcome may have been postponed between two times; of several causes, the last one.
fn postponed(faults: &[Fault], first: SystemTime, again: SystemTime) -> Option<Postponed> {
    let mut causes = faults.iter().rev().filter(|fault| fault.is_felt_between(first, again));
    causes.find_map(|fault| fault.postpones)
}
