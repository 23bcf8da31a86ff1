//! `make bench-history`: times `unlocker history` and the gateway's polls on a stream of many outcomes, in a private
//! broker. docs/performance.md explains the result.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod arguments;
#[allow(dead_code, reason = "the other benches need the rest")]
#[path = "../shared/bounds.rs"]
mod bounds;
#[allow(dead_code, reason = "the other benches need the rest")]
#[path = "../shared/figures.rs"]
mod figures;
#[allow(dead_code, reason = "the other benches need the rest")]
#[path = "../shared/machine.rs"]
mod machine;
mod polls;
mod report;
mod searches;
mod site;

use std::process::ExitCode;

use arguments::Options;
use report::Report;
use site::Site;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)) {
        Ok(options) => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(bench(&options))
        }
        Err(wrong) => {
            eprintln!("{wrong}\n{}", arguments::USAGE);
            ExitCode::from(2)
        }
    }
}

/// Runs all; the exit code says whether every bound was met.
async fn bench(options: &Options) -> ExitCode {
    let site = Site::start().await;
    let mut report =
        Report { machine: machine::description(), broker: site.description(), ..Report::default() };
    println!("{}\n{}", report.machine, report.broker);
    let filled = site.fill(options).await;
    report.one("published", "/s", filled.rate);
    searches::all(&mut report, options, &site, &filled).await;
    polls::all(&mut report, options, &site, &filled).await;
    let met = report.bounds.conclude();
    match machine::write("history.json", &report) {
        Ok(path) => println!("\nwritten to {}", path.display()),
        Err(error) => eprintln!("the report could not be written: {error}"),
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
