//! The metrics of the console.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use super::meters::{Meters, keep};

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
        let observed = Arc::new(Observed::default());
        let gauge = |name, description, value| meters.gauge::<Observed>(&observed, name, description, value);
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
        keep(&self.0.connections, count);
    }

    /// How many jobs this process executes.
    pub fn jobs(&self, count: usize) {
        keep(&self.0.jobs, count);
    }
}
