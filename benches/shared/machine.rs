//! The machine that a bench runs on, and where its results are written.

use std::path::{Path, PathBuf};

/// Processor and cores.
pub fn description() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores", model.map_or("an unknown processor", |(_, model)| model.trim()))
}

/// Ticks of all processors since the machine's start (`/proc/stat`).
pub struct Ticks {
    busy: f64,
    all: f64,
}

impl Ticks {
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        // user nice system idle iowait irq softirq steal; what follows is part of the first two.
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> =
            line.split_whitespace().skip(1).take(8).filter_map(|ticks| ticks.parse().ok()).collect();
        let all = ticks.iter().sum();
        Self { busy: all - ticks.iter().skip(3).take(2).sum::<f64>(), all }
    }

    /// The share of all processors that was in use since then, by all processes.
    pub fn busy_since(&self, before: &Self) -> f64 {
        (self.busy - before.busy) / (self.all - before.all)
    }
}

/// Writes results as JSON to a file in `target/bench`; returns its path.
pub fn write(file: &str, results: &impl serde::Serialize) -> std::io::Result<PathBuf> {
    let directory = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), Into::into)
        .join("bench");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(file);
    std::fs::write(&path, serde_json::to_vec_pretty(results)?)?;
    Ok(path)
}
