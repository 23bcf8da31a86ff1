//! What was done to the processes and their world, and when.

use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How long after its end a fault may still be noticed: dead lines by heartbeat, and a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Fault {
    /// Of what sort it is, for the sums.
    pub sort: String,
    pub what: String,
    /// Since the start.
    pub at: Duration,
    pub began: SystemTime,
    pub healed: Option<SystemTime>,
    /// How many workers it cut off from the broker: what they did not settle is done again.
    pub cut_off: usize,
    /// Whether outcomes may have been postponed by it, and so come again as they were.
    pub postpones: Option<Postponed>,
    /// By how much a clock was wrong.
    pub clock_off: Duration,
    /// Whether it changes Trackfinity's key, by which workers recognise outcomes that were postponed.
    pub changes_key: bool,
    /// Whether RabbitMQ may give requests up because of it.
    pub limits_deliveries: bool,
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

impl Fault {
    /// One that does nothing to outcomes.
    pub fn new(sort: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            sort: sort.into(),
            what: what.into(),
            at: Duration::ZERO,
            began: SystemTime::now(),
            healed: None,
            cut_off: 0,
            postpones: None,
            clock_off: Duration::ZERO,
            changes_key: false,
            limits_deliveries: false,
        }
    }

    pub fn cutting_off(self, workers: usize) -> Self {
        Self { cut_off: workers, ..self }
    }

    pub fn postponing(self, why: Postponed) -> Self {
        Self { postpones: Some(why), ..self }
    }

    /// Whether it may still be felt at a time, or has not begun.
    pub fn is_felt(&self, at: SystemTime) -> bool {
        self.healed.is_none_or(|healed| healed + NOTICED_WITHIN >= at)
    }

    pub fn is_felt_between(&self, from: SystemTime, to: SystemTime) -> bool {
        self.began <= to && self.is_felt(from)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.1} s  {}", self.at.as_secs_f64(), self.what)
    }
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

    /// Notes a fault that begins now; the result is for [`Journal::healed`].
    pub fn began(&self, fault: Fault) -> usize {
        self.say(&fault.what);
        let fault = Fault { at: self.elapsed(), began: SystemTime::now(), ..fault };
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
