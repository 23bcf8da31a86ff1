//! What each of our processes takes: memory, threads, open handles, sockets among them; and whether it grows.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::crew::Crew;

const MEASURED_EVERY: Duration = Duration::from_secs(10);
/// What a process takes in its first minutes is not counted as growth.
const SETTLED_AFTER: Duration = Duration::from_secs(300);
/// So long after that a process has to live for a slope that says something.
const LONG_ENOUGH: Duration = Duration::from_secs(60);
/// Connections come and go with the load: the least of the last minute is compared with the most of the first ones.
const COMPARED: usize = 6;

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Since the process was first seen.
    at: Duration,
    rss_kib: u64,
    threads: u64,
    handles: u64,
    sockets: u64,
}

/// The samples of a process, which is known by its pid.
struct Life {
    name: &'static str,
    begun: Instant,
    samples: Vec<Sample>,
}

#[derive(Default)]
pub struct Flat(Mutex<BTreeMap<u32, Life>>);

impl Flat {
    /// Measures for ever. A process that is started again is another.
    pub async fn measure(&self, crew: &Crew) {
        loop {
            for slot in &crew.slots {
                let process = slot.process().filter(|process| process.try_exit().is_none());
                let Some(pid) = process.map(|process| process.pid()) else { continue };
                let mut lives = self.0.lock().expect("no panic holds the lives");
                let life = || Life { name: slot.name, begun: Instant::now(), samples: Vec::new() };
                let life = lives.entry(pid).or_insert_with(life);
                life.samples.extend(sample(pid, life.begun.elapsed()));
            }
            sleep(MEASURED_EVERY).await;
        }
    }

    /// Prints what each process took that lived long enough. Returns what grew and should not have.
    pub fn print(&self) -> Vec<String> {
        let lives = self.0.lock().expect("no panic holds the lives");
        let mut grown = Vec::new();
        let mut too_short = 0;
        println!("\nWhat the processes take, after their first {} s:\n", SETTLED_AFTER.as_secs());
        for life in lives.values() {
            let settled = life.samples.partition_point(|sample| sample.at < SETTLED_AFTER);
            let (Some(first), Some(last)) = (life.samples.get(settled), life.samples.last()) else {
                too_short += 1;
                continue;
            };
            if last.at < first.at + LONG_ENOUGH {
                too_short += 1;
                continue;
            }
            let peak = life.samples.iter().map(|sample| sample.rss_kib).max().unwrap_or_default();
            println!(
                "  {:<9} {:>5.0} s  {:>7} KiB, at most {peak}; {:+.1} KiB a minute",
                life.name,
                last.at.as_secs_f64(),
                last.rss_kib,
                slope(&life.samples[settled..])
            );
            let (before, after) = (&life.samples[..=settled], &life.samples[life.samples.len() - COMPARED..]);
            for what in ["threads", "handles", "sockets"] {
                let count = |sample: &Sample| match what {
                    "threads" => sample.threads,
                    "handles" => sample.handles,
                    _ => sample.sockets,
                };
                let most = before.iter().map(count).max().unwrap_or_default();
                let least = after.iter().map(count).min().unwrap_or_default();
                println!("  {:<9} {least:>16} {what} in the end, at most {most} before", "");
                if least > most {
                    grown.push(format!("{} has {least} {what}, and had at most {most} before", life.name));
                }
            }
        }
        println!("  {too_short} processes lived too short for that");
        grown
    }
}

/// `None` where the process has ended meanwhile.
fn sample(pid: u32, at: Duration) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let handles: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().collect();
    let is_socket = |target: std::path::PathBuf| target.to_string_lossy().starts_with("socket:");
    let sockets = handles.iter().filter(|handle| fs::read_link(handle.path()).is_ok_and(is_socket)).count();
    let (rss_kib, threads) = (number("VmRSS:")?, number("Threads:")?);
    Some(Sample { at, rss_kib, threads, handles: handles.len() as u64, sockets: sockets as u64 })
}

/// Of the resident memory, in KiB a minute: the line with the least squares.
fn slope(samples: &[Sample]) -> f64 {
    let minutes = |sample: &Sample| sample.at.as_secs_f64() / 60.0;
    let count = samples.len() as f64;
    let (x, y) =
        samples.iter().fold((0.0, 0.0), |(x, y), sample| (x + minutes(sample), y + sample.rss_kib as f64));
    let (mean_x, mean_y) = (x / count, y / count);
    let (mut products, mut squares) = (0.0, 0.0);
    for sample in samples {
        let off = minutes(sample) - mean_x;
        products += off * (sample.rss_kib as f64 - mean_y);
        squares += off * off;
    }
    products / squares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_the_growth_of_a_minute() {
        let sample = |n: u64| Sample {
            at: Duration::from_secs(10 * n),
            rss_kib: 1_000 + 5 * n + n % 2,
            threads: 1,
            handles: 1,
            sockets: 1,
        };
        let samples: Vec<_> = (0..100).map(sample).collect();
        assert!((slope(&samples) - 30.0).abs() < 0.1, "{}", slope(&samples));
    }

    #[test]
    fn a_process_is_measured() {
        let sample = sample(std::process::id(), Duration::ZERO).unwrap();
        assert!(sample.rss_kib > 100 && sample.threads > 0 && sample.handles > 2, "{sample:?}");
    }
}
