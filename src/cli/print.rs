//! Prints to stdout.

use std::io::Write;

use anyhow::Context;

use super::failure::Failure;

/// Writes a line to stdout. A closed stdout is an error, not a panic.
pub(super) fn print(line: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("stdout cannot be written")?;
    Ok(())
}

pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(format_args!("{}", json(value)?))
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(value).map_err(anyhow::Error::from)?)
}
