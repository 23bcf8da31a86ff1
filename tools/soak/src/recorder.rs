//! Records what happens to each request, from all who see it: publishers, the stand-in, listeners.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use crate::checker::{Event, What};

#[derive(Default)]
struct Records {
    histories: BTreeMap<u64, Vec<Event>>,
    accepted: HashSet<u64>,
    finished: HashSet<u64>,
    /// Accepted, and not finished.
    open: HashSet<u64>,
}

/// Shared by all who see something. One lock gives all events one order.
#[derive(Default)]
pub struct Recorder(Mutex<Records>);

impl Recorder {
    pub fn record(&self, n: u64, what: What) {
        let mut records = self.records();
        match &what {
            What::Accepted => {
                records.accepted.insert(n);
                if !records.finished.contains(&n) {
                    records.open.insert(n);
                }
            }
            What::Heard(_) => {
                records.finished.insert(n);
                records.open.remove(&n);
            }
            _ => {}
        }
        let event = Event { at: SystemTime::now(), what };
        let events = records.histories.entry(n).or_default();
        // Of polls in a row the last one says all.
        if let (What::Pending { .. }, Some(Event { what: What::Pending { .. }, .. })) =
            (&event.what, events.last())
        {
            events.pop();
        }
        events.push(event);
    }

    /// Whether a listener has heard an outcome of these bytes already.
    pub fn has_heard(&self, n: u64, digest: u64) -> bool {
        let records = self.records();
        let is_it = |event: &Event| matches!(&event.what, What::Heard(outcome) if outcome.digest == digest);
        records.histories.get(&n).is_some_and(|events| events.iter().any(is_it))
    }

    /// Requests that were accepted so far.
    pub fn accepted(&self) -> usize {
        self.records().accepted.len()
    }

    /// Requests that have an outcome.
    pub fn finished(&self) -> usize {
        self.records().finished.len()
    }

    /// Requests that were accepted and have no outcome yet.
    pub fn open(&self) -> usize {
        self.records().open.len()
    }

    /// All that was recorded, by the request's number; nothing is recorded after that.
    pub fn take(&self) -> BTreeMap<u64, Vec<Event>> {
        std::mem::take(&mut self.records().histories)
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().expect("no panic holds the records")
    }
}
