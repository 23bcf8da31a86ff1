//! `make bench-gateway`: compares the gateway with a bare loop of axum and lapin. Both take turns on one private
//! broker in one run, under the load of wrk. docs/performance.md explains the result.
//!
//! The bare loop is also this program, in its own process, so that its processor time can be measured.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod arguments;
mod bare;
#[path = "../shared/bounds.rs"]
mod bounds;
mod client;
mod contender;
#[path = "../shared/figures.rs"]
mod figures;
#[path = "../shared/machine.rs"]
mod machine;
mod report;
mod scenarios;
mod site;
mod wrk;

use std::process::ExitCode;

use arguments::Role;

fn main() -> ExitCode {
    match Role::parse(std::env::args().skip(1)) {
        Ok(Role::Bench(options)) => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(scenarios::all(&options))
        }
        Ok(Role::Bare { amqp }) => bare::run(&amqp),
        Err(wrong) => {
            eprintln!("{wrong}\n{}", arguments::USAGE);
            ExitCode::from(2)
        }
    }
}
