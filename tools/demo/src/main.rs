//! `make demo`: a broker, the sandbox, the worker and the gateway, all real, and what becomes of each kind of request.
//!
//! Leaves with 0 if every request ended as it should, with 1 if not. `--keep` stays up afterwards.

// A demo that cannot go on panics and says why.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cases;
mod dead_letters;
mod http;
mod keep;
mod outcomes;
mod stage;
mod table;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use cases::Case;
use dead_letters::DeadLetter;
use outcomes::Outcomes;
use stage::{REQUESTS, Stage};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// Several times what the retries of the slowest request take.
const ALL_WITHIN: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    let keep = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--keep" => true,
        _ => {
            eprintln!("usage: demo [--keep]");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(demo(keep))
}

/// SIGINT or SIGTERM.
async fn asked_to_stop() {
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be listened for");
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened for");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn demo(keep: bool) -> ExitCode {
    let begun = Instant::now();
    let cases = cases::all();
    let (stage, mut outcomes, mut faults) = tokio::select! {
        performed = perform(&cases) => performed,
        () = asked_to_stop() => {
            println!("\nstopped before the end");
            return ExitCode::from(130);
        }
    };
    if faults.is_empty() && keep {
        keep::stay(&stage, &mut outcomes).await;
    }
    faults.extend(stage.strike().await);
    report(&faults, cases.len() + 1, begun.elapsed(), keep)
}

/// Sets everything up, sees all requests through, and says what did not come out as it should.
async fn perform(cases: &[Case]) -> (Stage, Outcomes, Vec<String>) {
    let stage = Stage::set_up(cases).await;
    let mut outcomes = Outcomes::listen(&stage).await;

    println!("\nOutcomes, as they arrive ({} requests published):\n", cases.len());
    outcomes.play(&stage, cases, ALL_WITHIN).await;
    let dead_letters = dead_letters::browse(&stage.amqp).await;
    dead_letters::print(&dead_letters);
    let answer = http::play(&stage).await;
    outcomes.absorb(&answer.request_id(), ALL_WITHIN).await;
    print_counts(&stage, cases, &outcomes, &dead_letters).await;

    let mut faults = faults(&stage, cases, &outcomes, &dead_letters).await;
    faults.extend(answer.fault());
    (stage, outcomes, faults)
}

async fn print_counts(stage: &Stage, cases: &[Case], outcomes: &Outcomes, dead_letters: &[DeadLetter]) {
    let mut statuses: BTreeMap<&str, usize> = BTreeMap::new();
    for outcome in outcomes.all() {
        *statuses.entry(outcome.status.as_str()).or_default() += 1;
    }
    let statuses: Vec<_> = statuses.iter().map(|(status, count)| format!("{count} {status}")).collect();
    println!("\nCounts:\n");
    println!(
        "  requests      {} published, 1 over HTTP, {} still queued",
        cases.len(),
        stage.amqp.ready_count(REQUESTS).await
    );
    println!("  outcomes      {}", statuses.join(", "));
    println!("  dead letters  {}", dead_letters.len());
    println!("  Trackfinity   {} unlock calls", stage.unlock_calls());
}

/// What did not come out as it should; empty if all did.
async fn faults(
    stage: &Stage,
    cases: &[Case],
    outcomes: &Outcomes,
    dead_letters: &[DeadLetter],
) -> Vec<String> {
    let mut faults = Vec::new();
    for case in cases {
        faults.extend(outcomes.fault(case));
        faults.extend(dead_letters::fault(case, dead_letters));
    }
    for queue in stage::waiting_queues() {
        let left = stage.amqp.ready_count(&queue).await;
        if left > 0 {
            faults.push(format!("{left} left in {queue}"));
        }
    }
    faults
}

fn report(faults: &[String], count: usize, took: Duration, kept: bool) -> ExitCode {
    if faults.is_empty() {
        let took = if kept { String::new() } else { format!(" in {:.1} s", took.as_secs_f64()) };
        println!("\nAll {count} requests ended as expected{took}; everything that was started is stopped.");
        return ExitCode::SUCCESS;
    }
    println!("\nFAILED:");
    for fault in faults {
        println!("  {fault}");
    }
    ExitCode::FAILURE
}
