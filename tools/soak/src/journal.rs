//! What was done to the worker and its world, and when.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

#[derive(Clone, Debug)]
pub struct Fault {
    pub what: String,
    /// Since the start.
    pub at: Duration,
    pub began: SystemTime,
    pub healed: Option<SystemTime>,
    /// How many workers it cut off from the broker: what they did not settle is done again.
    pub cut_off: usize,
    /// Whether outcomes may have been postponed by it, and so come again as they were.
    pub postpones: Option<Postponed>,
}

/// Why outcomes are published again, as they were, without any loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Postponed {
    /// One listener's queue refused them: the others have had their copies.
    Refused,
    /// They were confirmed late, after their requests were postponed. The worker that published them knows that; the
    /// other one, or one started again, does not.
    Late,
}

#[derive(Default)]
struct Entries {
    faults: Vec<Fault>,
    complaints: Vec<String>,
}

pub struct Journal {
    begun: Instant,
    entries: Mutex<Entries>,
}

impl Journal {
    pub fn new() -> Self {
        Self { begun: Instant::now(), entries: Mutex::default() }
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Says a line, with the time.
    pub fn say(&self, line: &str) {
        println!("{:7.1} s  {line}", self.elapsed().as_secs_f64());
    }

    /// A fault that cuts `cut_off` workers off from the broker; the result is for [`Journal::healed`].
    pub fn began(&self, what: String, cut_off: usize) -> usize {
        self.began_postponing(what, cut_off, None)
    }

    /// The same, of a fault that may also postpone outcomes.
    pub fn began_postponing(&self, what: String, cut_off: usize, postpones: Option<Postponed>) -> usize {
        self.say(&what);
        let (at, began) = (self.elapsed(), SystemTime::now());
        let fault = Fault { what, at, began, healed: None, cut_off, postpones };
        let faults = &mut self.entries().faults;
        faults.push(fault);
        faults.len() - 1
    }

    pub fn healed(&self, fault: usize) {
        self.entries().faults[fault].healed = Some(SystemTime::now());
    }

    /// Something that must not be, seen during the run.
    pub fn complain(&self, complaint: String) {
        self.say(&format!("WRONG: {complaint}"));
        let at = self.elapsed().as_secs_f64();
        self.entries().complaints.push(format!("at {at:.1} s: {complaint}"));
    }

    pub fn faults(&self) -> Vec<Fault> {
        self.entries().faults.clone()
    }

    pub fn complaints(&self) -> Vec<String> {
        self.entries().complaints.clone()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().expect("no panic holds the journal")
    }
}
