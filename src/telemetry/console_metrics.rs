//! The metrics of the console.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use super::meters::Meters;

/// All metrics of the console. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ConsoleMetrics(Arc<Observed>);

/// Values that are read when metrics are collected.
#[derive(Debug, Default)]
struct Observed {
    connections: AtomicI64,
    jobs: AtomicI64,
}

impl From<&Meters> for ConsoleMetrics {
    fn from(meters: &Meters) -> Self {
        let meter = meters.meter();
        let observed = Arc::new(Observed::default());
        let gauge = |name, description, value: fn(&Observed) -> i64| {
            let observed = Arc::clone(&observed);
            let gauge = meter.i64_observable_gauge(name).with_description(description);
            gauge.with_callback(move |gauge| gauge.observe(value(&observed), &[])).build();
        };
        gauge("unlocker.console.connections", "Open connections of browsers and scripts", |observed| {
            observed.connections.load(Ordering::Relaxed)
        });
        gauge("unlocker.console.jobs", "Replays and discards that this process executes now", |observed| {
            observed.jobs.load(Ordering::Relaxed)
        });
        Self(observed)
    }
}

impl ConsoleMetrics {
    /// How many connections are open.
    pub fn connections(&self, count: usize) {
        self.0.connections.store(i64::try_from(count).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// How many jobs this process executes.
    pub fn jobs(&self, count: usize) {
        self.0.jobs.store(i64::try_from(count).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}
