//! `unlocker dead-letters …`

mod change;
mod printer;
mod tables;

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand};

use super::{Failure, print};
use crate::{
    dead_letters::{
        Actor, Audit, Brief, DeadLetters, DeskError, Error, Extent, Filter, Letter, Listing, Summary,
        filter::Moment,
    },
    message::DeadLetterStatus,
    settings::{BrokerSettings, environment},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// How many there are, by status and reason.
    Summary(Look),
    /// A line each, oldest first.
    List(Look),
    /// Everything about one of them, its body too.
    Show {
        /// The letter's id, or the request's.
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Everything about many of them, as JSON lines.
    Export {
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        who: Who,
    },
    /// Makes requests of them again, one at a time, and tells what becomes of each.
    Replay(change::Replay),
    /// Gives them up: their outcome is `discarded`.
    Discard(change::Discard),
}

#[derive(Debug, Args)]
pub(super) struct Look {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Output {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Who {
    /// Who this is, for the audit log and for whoever finds the letters locked [default: USER@HOST]
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

/// Which letters are meant: all that meet everything given.
#[derive(Debug, Args)]
pub(in crate::cli) struct Selection {
    /// invalid, refused, abandoned, unreadable or unknown; comma-separated or given several times.
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = status)]
    status: Vec<DeadLetterStatus>,
    /// Died at or after this time (2026-11-23T09:00:00Z) or since that long ago (2h).
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Died at or before this time, or that long ago.
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// A letter's id or a request's; comma-separated or given several times.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    id: Vec<String>,
    /// The oldest so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// A reason such as `http_404`; comma-separated or given several times.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<String>,
}

fn status(text: &str) -> Result<DeadLetterStatus, String> {
    DeadLetterStatus::named(text).ok_or_else(|| {
        let names: Vec<&str> = DeadLetterStatus::ALL.into_iter().map(DeadLetterStatus::as_str).collect();
        format!("one of {}", names.join(", "))
    })
}

impl Selection {
    fn filter(&self) -> Filter {
        Filter {
            status: self.status.clone(),
            reason: self.reason.clone(),
            since: self.since.map(|moment| moment.0),
            until: self.until.map(|moment| moment.0),
            ids: self.id.clone(),
            limit: self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        }
    }
}

impl Who {
    fn actor(&self) -> Actor {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let name = self.actor.clone().unwrap_or_else(|| {
            let user =
                variable("SUDO_USER").or_else(|| variable("USER")).unwrap_or_else(|| "someone".to_owned());
            let host = variable("HOSTNAME").or_else(|| {
                let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
                Some(name.trim().to_owned())
            });
            host.map_or(user.clone(), |host| format!("{user}@{host}"))
        });
        Actor { name, via: "command line" }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Desk(DeskError::Connect(error)) => Self::Unreachable(error),
            error => Self::Failed(error.into()),
        }
    }
}

pub(super) async fn execute(files: &[PathBuf], command: Command) -> Result<(), Failure> {
    let settings = BrokerSettings::load(files, environment())?;
    let audit = Audit::new(settings.audit_log.as_deref());
    let letters = DeadLetters::new(settings, audit);
    match command {
        Command::Summary(look) => {
            let summary = letters.summary(&look.output.who.actor(), &look.selection.filter()).await?;
            if look.output.json {
                print_json(&summary)?
            } else {
                print_summary(&summary)?
            }
            whole(&summary.extent)
        }
        Command::List(look) => {
            let listing = letters.list(&look.output.who.actor(), &look.selection.filter()).await?;
            if look.output.json {
                print_listing_json(&listing)?
            } else {
                print_listing(&listing)?
            }
            whole(&listing.extent)
        }
        Command::Show { id, output } => {
            let listing = letters.show(&output.who.actor(), &id).await?;
            for letter in &listing.letters {
                if output.json { print_json(&letter.to_json())? } else { print_letter(letter)? }
            }
            let more = listing.count - listing.letters.len();
            if more > 0 {
                eprintln!(
                    "unlocker: {more} older ones of this id are not shown; `dead-letters export --id` gives all"
                );
            }
            warn_if_short(&listing.extent);
            match listing.letters.is_empty() {
                true => {
                    Err(anyhow::anyhow!("there is no dead letter {id}, nor one of a request {id}").into())
                }
                false => Ok(()),
            }
        }
        Command::Export { selection, who } => {
            let exported = letters.export(&who.actor(), &selection.filter()).await?;
            let extent = exported.extent.clone();
            let out = std::io::BufWriter::new(std::io::stdout());
            let count = exported.write_to(out).map_err(anyhow::Error::from)?;
            eprintln!("exported {count} ({extent})");
            if extent.is_short() { Err(Failure::Reported) } else { Ok(()) }
        }
        Command::Replay(replay) => change::replay(&letters, replay).await,
        Command::Discard(discard) => change::discard(&letters, discard).await,
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(format_args!("{}", json(value)))
}

fn json(value: &impl serde::Serialize) -> String {
    // Texts and numbers alone: nothing that could fail.
    serde_json::to_string(value).unwrap_or_default()
}

fn print_summary(summary: &Summary) -> Result<(), Failure> {
    if summary.count == 0 {
        print(format_args!("no dead letters ({})", summary.extent))?;
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

fn print_listing_json(listing: &Listing<Brief>) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout());
    for letter in &listing.letters {
        serde_json::to_writer(&mut out, letter).map_err(anyhow::Error::from)?;
        out.write_all(b"\n").map_err(anyhow::Error::from)?;
    }
    out.flush().map_err(anyhow::Error::from)?;
    Ok(())
}

fn print_listing(listing: &Listing<Brief>) -> Result<(), Failure> {
    if listing.letters.is_empty() {
        return print(format_args!("no such dead letters ({})", listing.extent));
    }
    tables::print_letters(&listing.letters)
}

fn print_letter(letter: &Letter) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&letter.to_json()).map_err(anyhow::Error::from)?;
    print(format_args!("{text}"))
}

/// Says so where not all letters were looked at.
fn warn_if_short(extent: &Extent) {
    if extent.is_short() {
        eprintln!("unlocker: not all were looked at: {extent}");
    }
}

/// A failure, and says so, where not all letters were looked at.
fn whole(extent: &Extent) -> Result<(), Failure> {
    warn_if_short(extent);
    if extent.is_short() { Err(Failure::Reported) } else { Ok(()) }
}
