//! `make bench`: the worker against a bare loop that does the same work without any of its safety, by turns, on one
//! private broker, in one run. See docs/performance.md for how to read it.
//!
//! The bare loop, the stand-in for Trackfinity and the collector are this program, too, each in a process of its own,
//! so that the processor time of each can be told.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod api;
mod arguments;
mod bare;
mod collector;
mod figures;
mod latency;
mod report;
mod run;
mod scenarios;
mod site;

use std::process::ExitCode;

use arguments::Role;

fn main() -> ExitCode {
    let role = match Role::parse(std::env::args().skip(1)) {
        Ok(role) => role,
        Err(wrong) => {
            eprintln!("{wrong}\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    match role {
        Role::Bench(options) => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(scenarios::all(&options))
        }
        Role::Api(behaviour) => api::serve(&behaviour),
        Role::Bare(options) => bare::run(&options),
        Role::Collector => collector::serve(),
    }
}
