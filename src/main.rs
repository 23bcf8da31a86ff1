//! `unlocker`: parses the command line, starts logging and the runtime, runs the command and
//! returns its exit code.

use std::{
    env, io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    thread,
};

use anyhow::Context;
use clap::Parser;
use trackfinity_unlocker::{cli::Cli, fips, telemetry::logs};

/// With glibc's allocator a request costs a tenth more CPU time.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const STACK_VARIABLE: &str = "RUST_MIN_STACK";
/// Address space for a thread's stack, in bytes. It uses only as much memory as it needs.
const STACK_BYTES: &str = "1073741824";

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    fips::install()?;
    let restarted = match env::var_os(STACK_VARIABLE) {
        Some(_) => Ok(()),
        None => restart_with_large_stacks(),
    };
    let _flush_logs = logs::start(cli.log_format()).context("logging cannot be started")?;
    if let Err(error) = restarted {
        tracing::warn!(
            event = "stack_size",
            %error,
            "the stack size cannot be set, so a message with deeply nested headers may crash the program: set \
             {STACK_VARIABLE}={STACK_BYTES}"
        );
    }
    // On a new thread, because the stack of this one cannot grow.
    let command = thread::Builder::new().name("unlocker".to_owned()).spawn(move || run(cli));
    let code = command.context("no thread can be started")?.join();
    code.unwrap_or_else(|_panic| Err(anyhow::anyhow!("the command panicked")))
}

/// Runs all tasks on one thread: each step is short, and waking another thread costs more than the
/// step itself.
fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let code = runtime.block_on(cli.execute());
    // Does not wait for threads: one may be stuck on a broker that does not answer.
    runtime.shutdown_background();
    Ok(code)
}

/// RabbitMQ accepts header tables nested thousands of levels deep. lapin parses them recursively,
/// on a thread whose stack size only this variable can set. With the default of 2 MiB, one such
/// message crashes the process. So the program replaces itself by a new start (decision 44). Returns
/// only on failure.
fn restart_with_large_stacks() -> io::Result<()> {
    let program = env::current_exe()?;
    Err(Command::new(program).args(env::args_os().skip(1)).env(STACK_VARIABLE, STACK_BYTES).exec())
}
