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
    /// How many workers it cut off from the broker: only that may repeat an outcome.
    pub cut_off: usize,
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
        self.say(&what);
        let fault = Fault { what, at: self.elapsed(), began: SystemTime::now(), healed: None, cut_off };
        let faults = &mut self.entries().faults;
        faults.push(fault);
        faults.len() - 1
    }

    pub fn healed(&self, fault: usize) {
        self.entries().faults[fault].healed = Some(SystemTime::now());
    }

    /// Something that must not be, seen under way.
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
