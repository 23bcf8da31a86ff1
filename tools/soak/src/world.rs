//! The whole run: everything is started, hurt, healed, and accounted for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use kit::{Amqp, Otlp, TcpCutter};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::audience::Audience;
use crate::bad_ids::BadIds;
use crate::broker::Broker;
use crate::chaos::Chaos;
use crate::console::ConsoleClient;
use crate::crew::Crew;
use crate::flat::Flat;
use crate::gateway::GatewayClient;
use crate::install::Install;
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::options::Options;
use crate::publisher::Publisher;
use crate::recorder::Recorder;
use crate::{history, waiting};

/// How often it says how far it is, and looks after the processes.
const STATUS_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Without progress for so long, what is not final never will be.
const STUCK_AFTER: Duration = Duration::from_secs(45);
const FINAL_WITHIN: Duration = Duration::from_secs(90);
/// Requests per second that a catching-up worker sees through at the least.
const CATCHES_UP_AT: u64 = 50;
/// Nothing may come after nothing has come for so long: longer than the longest tier in use.
const STILL_FOR: Duration = Duration::from_secs(5);

pub struct World {
    options: Options,
    broker: Broker,
    install: Install,
    crew: Crew,
    /// Of traces and metrics, and the line to it.
    collector: (Otlp, TcpCutter),
    recorder: Arc<Recorder>,
    journal: Arc<Journal>,
    flat: Flat,
    interrupted: CancellationToken,
}

/// What sends and what listens.
struct Traffic {
    publisher: Publisher,
    gateway: GatewayClient,
    bad_ids: BadIds,
    audience: Audience,
}

impl World {
    pub async fn start(options: Options, interrupted: CancellationToken) -> Self {
        let broker = Broker::start(options.nodes).await;
        let directory = directory(options.seed);
        println!("soak: logs of the processes in {}", directory.display());
        let (recorder, journal) = (Arc::<Recorder>::default(), Arc::new(Journal::new()));
        let install = Install::start(options.seed, recorder.clone()).await;
        let collector = Otlp::start();
        collector.record(false);
        let line = TcpCutter::start(collector.url().trim_start_matches("http://")).await;
        let collector_url = format!("http://{}", line.address());
        let crew = Crew::new(&broker, &install, collector_url, &directory, &options, journal.clone()).await;
        let (collector, flat) = ((collector, line), Flat::default());
        Self { options, broker, install, crew, collector, recorder, journal, flat, interrupted }
    }

    /// True if everything is as it should be.
    pub async fn run(&mut self) -> bool {
        self.crew.start_all().await;
        let mut traffic = self.start_traffic().await;
        let begun = Instant::now();

        self.hurt(&traffic).await;
        self.install.heal();
        let ran = begun.elapsed();
        self.journal.say("all faults are healed");
        let healed = Instant::now();
        traffic
            .publisher
            .finish(if self.interrupted.is_cancelled() { STILL_FOR } else { FINAL_WITHIN })
            .await;
        let amqp = Amqp::connect(&self.broker.urls()[0]).await;
        self.wait_until_final(&traffic, &amqp).await;
        let settled_in = healed.elapsed();
        traffic.gateway.finish(FINAL_WITHIN).await;

        for slot in self.crew.workers() {
            self.crew.stop(slot).await;
        }
        self.hear_the_rest(&amqp, &mut traffic.audience).await;
        let urls = self.broker.urls().join(",");
        let waiting = waiting::take(&amqp, &self.recorder).await;
        let dead_letters = waiting::record_dead_letters(&urls, &self.recorder, &self.journal).await;
        if self.options.history {
            history::record(&urls, &self.recorder, &self.journal).await;
        }
        self.console().counts(dead_letters).await;
        for slot in &self.crew.slots {
            self.crew.stop(slot).await;
        }
        let grown = self.flat.print();
        if !self.options.faults {
            grown.into_iter().for_each(|grown| self.journal.complain(grown));
        }
        let heard = traffic.audience.healthy.heard();
        let ledger = Ledger {
            seed: self.options.seed,
            histories: self.recorder.take(),
            has_history: self.options.history,
            strange: heard.strange.clone(),
            delivered_again: heard.delivered_again,
            missed: traffic.audience.missed(&heard.requests),
            waiting,
            faults: self.journal.faults(),
            complaints: self.journal.complaints(),
            install: &self.install,
            ran,
            settled_in,
            interrupted: self.interrupted.is_cancelled(),
        };
        ledger.print()
    }

    async fn start_traffic(&self) -> Traffic {
        let urls: Vec<_> = self.broker.urls().iter().map(|url| format!("{url}?heartbeat=5")).collect();
        let Options { seed, rate, history, .. } = self.options;
        let recorder = || self.recorder.clone();
        let audience = Audience::start(&urls, &self.recorder).await;
        let address = &self.crew.gateway().address;
        let gateway = GatewayClient::start(address, seed, history, recorder(), self.journal.clone());
        let bad_ids = BadIds::new(urls.clone(), seed, recorder());
        let publisher = Publisher::start(urls, seed, rate, recorder(), gateway.numbers());
        Traffic { publisher, gateway, bad_ids, audience }
    }

    fn console(&self) -> ConsoleClient {
        ConsoleClient::new(&self.crew.console().address, self.options.history, self.journal.clone())
    }

    /// Faults, for as long as asked.
    async fn hurt(&self, traffic: &Traffic) {
        let stop = CancellationToken::new();
        let chaos = Chaos {
            broker: &self.broker,
            install: &self.install,
            crew: &self.crew,
            collector: &self.collector.1,
            audience: &traffic.audience,
            bad_ids: &traffic.bad_ids,
            journal: &self.journal,
            stop: &stop,
        };
        let end = async {
            tokio::select! {
                () = sleep(self.options.run_for) => {}
                () = self.interrupted.cancelled() => {}
            }
            stop.cancel();
        };
        let mut rng = Rng::with_seed(self.options.seed);
        if rng.bool() || !self.options.faults {
            self.crew.start(&self.crew.slots[1]);
        }
        let faults = async {
            if self.options.faults {
                chaos.run(rng).await;
            } else {
                stop.cancelled().await;
            }
        };
        let console = self.console();
        tokio::select! {
            _ = async { tokio::join!(faults, end) } => {}
            () = self.watch() => {}
            () = console.ask() => {}
            () = self.flat.measure(&self.crew) => {}
        }
    }

    /// Looks after the processes and says how far it is, for ever.
    async fn watch(&self) {
        let mut said = Instant::now();
        loop {
            sleep(LOOK_EVERY).await;
            self.crew.look_after().await;
            if said.elapsed() >= STATUS_EVERY {
                said = Instant::now();
                self.say_how_far();
            }
        }
    }

    fn say_how_far(&self) {
        let (accepted, finished) = (self.recorder.accepted(), self.recorder.finished());
        self.journal.say(&format!("  {accepted} accepted, {finished} finished"));
    }

    /// Until every request has its outcome, and no copy of one is anywhere.
    async fn wait_until_final(&self, traffic: &Traffic, amqp: &Amqp) {
        let backlog = self.recorder.open() as u64;
        let until = Instant::now() + FINAL_WITHIN + Duration::from_secs(backlog / CATCHES_UP_AT);
        let mut last = (0, 0);
        let (mut progress_at, mut said) = (Instant::now(), Instant::now());
        let mut still_since = None;
        while !self.interrupted.is_cancelled() {
            self.crew.look_after().await;
            let waiting = waiting::count(amqp).await + traffic.audience.waiting(amqp).await;
            let now = (self.recorder.finished(), self.install.calls());
            let moved = std::mem::replace(&mut last, now) != now;
            if moved {
                progress_at = Instant::now();
            }
            let under_way = self.recorder.open() + traffic.gateway.unanswered();
            let is_still = !moved && waiting == 0 && under_way == 0;
            let since = still_since.filter(|_| is_still).unwrap_or_else(Instant::now);
            still_since = is_still.then_some(since);
            if is_still && since.elapsed() >= STILL_FOR {
                return;
            }
            if progress_at.elapsed() >= STUCK_AFTER || Instant::now() >= until {
                let said =
                    format!("not final in time: {waiting} messages wait, {under_way} requests are under way");
                self.journal.complain(said);
                return;
            }
            if said.elapsed() >= STATUS_EVERY {
                said = Instant::now();
                self.say_how_far();
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Lets the listeners take the last outcomes, then ends them.
    async fn hear_the_rest(&self, amqp: &Amqp, audience: &mut Audience) {
        let empty = async {
            while audience.waiting(amqp).await > 0 {
                sleep(LOOK_EVERY).await;
            }
            // What was taken is noted by then.
            sleep(LOOK_EVERY).await;
        };
        if timeout(FINAL_WITHIN, empty).await.is_err() {
            self.journal.complain("the listener does not take the last outcomes".into());
        }
        audience.finish().await;
    }
}

/// Where the processes' logs and secrets are, emptied.
fn directory(seed: u64) -> PathBuf {
    let soak = std::env::current_exe().expect("the soak has a path");
    let target = soak.ancestors().nth(2).expect("the soak is in a profile's directory");
    let directory = target.join("soak").join(seed.to_string());
    if directory.exists() {
        std::fs::remove_dir_all(&directory).expect("an earlier run's directory can be removed");
    }
    std::fs::create_dir_all(&directory).expect("a directory for the run");
    directory
}
