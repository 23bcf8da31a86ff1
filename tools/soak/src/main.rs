//! `make soak`: requests flow while workers, broker and lines are killed, frozen and cut at random, and senders,
//! customers, listeners and policies are bad; then every request is accounted for.
//!
//! Leaves with 0 if all is as it should be, with 1 if not, with 130 if it was ended by a signal before its time and
//! nothing was wrong till then.

// A soak that cannot go on panics and says why.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod audience;
mod bad_ids;
mod broker_line;
mod chaos;
mod crew;
mod duplicates;
mod history;
mod install;
mod isolation;
mod journal;
mod ledger;
mod listener;
mod names;
mod options;
mod plan;
mod publisher;
mod requests;
mod verdict;
mod waiting;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use kit::{Amqp, NodeOptions, RabbitNode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use audience::Audience;
use bad_ids::BadIds;
use chaos::Chaos;
use crew::Crew;
use history::Kept;
use install::Install;
use journal::Journal;
use ledger::Ledger;
use options::Options;
use publisher::Publisher;

/// How often it says how far it is, and looks after the workers.
const STATUS_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Without progress for so long, what is not final never will be.
const STUCK_AFTER: Duration = Duration::from_secs(45);
const FINAL_WITHIN: Duration = Duration::from_secs(90);
/// Requests per second that a catching-up worker sees through at the least.
const CATCHES_UP_AT: u64 = 50;
/// Nothing may come after nothing has come for so long: longer than the longest tier in use.
const STILL_FOR: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("soak: {error}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(soak(options))
}

async fn soak(options: Options) -> ExitCode {
    let (seed, rate) = (options.seed, options.rate);
    println!("soak: seed {seed}, {} s, {rate} requests per second", options.run_for.as_secs());
    let interrupted = CancellationToken::new();
    let signals = tokio::spawn(until_interrupted(interrupted.clone()));

    let node = RabbitNode::start_own(NodeOptions::default()).await;
    let directory = directory(seed);
    println!("soak: logs of the workers in {}", directory.display());
    let journal = Arc::new(Journal::new());
    let install = Install::start(seed).await;
    let crew = Crew::new(&node, &install, &directory, options.history, journal.clone()).await;
    let mut world = World { options, node, install, crew, journal, interrupted };

    let right = world.run().await;
    signals.abort();
    println!("soak: seed {seed}: {}", if right { "all is accounted for" } else { "FAILED" });
    match (right, world.interrupted.is_cancelled()) {
        (false, _) => ExitCode::FAILURE,
        (true, true) => ExitCode::from(130),
        (true, false) => ExitCode::SUCCESS,
    }
}

/// Where the workers' logs and secrets are, emptied.
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

/// The first SIGINT or SIGTERM ends the run early, the second ends it at once.
async fn until_interrupted(interrupted: CancellationToken) {
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be listened for");
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened for");
    let mut signalled = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    signalled().await;
    println!("soak: asked to end; the ledger so far follows");
    interrupted.cancel();
    signalled().await;
    // The watchdog ends what was started.
    std::process::exit(130);
}

struct World {
    options: Options,
    node: RabbitNode,
    install: Install,
    crew: Crew,
    journal: Arc<Journal>,
    interrupted: CancellationToken,
}

impl World {
    /// True if everything is as it should be.
    async fn run(&mut self) -> bool {
        let url = format!("{}?heartbeat=5", self.node.amqp_url("/"));
        self.crew.start_and_wait(&self.crew.slots[0]).await;
        let mut audience = Audience::start(&url).await;
        let bad_ids = BadIds::new(url.clone(), self.options.seed);
        let begun = Instant::now();
        let mut publisher = Publisher::start(url.clone(), self.options.seed, self.options.rate);

        self.hurt(&publisher, &audience, &bad_ids).await;
        self.install.heal();
        let ran = begun.elapsed();
        self.journal.say("all faults are healed");
        let healed = Instant::now();
        publisher.finish(if self.interrupted.is_cancelled() { STILL_FOR } else { FINAL_WITHIN }).await;
        let amqp = Amqp::connect(&self.node.amqp_url("/")).await;
        self.wait_until_final(&publisher, &audience, &bad_ids, &amqp).await;
        let settled_in = healed.elapsed();

        for slot in &self.crew.slots {
            self.crew.stop(slot).await;
        }
        self.hear_the_rest(&amqp, &mut audience).await;
        let waiting = waiting::take(&amqp).await;
        let dead_letters =
            waiting::export_dead_letters(&self.node.amqp_url("/")).await.unwrap_or_else(|error| {
                self.journal.complain(error);
                Vec::new()
            });
        let kept = match self.options.history {
            true => Some(Kept::search(&self.node.amqp_url("/"), &self.journal).await),
            false => None,
        };
        let heard = audience.healthy.heard();
        let mut repeats = publisher.repeats();
        repeats.extend(bad_ids.confirmed().iter());
        let ledger = Ledger {
            seed: self.options.seed,
            due: publisher.due(),
            unconfirmed: publisher.unconfirmed(),
            unreadable: bad_ids.confirmed().keys().copied().collect(),
            repeats,
            missed: audience.missed(&heard),
            heard: &heard,
            kept,
            waiting,
            dead_letters,
            faults: self.journal.faults(),
            complaints: self.journal.complaints(),
            install: &self.install,
            ran,
            settled_in,
            interrupted: self.interrupted.is_cancelled(),
        };
        ledger.print()
    }

    /// Faults, for as long as asked.
    async fn hurt(&self, publisher: &Publisher, audience: &Audience, bad_ids: &BadIds) {
        let stop = CancellationToken::new();
        let chaos = Chaos {
            node: &self.node,
            install: &self.install,
            crew: &self.crew,
            audience,
            bad_ids,
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
        if rng.bool() {
            self.crew.start(&self.crew.slots[1]);
        }
        let faults = async { tokio::join!(chaos.run(rng), end) };
        tokio::select! {
            _ = faults => {}
            () = self.watch(publisher, audience) => {}
        }
    }

    /// Looks after the workers and says how far it is, for ever.
    async fn watch(&self, publisher: &Publisher, audience: &Audience) {
        let mut said = Instant::now();
        loop {
            sleep(LOOK_EVERY).await;
            self.crew.look_after().await;
            if said.elapsed() >= STATUS_EVERY {
                said = Instant::now();
                self.say_how_far(publisher, audience);
            }
        }
    }

    fn say_how_far(&self, publisher: &Publisher, audience: &Audience) {
        let (published, finished) = (publisher.published(), audience.healthy.finished());
        self.journal.say(&format!("  {published} published, {finished} finished"));
    }

    /// Until every request has its outcome, and no copy of one is anywhere.
    async fn wait_until_final(
        &self,
        publisher: &Publisher,
        audience: &Audience,
        bad_ids: &BadIds,
        amqp: &Amqp,
    ) {
        let backlog = publisher.due().saturating_sub(audience.healthy.finished());
        let unreadable = bad_ids.confirmed().len() as u64;
        let until = Instant::now() + FINAL_WITHIN + Duration::from_secs(backlog / CATCHES_UP_AT);
        let mut last = (0, 0);
        let (mut progress_at, mut said) = (Instant::now(), Instant::now());
        let mut still_since = None;
        while !self.interrupted.is_cancelled() {
            self.crew.look_after().await;
            let finished = audience.healthy.finished();
            let waiting = waiting::count(amqp).await + audience.waiting(amqp).await;
            let now = (finished, self.install.calls());
            let moved = std::mem::replace(&mut last, now) != now;
            if moved {
                progress_at = Instant::now();
            }
            let is_still = !moved && waiting == 0 && finished >= publisher.published() + unreadable;
            let since = still_since.filter(|_| is_still).unwrap_or_else(Instant::now);
            still_since = is_still.then_some(since);
            if is_still && since.elapsed() >= STILL_FOR {
                return;
            }
            if progress_at.elapsed() >= STUCK_AFTER || Instant::now() >= until {
                self.journal.complain(format!("not final in time: {waiting} messages wait"));
                return;
            }
            if said.elapsed() >= STATUS_EVERY {
                said = Instant::now();
                self.say_how_far(publisher, audience);
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
