//! Why outcomes were repeated.
//!
//! Outcomes of one request that differ come of two runs of it: its publisher published it twice, or a worker was cut
//! off and did not settle it. Outcomes that are equal are one that was published twice, most often as it was postponed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::crew::CONCURRENCY;
use crate::journal::{Fault, Postponed};
use crate::listener::Outcome;

/// How long after its end a fault may still be noticed: dead lines by heartbeat, and a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);
/// Copies of one outcome that a listener may get while another one's queue refuses them.
const MAX_COPIES: usize = 12;

/// Outcomes beyond the first of their requests, by cause.
#[derive(Default)]
pub struct Duplicates {
    /// By the publisher, which published a request again for want of a confirm.
    pub by_publisher: usize,
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
    pub fn new(
        outcomes: &BTreeMap<u64, Vec<Outcome>>,
        repeats: &BTreeMap<u64, u32>,
        faults: &[Fault],
    ) -> Self {
        let mut duplicates = Self::default();
        for (&n, outcomes) in outcomes {
            let mut runs: BTreeMap<(SystemTime, &[u8]), Vec<&Outcome>> = BTreeMap::new();
            for outcome in outcomes {
                runs.entry((outcome.finished_at, outcome.body.as_slice())).or_default().push(outcome);
            }
            let runs: Vec<_> = runs.into_values().collect();
            duplicates.explain_runs(n, &runs, repeats.get(&n).copied().unwrap_or_default(), faults);
            for copies in &runs {
                duplicates.explain_copies(n, copies, faults);
            }
        }
        duplicates
    }

    fn explain_runs(&mut self, n: u64, runs: &[Vec<&Outcome>], by_publisher: u32, faults: &[Fault]) {
        let first = runs[0][0];
        for (again, run) in runs[1..].iter().enumerate() {
            self.with_another_status += usize::from(run[0].status != first.status);
            if again < by_publisher as usize {
                self.by_publisher += 1;
            } else {
                self.explain_by_fault(n, faults, first.finished_at, run[0].finished_at);
            }
        }
    }

    fn explain_copies(&mut self, n: u64, copies: &[&Outcome], faults: &[Fault]) {
        self.most_copies = self.most_copies.max(copies.len());
        for (number, copy) in copies.iter().enumerate().skip(1) {
            match postponed(faults, copies[0].finished_at, copy.heard_at) {
                Some(cause) if number < MAX_COPIES => *self.postponed.entry(cause).or_default() += 1,
                Some(_) => self.unexplained.push(n),
                None => self.explain_by_fault(n, faults, copies[0].finished_at, copy.heard_at),
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
    /// A request that was cut off after its retry was published is in two queues, and both copies may live long: so a fault
    /// before the first outcome counts as well, if none after it does.
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
        let near = candidates().filter(|(_, fault)| is_felt(fault, first));
        let near = near.min_by_key(|(_, fault)| distance(fault));
        near.or_else(|| candidates().next_back()).map(|(number, _)| number)
    }

    pub fn total(&self) -> usize {
        let counts = self.by_fault.values().chain(self.postponed.values());
        self.by_publisher + counts.sum::<usize>() + self.unexplained.len()
    }
}

/// Whether a fault may still be felt at a time, or has not begun.
fn is_felt(fault: &Fault, at: SystemTime) -> bool {
    fault.healed.is_none_or(|healed| healed + NOTICED_WITHIN >= at)
}

/// Why an outcome may have been postponed between two times; of several causes, the last one.
fn postponed(faults: &[Fault], first: SystemTime, again: SystemTime) -> Option<Postponed> {
    let mut causes = faults.iter().rev().filter(|fault| fault.began <= again && is_felt(fault, first));
    causes.find_map(|fault| fault.postpones)
}
