//! Which fault an outcome was repeated by.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::crew::CONCURRENCY;
use crate::journal::Fault;
use crate::listener::Outcome;

/// How long after its end a fault may still be noticed: dead lines by heartbeat, and a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// Outcomes beyond the first of their requests, by cause.
#[derive(Default)]
pub struct Duplicates {
    /// By the publisher, which published a request again for want of a confirm.
    pub by_publisher: usize,
    /// By the number of the fault.
    pub by_fault: BTreeMap<usize, usize>,
    /// More than the faults of the time can have caused.
    pub unexplained: Vec<u64>,
}

impl Duplicates {
    pub fn of(
        outcomes: &BTreeMap<u64, Vec<Outcome>>,
        repeats: &BTreeMap<u64, u32>,
        faults: &[Fault],
    ) -> Self {
        let mut duplicates = Self::default();
        for (&n, outcomes) in outcomes {
            let mut finished: Vec<_> = outcomes.iter().map(|outcome| outcome.finished_at).collect();
            finished.sort();
            let by_publisher = repeats.get(&n).map_or(0, |&repeats| repeats as usize);
            let extra = finished.len().saturating_sub(1);
            duplicates.by_publisher += extra.min(by_publisher);
            for &again in finished.iter().skip(1 + by_publisher) {
                match duplicates.cause(faults, finished[0], again) {
                    Some(fault) => *duplicates.by_fault.entry(fault).or_default() += 1,
                    None => duplicates.unexplained.push(n),
                }
            }
        }
        duplicates
    }

    /// The fault nearest to the first outcome that began before the second, and may have caused one more.
    ///
    /// A request that was cut off after it was parked is in two queues, and both copies may live long: so a fault
    /// before the first outcome counts as well, if none after it does.
    fn cause(&self, faults: &[Fault], first: SystemTime, again: SystemTime) -> Option<usize> {
        let spent = |fault: usize| self.by_fault.get(&fault).copied().unwrap_or_default();
        let may = |&(number, fault): &(usize, &Fault)| {
            fault.began <= again && spent(number) < fault.cut_off * CONCURRENCY
        };
        let between = |fault: &Fault| {
            let over = fault.healed.map(|healed| healed + NOTICED_WITHIN);
            over.is_none_or(|over| over >= first)
        };
        let distance = |fault: &Fault| match fault.began.duration_since(first) {
            Ok(after) => after,
            Err(before) => before.duration(),
        };
        let candidates = || faults.iter().enumerate().filter(may);
        let near = candidates().filter(|(_, fault)| between(fault)).min_by_key(|(_, fault)| distance(fault));
        near.or_else(|| candidates().next_back()).map(|(number, _)| number)
    }

    pub fn total(&self) -> usize {
        self.by_publisher + self.by_fault.values().sum::<usize>() + self.unexplained.len()
    }
}
