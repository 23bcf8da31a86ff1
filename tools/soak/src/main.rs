//! `make soak`: requests flow, into RabbitMQ and over the gateway, while workers, gateway, console, broker and lines are
//! killed, frozen, cut and slowed down at random, clocks jump, and senders, customers, listeners and policies are bad;
//! then the history of every request is checked.
//!
//! Leaves with 0 if all is as it should be, with 1 if not, with 130 if it was ended by a signal before its time and
//! nothing was wrong till then.

// A soak that cannot go on panics and says why.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod audience;
mod bad_ids;
mod broker;
mod broker_line;
mod chaos;
mod checker;
mod clock;
mod console;
mod crew;
mod duplicates;
mod flat;
mod gateway;
mod history;
mod install;
mod isolation;
mod journal;
mod leaders;
mod ledger;
mod listener;
mod names;
mod options;
mod plan;
mod publisher;
mod recorder;
mod requests;
mod slot;
mod waiting;
mod world;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use options::Options;
use world::World;

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
    let (seed, rate, nodes) = (options.seed, options.rate, options.nodes);
    let (seconds, faults) = (options.run_for.as_secs(), if options.faults { "" } else { ", without faults" });
    println!("soak: seed {seed}, {seconds} s, {rate} requests per second, nodes: {nodes}{faults}");
    let interrupted = CancellationToken::new();
    let signals = tokio::spawn(until_interrupted(interrupted.clone()));

    let right = World::start(options, interrupted.clone()).await.run().await;
    signals.abort();
    println!("soak: seed {seed}: {}", if right { "all is accounted for" } else { "FAILED" });
    match (right, interrupted.is_cancelled()) {
        (false, _) => ExitCode::FAILURE,
        (true, true) => ExitCode::from(130),
        (true, false) => ExitCode::SUCCESS,
    }
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
