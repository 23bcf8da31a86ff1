//! `unlocker`: parses the command line, starts logging and the runtime, and leaves with an exit
//! code.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    thread,
};

use anyhow::Context;
use clap::Parser;
use trackfinity_unlocker::{cli::Cli, telemetry::logs};

/// Of what a request costs, glibc's allocator takes a tenth more.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const STACK_VARIABLE: &str = "RUST_MIN_STACK";
/// Bytes of address space for a thread's stack; memory is taken for what is used of it alone.
const STACK_BYTES: &str = "1073741824";

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    logs::start(cli.log_format());
    if env::var_os(STACK_VARIABLE).is_none() {
        start_again_with_deep_stacks();
    }
    // On a thread of its own, as this one keeps its stack.
    let way = thread::Builder::new().name("unlocker".to_owned()).spawn(move || run(cli));
    let code = way.context("no thread can be started")?.join();
    code.unwrap_or_else(|_panic| Err(anyhow::anyhow!("the command panicked")))
}

/// All tasks on one thread: what each does is short, and to wake another thread for it costs more than it does.
fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let code = runtime.block_on(cli.execute());
    // A thread may be stuck on a broker that does not answer; nothing is left to wait for.
    runtime.shutdown_background();
    Ok(code)
}

/// RabbitMQ passes on header tables nested thousands deep. lapin reads them by recursion, on a
/// thread whose stack can be set by this variable alone: with the usual 2 MiB, one such message
/// ends the process. So the program starts itself once more, in place. Returns only on failure.
fn start_again_with_deep_stacks() {
    let error = match env::current_exe() {
        Ok(program) => {
            Command::new(program).args(env::args_os().skip(1)).env(STACK_VARIABLE, STACK_BYTES).exec()
        }
        Err(error) => error,
    };
    tracing::warn!(%error, "stacks stay as they are: set {STACK_VARIABLE}={STACK_BYTES}");
}
