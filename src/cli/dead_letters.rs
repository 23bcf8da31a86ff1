//! `unlocker dead-letters …`

mod args;
mod change;
mod command_line;
mod correction;
mod details;
mod printer;
mod tables;

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand};

use self::{
    args::{OutputArgs, SelectionArgs},
    tables::warn_if_incomplete,
};
use super::{
    examples,
    failure::Failure,
    print::{print, print_json},
};
use crate::{
    dead_letters::{Audit, Coverage, DeadLetterSummary, DeadLetters, Listing, Summary},
    settings::{BrokerSettings, environment},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Counts dead letters by status and reason.
    #[command(after_help = examples::SUMMARY)]
    Summary(BrowseArgs),
    /// Lists dead letters, one per line, oldest first.
    #[command(after_help = examples::LIST)]
    List(BrowseArgs),
    /// Shows everything about one dead letter, including its body.
    #[command(after_help = examples::SHOW)]
    Show {
        /// The id of the dead letter or of its request.
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Exports everything about dead letters, as JSON lines.
    #[command(after_help = examples::EXPORT)]
    Export {
        #[command(flatten)]
        selection: SelectionArgs,
        // `--json` changes nothing: the lines are JSON.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Publishes dead letters as requests again, one at a time, and reports each result.
    #[command(after_help = examples::REPLAY)]
    Replay(change::ReplayArgs),
    /// Gives dead letters up: their outcome is `discarded`.
    #[command(after_help = examples::DISCARD)]
    Discard(change::DiscardArgs),
}

#[derive(Debug, Args)]
pub(super) struct BrowseArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn execute(files: &[PathBuf], command: Command) -> Result<(), Failure> {
    let settings = BrokerSettings::load(files, environment())?;
    let audit = Audit::new(settings.audit_log.as_deref());
    let dead_letters = DeadLetters::new(settings, audit);
    match command {
        Command::Summary(BrowseArgs { selection, output }) => {
            let summary = dead_letters.summary(&output.actor.actor(), &selection.filter()).await?;
            if output.json {
                print_json(&summary)?
            } else {
                print_summary(&summary)?
            }
            fail_if_incomplete(&summary.coverage)
        }
        Command::List(BrowseArgs { selection, output }) => {
            let listing = dead_letters.list(&output.actor.actor(), &selection.filter()).await?;
            if output.json {
                print_listing_json(&listing)?
            } else {
                print_listing(&listing)?
            }
            fail_if_incomplete(&listing.coverage)
        }
        Command::Show { id, output } => {
            let listing = dead_letters.show(&output.actor.actor(), &id).await?;
            for dead_letter in &listing.dead_letters {
                if output.json {
                    print_json(&dead_letter.to_json())?
                } else {
                    details::print_dead_letter(dead_letter)?
                }
            }
            let more = listing.count - listing.dead_letters.len();
            if more > 0 {
                eprintln!(
                    "unlocker: {more} older ones with this id are not shown; `dead-letters export --id` prints all"
                );
            }
            warn_if_incomplete(&listing.coverage);
            match listing.dead_letters.is_empty() {
                true => Err(anyhow::anyhow!(
                    "there is no dead letter {id} and none of a request {id}: check the id with \
                         `unlocker dead-letters list`"
                )
                .into()),
                false => Ok(()),
            }
        }
        Command::Export { selection, output } => {
            let exported = dead_letters.export(&output.actor.actor(), &selection.filter()).await?;
            let coverage = exported.coverage.clone();
            let out = std::io::BufWriter::new(std::io::stdout());
            let count = exported.write_to(out).map_err(anyhow::Error::from)?;
            eprintln!("exported {count} ({coverage})");
            if coverage.is_incomplete() { Err(Failure::Reported) } else { Ok(()) }
        }
        Command::Replay(args) => change::replay(&dead_letters, files, args).await,
        Command::Discard(args) => change::discard(&dead_letters, files, args).await,
    }
}

fn print_summary(summary: &Summary) -> Result<(), Failure> {
    if summary.count == 0 {
        print(format_args!("no dead letters ({})", summary.coverage))?;
        return Ok(());
    }
    let mut rows = Vec::new();
    for group in &summary.groups {
        rows.push([
            group.count.to_string(),
            group.status.to_string(),
            tables::or_dash(group.reason.as_deref()),
            tables::time(group.oldest),
            tables::time(group.newest),
        ]);
    }
    rows.push([
        summary.count.to_string(),
        "all".to_owned(),
        String::new(),
        tables::time(summary.oldest),
        tables::time(summary.newest),
    ]);
    tables::print(["COUNT", "STATUS", "REASON", "OLDEST", "NEWEST"], &rows)
}

fn print_listing_json(listing: &Listing<DeadLetterSummary>) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout());
    for dead_letter in &listing.dead_letters {
        serde_json::to_writer(&mut out, dead_letter).map_err(anyhow::Error::from)?;
        out.write_all(b"\n").map_err(anyhow::Error::from)?;
    }
    out.flush().map_err(anyhow::Error::from)?;
    Ok(())
}

fn print_listing(listing: &Listing<DeadLetterSummary>) -> Result<(), Failure> {
    if listing.dead_letters.is_empty() {
        return print(format_args!("no dead letter matches ({})", listing.coverage));
    }
    tables::print_dead_letters(&listing.dead_letters)
}

/// Warns and fails if not all dead letters were seen.
fn fail_if_incomplete(coverage: &Coverage) -> Result<(), Failure> {
    warn_if_incomplete(coverage);
    if coverage.is_incomplete() { Err(Failure::Reported) } else { Ok(()) }
}
