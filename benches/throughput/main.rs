//! `make bench`: compares the worker with a bare loop that does the same work without its safety. Both take turns on
//! one private broker in one run. docs/performance.md explains the result.
//!
//! The bare loop, the fake Trackfinity and the collector are also this program, each in its own process, so that the
//! processor time of each can be measured.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod api;
mod arguments;
mod bare;
#[path = "../shared/bounds.rs"]
mod bounds;
mod collector;
#[path = "../shared/figures.rs"]
mod figures;
mod latency;
#[path = "../shared/machine.rs"]
mod machine;
mod memory;
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
        Role::Api(behaviour, authority) => api::serve(behaviour, authority.as_deref()),
        Role::Bare(options) => bare::run(&options),
        Role::Collector => collector::serve(),
    }
}
