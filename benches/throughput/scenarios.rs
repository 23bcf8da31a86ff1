//! The scenarios and their bounds.

use std::process::ExitCode;
use std::time::Duration;

use crate::api::Api;
use crate::arguments::{Behaviour, Options};
use crate::collector::Collector;
use crate::figures::Spread;
use crate::latency::{self, Latency};
use crate::machine;
use crate::memory::Memory;
use crate::report::{Contest, Report};
use crate::run::{Contender, turn};
use crate::site::{Kind, Queues, Site};

const OTLP: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The time of an answer of a delayed API.
const LATENCY: Duration = Duration::from_millis(50);
/// With a delayed API and the default concurrency, they take some eight seconds.
const DELAYED_REQUESTS: usize = 64 * 160;

/// Runs the chosen scenarios; the exit code says whether every bound was met.
pub async fn all(options: &Options) -> ExitCode {
    let site = Site::start().await;
    let instant = Api::start(Behaviour::default()).await;
    let api_capacity = instant.capacity().await;
    let mut report = Report {
        machine: machine::description(),
        broker: site.description(),
        api_capacity,
        ..Report::default()
    };
    println!("{}\n{}", report.machine, report.broker);
    println!("the stand-in for Trackfinity answers {api_capacity:.0} calls a second by itself");
    let quorum = site.queues(Kind::Quorum).await;
    let bench = Bench { options, quorum, instant };

    if options.wants("quorum") {
        bench.against_bare(&mut report, &bench.quorum).await;
    }
    if options.wants("classic") {
        bench.against_bare(&mut report, &site.queues(Kind::Classic).await).await;
    }
    if options.wants("tls") {
        bench.tls(&mut report).await;
    }
    if options.wants("delayed") {
        bench.delayed(&mut report).await;
    }
    if options.wants("failing") {
        bench.failing(&mut report).await;
    }
    if options.wants("telemetry") {
        bench.telemetry(&mut report).await;
    }
    if options.wants("logs") {
        bench.logs(&mut report).await;
    }
    if options.wants("history") {
        bench.history(&mut report, &site.queues(Kind::History).await).await;
    }
    if options.wants("memory") {
        bench.memory(&mut report).await;
    }
    if options.wants("workers") {
        bench.workers(&mut report).await;
    }
    if options.wants("latency") {
        bench.latency(&mut report).await;
    }
    if options.wants("idle") {
        bench.idle(&mut report).await;
    }
    if options.wants("backlog") {
        bench.backlog(&mut report).await;
    }

    let fastest = report.contests.iter().flat_map(|contest| &contest.entries).map(|entry| entry.rate.most);
    if let Some(fastest) = fastest.max_by(f64::total_cmp) {
        report.bounds.at_least(
            "the stand-in's own rate over the fastest contender's",
            api_capacity / fastest,
            2.0,
        );
    }
    let met = report.bounds.conclude();
    match machine::write("throughput.json", &report) {
        Ok(path) => println!("\nwritten to {}", path.display()),
        Err(error) => eprintln!("the report could not be written: {error}"),
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Bench<'a> {
    options: &'a Options,
    quorum: Queues,
    instant: Api,
}

impl Bench<'_> {
    /// Turns of each contender, round by round.
    async fn contest(
        &self,
        scenario: &str,
        contenders: &[Contender],
        queues: &Queues,
        api: &Api,
        count: usize,
    ) -> Contest {
        let mut rounds = Vec::new();
        for _round in 0..self.options.pairs {
            let mut round = Vec::new();
            for contender in contenders {
                round.push(turn(contender, queues, api, count, count).await);
            }
            rounds.push(round);
        }
        let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
        Contest::new(scenario, &names, &rounds)
    }

    async fn against_bare(&self, report: &mut Report, queues: &Queues) {
        let kind = queues.kind.name();
        let least = if queues.kind == Kind::Classic { 0.97 } else { 1.0 };
        self.race(report, &format!("{kind} queues"), queues, &self.instant, least).await;
    }

    /// As Trackfinity is called in production.
    async fn tls(&self, report: &mut Report) {
        let api = Api::start_tls().await;
        self.race(report, "tls, quorum queues", &self.quorum, &api, 1.0).await;
    }

    /// The unlocker against the bare loop, and the bounds of it.
    async fn race(&self, report: &mut Report, scenario: &str, queues: &Queues, api: &Api, least: f64) {
        let contenders = [Contender::bare(), Contender::unlocker()];
        let contest = self.contest(scenario, &contenders, queues, api, self.options.requests).await;
        let unlocker = contest.entry("unlocker");
        report.bounds.at_least(format!("{scenario}: rate over bare's"), unlocker.rate_ratio.median, least);
        report.bounds.at_most(format!("{scenario}: CPU over bare's"), unlocker.cpu_ratio.median, 0.95);
        report.bounds.at_most(format!("{scenario}: peak RSS, MiB"), unlocker.rss.most, 30.0);
        report.contests.push(contest);
    }

    /// What is resident at the end of a turn, by part.
    async fn memory(&self, report: &mut Report) {
        for contender in [Contender::bare(), Contender::unlocker()] {
            let count = self.options.requests;
            let turn = turn(&contender, &self.quorum, &self.instant, count, count).await;
            let Memory { program, variables, libraries, allocated } = turn.memory;
            let parts = [
                ("peak", turn.rss),
                ("code and constants", program),
                ("changed variables", variables),
                ("libraries", libraries),
                ("allocated, and stacks", allocated),
            ];
            for (part, mib) in parts {
                report.figure("memory", &format!("{}, {part}", contender.name), "MiB", Spread::of([mib]));
            }
        }
    }

    async fn delayed(&self, report: &mut Report) {
        let api = Api::start(Behaviour { latency: LATENCY, ..Behaviour::default() }).await;
        let latency = api.latency().await;
        println!("\nthe stand-in for Trackfinity answers after {latency:.2?}");
        for concurrency in [64, 512] {
            let contenders = [Contender::bare(), Contender::unlocker()].map(|c| c.concurrency(concurrency));
            let scenario = format!("delayed by 50 ms, concurrency {concurrency}");
            let count = self.options.requests.min(usize::from(concurrency) * 160);
            let contest = self.contest(&scenario, &contenders, &self.quorum, &api, count).await;
            let unlocker = contest.entry("unlocker");
            if concurrency == 64 {
                let ideal = f64::from(concurrency) / LATENCY.as_secs_f64();
                report.bounds.at_least(
                    format!("{scenario}: rate over the ideal"),
                    unlocker.rate.median / ideal,
                    0.95,
                );
            }
            report.contests.push(contest);
        }
    }

    /// A failed request waits for at least a second, so only the others are counted.
    async fn failing(&self, report: &mut Report) {
        let api = Api::start(Behaviour { fail_one_in: 10, ..Behaviour::default() }).await;
        let count = self.options.requests;
        let healthy = (count, count * 85 / 100);
        let mut rounds = Vec::new();
        for _round in 0..self.options.pairs {
            let unlocker = Contender::unlocker();
            rounds.push(vec![
                turn(&unlocker, &self.quorum, &self.instant, count, count).await,
                turn(&unlocker, &self.quorum, &api, healthy.0, healthy.1).await,
            ]);
        }
        let contest =
            Contest::new("failing: a tenth answered 503", &["none fails", "a tenth fails"], &rounds);
        let ratio = contest.entry("a tenth fails").rate_ratio.median;
        // The bound is on all handled requests: a tenth of them is retried and has no outcome yet.
        report.bounds.at_least("failing: requests/s, over those without failures", ratio / 0.9, 0.9);
        report.contests.push(contest);
    }

    async fn telemetry(&self, report: &mut Report) {
        let (taking, hung) = (Collector::taking().await, Collector::hung());
        let contenders = [
            Contender::bare(),
            Contender::unlocker(),
            Contender::unlocker().named("every request traced").env(OTLP, taking.url()),
            Contender::unlocker().named("collector hangs").env(OTLP, hung.url()),
        ];
        let count = self.options.requests;
        let contest = self.contest("telemetry", &contenders, &self.quorum, &self.instant, count).await;
        let traced = contest.entry("every request traced").cpu_ratio.median;
        report.bounds.at_most("telemetry: CPU with every request traced, over bare's", traced, 1.75);
        let (hanging, off) = (contest.entry("collector hangs"), contest.entry("unlocker"));
        report.bounds.at_least(
            "telemetry: rate, collector hangs over off",
            hanging.rate.median / off.rate.median,
            0.85,
        );
        report.contests.push(contest);
    }

    /// A line for each request, for those that fail, and none at all.
    async fn logs(&self, report: &mut Report) {
        const REQUESTS: &str = "UNLOCKER__LOG__REQUESTS";
        let contenders = [
            Contender::bare(),
            Contender::unlocker().named("log.requests = all").env(REQUESTS, "all"),
            Contender::unlocker().named("log.requests = failures").env(REQUESTS, "failures"),
            Contender::unlocker().named("RUST_LOG = warn").env("RUST_LOG", "warn"),
        ];
        let count = self.options.requests;
        let contest = self.contest("logs", &contenders, &self.quorum, &self.instant, count).await;
        let (all, off) = (contest.entry("log.requests = all"), contest.entry("RUST_LOG = warn"));
        report.bounds.at_most(
            "logs: CPU with a line for each request, over none",
            all.cpu.median / off.cpu.median,
            1.1,
        );
        report.contests.push(contest);
    }

    /// Every outcome is also kept in the stream. With an instant API the processors are the limit, which RabbitMQ and the
    /// worker share here; with a delayed one the API is.
    async fn history(&self, report: &mut Report, kept: &Queues) {
        let delayed = Api::start(Behaviour { latency: LATENCY, ..Behaviour::default() }).await;
        let count = self.options.requests;
        let scenarios = [
            ("history", &self.instant, count),
            ("history, delayed by 50 ms", &delayed, count.min(DELAYED_REQUESTS)),
        ];
        let off = Contender::unlocker();
        let on = off.clone().env("UNLOCKER__HISTORY__ENABLED", "true");
        let mut all = 0;
        for (scenario, api, count) in scenarios {
            let mut rounds = Vec::new();
            for _round in 0..self.options.pairs {
                rounds.push(vec![
                    turn(&off, &self.quorum, api, count, count).await,
                    turn(&on, kept, api, count, count).await,
                ]);
            }
            all += count * self.options.pairs;
            let contest = Contest::new(scenario, &["off", "on"], &rounds);
            let ratio = contest.entry("on").rate_ratio.median;
            report.bounds.at_least(format!("{scenario}: rate, on over off"), ratio, 0.9);
            report.contests.push(contest);
        }
        let has_all = async || match kept.kept().await {
            entries if entries >= all => Ok(()),
            entries => Err(format!("{entries} of {all} outcomes are in the stream")),
        };
        kit::eventually("every outcome is in the stream", Duration::from_secs(20), has_all).await;
    }

    async fn workers(&self, report: &mut Report) {
        let contenders = [
            Contender::unlocker().named("1 worker"),
            Contender::unlocker().named("2 workers").processes(2),
            Contender::unlocker().named("4 workers").processes(4),
        ];
        let count = self.options.requests;
        let contest = self.contest("workers", &contenders, &self.quorum, &self.instant, count).await;
        report.contests.push(contest);
    }

    async fn latency(&self, report: &mut Report) {
        let api = Api::start(Behaviour { latency: Duration::from_millis(5), ..Behaviour::default() }).await;
        let contenders = [Contender::bare(), Contender::unlocker()];
        let mut rounds: Vec<[Latency; 2]> = Vec::new();
        for _round in 0..self.options.pairs {
            let mut round = Vec::new();
            for contender in &contenders {
                round.push(latency::measure(contender, &self.quorum, &api).await);
            }
            rounds.push([round[0], round[1]]);
        }
        for (index, contender) in contenders.iter().enumerate() {
            for (name, figure) in
                [("p50", (|l| l.p50) as fn(&Latency) -> f64), ("p99", (|l| l.p99) as fn(&Latency) -> f64)]
            {
                let spread = Spread::of(rounds.iter().map(|round| figure(&round[index])));
                let name = format!("{} {name}", contender.name);
                report.figure("latency at 200/s, API 5 ms", &name, "ms", spread);
            }
        }
        let ratio = Spread::of(rounds.iter().map(|[bare, unlocker]| unlocker.p99 / bare.p99));
        report.bounds.at_most("latency: p99 over bare's", ratio.median, 1.3);
    }

    async fn idle(&self, report: &mut Report) {
        let unlocker = Contender::unlocker();
        let mut firsts = Vec::new();
        for _turn in 0..self.options.pairs {
            let first = latency::first_outcome(&unlocker, &self.quorum, &self.instant).await;
            firsts.push(first.as_secs_f64() * 1000.0);
        }
        let firsts = Spread::of(firsts);
        report.figure("start", "to the first outcome", "ms", firsts);
        report.bounds.at_most("start to first outcome, ms", firsts.median, 150.0);
        let share = latency::idle_cpu(&unlocker, &self.quorum, &self.instant).await * 100.0;
        report.figure("idle", "CPU", "%", Spread::of([share]));
        report.bounds.at_most("idle CPU, %", share, 0.2);
    }

    /// Checks that memory does not grow with the backlog.
    async fn backlog(&self, report: &mut Report) {
        let count = self.options.backlog;
        let turn = turn(&Contender::unlocker(), &self.quorum, &self.instant, count, count).await;
        let contest = Contest::new(&format!("backlog of {count}"), &["unlocker"], &[vec![turn]]);
        report.bounds.at_most("backlog: peak RSS, MiB", contest.entries[0].rss.most, 30.0);
        report.contests.push(contest);
        self.quorum.purge().await;
    }
}
