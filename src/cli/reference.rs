//! `unlocker config`, `completions` and `man`: what describes the program, made from the program.

use std::{io::Write, path::Path};

use anyhow::Context;
use clap::Command;

use super::failure::Failure;
use crate::settings::DEFAULTS;

pub(super) fn config() -> Result<(), Failure> {
    write(DEFAULTS.as_bytes())
}

pub(super) fn completions(shell: clap_complete::Shell, mut program: Command) -> Result<(), Failure> {
    // `generate` panics if stdout is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, "unlocker", &mut script);
    write(&script)
}

pub(super) fn man(folder: &Path, program: Command) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(program, folder))
        .with_context(|| format!("the man pages cannot be written to {}", folder.display()))?;
    Ok(())
}

fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("stdout cannot be written")?;
    Ok(())
}
