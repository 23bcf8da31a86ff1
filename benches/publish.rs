//! `make bench-publish`: how fast `unlocker publish --from` publishes, against a bare loop that does the same with
//! lapin alone, by turns on one private broker, and whether its memory stays flat.
//!
//! Exits with 1 if a request is missing, if the ratio is below 0.8 and the rate below 5,000/s, or if memory grows.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use kit::{Amqp, NodeOptions, Program, Properties, RabbitNode, Signal};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueuePurgeOptions};
use lapin::{Channel, Confirmation};
use tokio::time::Instant;

const EXCHANGE: &str = "trackfinity.unlock";
const REQUESTS: &str = "trackfinity.unlock.requests";
/// As many as `unlocker publish --from` has in flight.
const WINDOW: usize = 1000;
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    // Cargo adds a `--bench` of its own.
    let numbers = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let arguments: Vec<usize> = numbers.map(|argument| argument.parse().unwrap_or(0)).collect();
    let &[count @ 1..=usize::MAX, rounds @ 1..=usize::MAX] = &arguments[..] else {
        eprintln!("usage: bench-publish REQUESTS ROUNDS");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench(count, rounds))
}

async fn bench(count: usize, rounds: usize) -> ExitCode {
    let broker = RabbitNode::start_own(NodeOptions::default()).await;
    println!("{}; {count} requests a round, {WINDOW} in flight", broker.description());
    let url = broker.amqp_url("/");
    declare(&url).await;
    let file = Lines::write(count);
    let (mut bare, mut bulk) = (Vec::new(), Vec::new());
    let mut faults = Vec::new();
    for round in 1..=rounds {
        for turn in [false, true] {
            let rate = if turn {
                let run = publish(&url, &file.0).await;
                faults.extend(run.fault(count));
                println!(
                    "round {round}: unlocker publish --from  {:>6.0}/s, {:.1} µs CPU a request, at most {:.1} MiB in its \
                     first quarter, {:.1} MiB in all",
                    count as f64 / run.took.as_secs_f64(),
                    run.cpu.as_secs_f64() * 1e6 / count as f64,
                    mib(run.early),
                    mib(run.peak),
                );
                count as f64 / run.took.as_secs_f64()
            } else {
                let took = bare_loop(&url, count).await;
                println!(
                    "round {round}: bare confirm loop        {:>6.0}/s",
                    count as f64 / took.as_secs_f64()
                );
                count as f64 / took.as_secs_f64()
            };
            if turn {
                bulk.push(rate)
            } else {
                bare.push(rate)
            }
            faults.extend(empty(&url, count).await);
        }
    }
    let (bare, bulk) = (median(bare), median(bulk));
    println!("median: {bulk:.0}/s against {bare:.0}/s, ratio {:.2}", bulk / bare);
    if bulk / bare < 0.8 && bulk < 5000.0 {
        faults.push("too slow".to_owned());
    }
    for fault in &faults {
        println!("FAILED: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn unlocker(url: &str) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker")).env("UNLOCKER__BROKER__URL", url)
}

/// Lets a worker declare the topology, and stops it.
async fn declare(url: &str) {
    let worker = unlocker(url)
        .arg("run")
        .env("UNLOCKER__OPS__LISTEN", "")
        .env("UNLOCKER__TRACKFINITY__BASE_URL", "http://127.0.0.1:1")
        .env("UNLOCKER__TRACKFINITY__API_KEY", "k")
        .env("UNLOCKER__TRACKFINITY__API_USERNAME", "u")
        .start();
    worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), LIMIT).await;
    worker.signal(Signal::TERM);
    worker.wait_exit(LIMIT).await;
}

fn body(number: usize) -> String {
    format!(r#"{{"customer_id":"{number}","message_id":"m-{number}"}}"#)
}

/// The bare loop: persistent, mandatory, confirmed, and nothing else.
async fn bare_loop(url: &str, count: usize) -> Duration {
    let amqp = Amqp::connect(url).await;
    let channel = amqp.channel().await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let bodies: Vec<String> = (1..=count).map(body).collect();
    let begun = Instant::now();
    let publishes = bodies.iter().enumerate().map(|(number, body)| publish_one(&channel, number + 1, body));
    let mut confirms = stream::iter(publishes).buffered(WINDOW);
    while let Some(confirmed) = confirms.next().await {
        assert!(confirmed, "not confirmed");
    }
    let took = begun.elapsed();
    drop(confirms);
    amqp.close().await;
    took
}

async fn publish_one(channel: &Channel, number: usize, body: &str) -> bool {
    let properties = Properties::default()
        .with_message_id(format!("m-{number}").into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let publish =
        channel.basic_publish(EXCHANGE.into(), "request".into(), options, body.as_bytes(), properties);
    let confirm = publish.await.expect("published").await;
    matches!(confirm.expect("confirmed"), Confirmation::Ack(None))
}

/// One run of `unlocker publish --from`, including the connection.
struct Run {
    took: Duration,
    cpu: Duration,
    /// Resident bytes at most, while the first quarter of the time ran, and in all.
    early: u64,
    peak: u64,
    said: String,
}

async fn publish(url: &str, file: &Path) -> Run {
    let begun = Instant::now();
    let process = unlocker(url).args(["publish", "--from"]).arg(file).start();
    let mut looks: Vec<(Duration, u64)> = Vec::new();
    let mut cpu = Duration::ZERO;
    while process.try_exit().is_none() {
        assert!(begun.elapsed() < LIMIT, "not over within {LIMIT:?}");
        // The process has ended but is not reaped yet, so its totals can still be read.
        looks.push((begun.elapsed(), process.rss()));
        cpu = process.cpu_time();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begun.elapsed();
    process.wait_exit(LIMIT).await;
    let peak = |until: Duration| {
        looks.iter().filter(|(at, _)| *at <= until).map(|(_, rss)| *rss).max().unwrap_or_default()
    };
    Run { took, cpu, early: peak(took / 4), peak: peak(took), said: process.stdout().join("\n") }
}

impl Run {
    fn fault(&self, count: usize) -> Option<String> {
        if !self.said.starts_with(&format!("published {count} of {count} requests in ")) {
            return Some(format!("it said: {}", self.said));
        }
        // What the allocators keep varies by a few MiB.
        let most = self.early + 8 * 1024 * 1024;
        (self.peak > most)
            .then(|| format!("memory grew from {:.1} to {:.1} MiB", mib(self.early), mib(self.peak)))
    }
}

/// Empties the queue; an error if it had another number of messages.
async fn empty(url: &str, count: usize) -> Option<String> {
    let amqp = Amqp::connect(url).await;
    let channel = amqp.channel().await;
    let held =
        channel.queue_purge(REQUESTS.into(), QueuePurgeOptions::default()).await.expect("purged") as usize;
    // A channel that is only dropped may still be closing when its connection closes, which lapin reports as an error.
    channel.close(200, "done".into()).await.expect("closed");
    amqp.close().await;
    (held != count).then(|| format!("the queue held {held} of {count}"))
}

/// A file of requests, removed in the end.
struct Lines(PathBuf);

impl Lines {
    fn write(count: usize) -> Self {
        let mut text = String::new();
        for number in 1..=count {
            writeln!(text, "{}", body(number)).expect("a line");
        }
        let path = std::env::temp_dir().join(format!("bench-publish-{}.jsonl", std::process::id()));
        std::fs::write(&path, text).expect("the file is written");
        Self(path)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
