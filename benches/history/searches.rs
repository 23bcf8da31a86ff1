//! Searches by `unlocker history`, each in a process of its own.

use std::time::Duration;

use kit::Program;
use tokio::time::Instant;

use crate::arguments::Options;
use crate::figures::Spread;
use crate::report::Report;
use crate::site::{Filled, OUTCOMES_EACH, Site, number};

const LIMIT: Duration = Duration::from_secs(120);
/// How often memory is read.
const LOOK: Duration = Duration::from_millis(5);
/// The versions that leave out parts of a stream.
const FILTERS_FROM: (u32, u32) = (3, 13);
/// How many are printed unless more are asked for.
const LIMIT_OF_OUTCOMES: usize = 100;
const MAX_RSS_MIB: f64 = 40.0;

/// One run of the program.
struct Run {
    /// From its start to its end.
    seconds: f64,
    cpu: f64,
    peak_rss: f64,
}

/// Runs `unlocker history`, which must find this many.
async fn run(site: &Site, arguments: &[&str], expected: usize) -> Run {
    let program = Program::new(env!("CARGO_BIN_EXE_unlocker"))
        .env("UNLOCKER__BROKER__URL", site.amqp_url())
        .args(["history", "--json"])
        .args(arguments);
    let begun = Instant::now();
    let process = program.start();
    let (mut peak_rss, mut cpu) = (0, Duration::ZERO);
    while process.try_exit().is_none() {
        assert!(begun.elapsed() < LIMIT, "{arguments:?} takes over {LIMIT:?}");
        // It may have ended, but is not reaped yet.
        peak_rss = process.peak_rss().max(peak_rss);
        cpu = process.cpu_time().max(cpu);
        tokio::time::sleep(LOOK).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let status = process.wait_exit(LIMIT).await;
    assert!(status.success(), "{arguments:?}: {status}: {}", process.stderr().join("\n"));
    assert_eq!(process.stdout().len(), expected, "{arguments:?}");
    Run { seconds, cpu: cpu.as_secs_f64(), peak_rss: peak_rss as f64 / 1024.0 / 1024.0 }
}

/// Seconds in which a stream of 200,000 outcomes must be read whole.
fn whole_bound(version: (u32, u32)) -> f64 {
    match version {
        (4, 2..) | (5.., _) => 10.0,
        (4, _) => 20.0,
        _ => 30.0,
    }
}

pub async fn all(report: &mut Report, options: &Options, site: &Site, filled: &Filled) {
    println!("\nunlocker history, {} outcomes, a process for each search", filled.outcomes);
    let whole = whole_bound(site.version());
    let one = if site.version() >= FILTERS_FROM { 3.0 } else { whole };
    let customer = (filled.customers() / 2 + 1).to_string();
    let recent = (filled.last_hour_from % filled.customers()).to_string();
    let since = filled.last_hour.to_string();
    let request = number(filled.outcomes / 3);
    let of_last_hour = filled.outcomes - filled.last_hour_from;
    let searches: [(&str, &[&str], usize, f64); 5] = [
        ("one identifier", &["--customer-id", &customer], OUTCOMES_EACH, one),
        ("an identifier that has none", &["--customer-id", "nobody"], 0, one),
        ("the whole stream (a request id)", &["--request-id", &request], 1, whole),
        ("since an hour", &["--since", &since], LIMIT_OF_OUTCOMES.min(of_last_hour), 1.0),
        ("one identifier, since an hour", &["--customer-id", &recent, "--since", &since], 1, 1.0),
    ];
    for (name, arguments, expected, bound) in searches {
        let mut runs = Vec::new();
        for _run in 0..options.runs {
            runs.push(run(site, arguments, expected).await);
        }
        let of = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(value));
        let (seconds, rss) = (of(|run| run.seconds), of(|run| run.peak_rss));
        report.figure(name, "s", seconds);
        report.figure(&format!("{name}: CPU"), "s", of(|run| run.cpu));
        report.figure(&format!("{name}: peak RSS"), "MiB", rss);
        report.bounds.at_most(format!("{name}, s"), seconds.median, bound);
        report.bounds.at_most(format!("{name}: peak RSS, MiB"), rss.most, MAX_RSS_MIB);
    }
}
