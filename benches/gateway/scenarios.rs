//! The scenarios and their bounds.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use crate::arguments::Options;
use crate::client::{self, Client, Latency};
use crate::contender::{Contender, Running};
use crate::figures::Spread;
use crate::machine::{self, Ticks};
use crate::report::Report;
use crate::site::Site;
use crate::wrk::{self, Load};

/// As many as the gateway allows.
const MOST_CONNECTIONS: usize = 512;
const CONNECTIONS: usize = 64;
/// How many requests each of the most connections sends.
const REQUESTS_EACH: usize = 20;
/// How often memory is read, and the queue is emptied, while a steady load lasts.
const LOOK: Duration = Duration::from_secs(5);
const COUNT_TIMEOUT: Duration = Duration::from_secs(20);
/// What allocators keep varies by this much, in MiB.
const TOLERANCE: f64 = 2.0;

/// Runs the chosen scenarios; the exit code says whether every bound was met.
pub async fn all(options: &Options) -> ExitCode {
    let site = Site::start().await;
    let mut report =
        Report { machine: machine::description(), broker: site.description(), ..Report::default() };
    println!("{}\n{}", report.machine, report.broker);
    if options.wants("rate") {
        rate(&mut report, options, &site).await;
    }
    if options.wants("latency") {
        latency(&mut report, options, &site).await;
    }
    if options.wants("connections") {
        connections(&mut report, &site).await;
    }
    if options.wants("steady") {
        steady(&mut report, options, &site).await;
    }
    let met = report.bounds.conclude();
    match machine::write("gateway.json", &report) {
        Ok(path) => println!("\nwritten to {}", path.display()),
        Err(error) => eprintln!("the report could not be written: {error}"),
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The results of one turn.
struct Turn {
    load: Load,
    /// Processor time of the contender, user and system, in µs for each request.
    cpu: f64,
    broker_cpu: Option<f64>,
    /// The share of all processors in use, by all processes: near one, they are the limit.
    busy: f64,
    /// MiB.
    peak_rss: f64,
}

async fn turn(contender: Contender, options: &Options, site: &Site) -> Turn {
    site.purge().await;
    let running = contender.start(site).await;
    // Opens the channels and fills the caches.
    let warm_up = wrk::run(&running.address, CONNECTIONS, 1, 0).await.assert_clean();
    let before = (running.process.cpu_time(), site.broker_cpu(), Ticks::now());
    let load = wrk::run(&running.address, CONNECTIONS, options.seconds, 0).await.assert_clean();
    let after = (running.process.cpu_time(), site.broker_cpu(), Ticks::now());
    let answered = warm_up.requests + load.requests;
    // RabbitMQ says zero while it is too busy to count.
    kit::eventually("all answered requests are in the queue", COUNT_TIMEOUT, async || {
        match site.waiting().await {
            published if published >= answered => Ok(()),
            published => Err(format!("{published} in the queue, {answered} answered")),
        }
    })
    .await;
    let peak_rss = running.peak_rss();
    running.end().await;
    let each =
        |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / load.requests as f64;
    Turn {
        load,
        cpu: each(before.0, after.0),
        broker_cpu: before.1.zip(after.1).map(|(before, after)| each(before, after)),
        busy: after.2.busy_since(&before.2),
        peak_rss,
    }
}

/// 64 connections, each as fast as it is answered.
async fn rate(report: &mut Report, options: &Options, site: &Site) {
    println!("\n{CONNECTIONS} connections, {} s each", options.seconds);
    let mut rounds = Vec::new();
    for _round in 0..options.pairs {
        let [bare, gateway] = Contender::BOTH;
        rounds.push([turn(bare, options, site).await, turn(gateway, options, site).await]);
    }
    let rate = report.compare(&rounds, "requests/s", "", |turn| turn.load.rate());
    let cpu = report.compare(&rounds, "CPU of a request", "µs", |turn| turn.cpu);
    report.compare(&rounds, "p50", "ms", |turn| turn.load.p50);
    report.compare(&rounds, "p99", "ms", |turn| turn.load.p99);
    report.compare(&rounds, "peak RSS", "MiB", |turn| turn.peak_rss);
    if Spread::of_some(rounds.iter().flatten().map(|turn| turn.broker_cpu)).is_some() {
        report.compare(&rounds, "CPU of the broker", "µs", |turn| turn.broker_cpu.unwrap_or_default());
    }
    report.compare(&rounds, "processors in use", "", |turn| turn.busy);
    let own = Spread::of(rounds.iter().map(|[_, gateway]| gateway.load.rate()));
    report.bounds.at_least("requests/s over bare's", rate, 0.9);
    report.bounds.at_least("requests/s", own.median, 3000.0);
    report.bounds.at_most("CPU over bare's", cpu, 1.3);
}

/// 200 requests per second.
async fn latency(report: &mut Report, options: &Options, site: &Site) {
    println!("\n200 requests/s");
    let mut rounds: Vec<[Latency; 2]> = Vec::new();
    for _round in 0..options.pairs {
        let mut round = Vec::new();
        for contender in Contender::BOTH {
            site.purge().await;
            let running = contender.start(site).await;
            round.push(client::latency(&running.address).await);
            running.end().await;
        }
        rounds.push([round[0], round[1]]);
    }
    report.compare(&rounds, "p50 at 200/s", "ms", |latency| latency.p50);
    let p99 = report.compare(&rounds, "p99 at 200/s", "ms", |latency| latency.p99);
    report.bounds.at_most("p99 at 200/s over bare's", p99, 1.3);
}

/// The memory that as many connections as possible take, after each has sent requests.
async fn connections(report: &mut Report, site: &Site) {
    println!("\n{MOST_CONNECTIONS} connections, each has sent {REQUESTS_EACH} requests");
    for contender in Contender::BOTH {
        site.purge().await;
        let running = contender.start(site).await;
        let idle = running.rss();
        let clients: Vec<_> = (0..MOST_CONNECTIONS)
            .map(|_| {
                let address = running.address.clone();
                tokio::spawn(async move {
                    let mut client = Client::connect(&address).await;
                    for _request in 0..REQUESTS_EACH {
                        client.unlock().await;
                    }
                    client
                })
            })
            .collect();
        let mut open = Vec::new();
        for client in clients {
            open.push(client.await.expect("no panic"));
        }
        let (rss, peak) = (running.rss(), running.peak_rss());
        // Had any been closed, this would fail.
        for client in &mut open {
            client.unlock().await;
        }
        running.end().await;
        let one = |value| Spread::of([value]);
        report.figure(contender, "RSS before", "MiB", one(idle));
        report.figure(contender, "RSS, all open", "MiB", one(rss));
        report.figure(contender, "peak RSS", "MiB", one(peak));
        if contender == Contender::Gateway {
            report.bounds.at_most(format!("peak RSS with {MOST_CONNECTIONS} connections, MiB"), peak, 30.0);
        }
    }
}

/// Half of the full rate for a long time: no error, and nothing grows.
async fn steady(report: &mut Report, options: &Options, site: &Site) {
    site.purge().await;
    let running = Contender::Gateway.start(site).await;
    let idle_descriptors = running.descriptors();
    let full = wrk::run(&running.address, CONNECTIONS, options.seconds, 0).await.assert_clean();
    // Each connection sends a request every so often. An answer at half of the rate takes half of the time, about.
    let cycle_ms = CONNECTIONS as f64 * 1000.0 / (full.rate() / 2.0);
    let pause_ms = (cycle_ms - full.p50 / 2.0).round().max(1.0) as usize;
    let mut published = site.purge().await;
    println!("\nhalf of {:.0} requests/s for {} s", full.rate(), options.steady);
    let mut samples = Vec::new();
    let load = {
        let load = wrk::run(&running.address, CONNECTIONS, options.steady, pause_ms);
        tokio::pin!(load);
        let mut ticks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        loop {
            tokio::select! {
                load = &mut load => break load,
                _ = ticks.tick() => {
                    samples.push((running.rss(), running.descriptors()));
                    published += site.purge().await;
                }
            }
        }
    };
    published += site.purge().await;
    assert!(published >= full.requests + load.requests, "{published} published, {load:?}");
    steady_bounds(report, &running, load, full, &samples);
    let closed = async || match running.descriptors() {
        count if count <= idle_descriptors => Ok(()),
        count => Err(count),
    };
    kit::eventually("connections are closed", Duration::from_secs(15), closed).await;
    running.end().await;
}

fn steady_bounds(report: &mut Report, running: &Running, load: Load, full: Load, samples: &[(f64, usize)]) {
    let third = samples.len() / 3;
    assert!(third > 0, "a steady load lasts at least {:?}", LOOK * 3);
    let rss = |samples: &[(f64, usize)]| Spread::of(samples.iter().map(|(rss, _)| *rss));
    let (first, last) = (rss(&samples[..third]), rss(&samples[samples.len() - third..]));
    let descriptors = Spread::of(samples.iter().map(|(_, descriptors)| *descriptors as f64));
    let gateway = Contender::Gateway;
    report.figure(gateway, "full rate", "/s", Spread::of([full.rate()]));
    report.figure(gateway, "steady rate", "/s", Spread::of([load.rate()]));
    report.figure(gateway, "requests", "", Spread::of([load.requests as f64]));
    report.figure(gateway, "p99", "ms", Spread::of([load.p99]));
    report.figure(gateway, "RSS in the first third", "MiB", first);
    report.figure(gateway, "RSS in the last third", "MiB", last);
    report.figure(gateway, "peak RSS", "MiB", Spread::of([running.peak_rss()]));
    report.figure(gateway, "file descriptors", "", descriptors);
    report.bounds.at_most("steady: answers other than 2xx", load.wrong_answers as f64, 0.0);
    report.bounds.at_most("steady: failed connections, reads and writes", load.errors as f64, 0.0);
    report.bounds.at_most("steady: answers over 2 s", load.slow as f64, 0.0);
    report.bounds.at_most("steady: growth of RSS, MiB", last.most - first.most, TOLERANCE);
    report.bounds.at_most("steady: growth of file descriptors", descriptors.most - descriptors.least, 1.0);
}
