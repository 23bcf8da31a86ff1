//! `unlocker dead-letters …`

mod change;
mod printer;
mod tables;

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand};

use super::{Failure, print};
use crate::{
    dead_letters::{
        AccessError, Actor, Audit, Coverage, DeadLetter, DeadLetterSummary, DeadLetters, Error, Filter,
        Listing, Summary, filter::Moment,
    },
    message::DeadLetterStatus,
    settings::{BrokerSettings, environment},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Counts dead letters by status and reason.
    Summary(BrowseArgs),
    /// Lists dead letters, one per line, oldest first.
    List(BrowseArgs),
    /// Shows everything about one dead letter, including its body.
    Show {
        /// The id of the dead letter or of its request.
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Exports everything about dead letters, as JSON lines.
    Export {
        #[command(flatten)]
        selection: SelectionArgs,
        #[command(flatten)]
        actor: ActorArgs,
    },
    /// Publishes them as requests again, one at a time, and reports each result.
    Replay(change::ReplayArgs),
    /// Gives them up: their outcome is `discarded`.
    Discard(change::DiscardArgs),
}

#[derive(Debug, Args)]
pub(super) struct BrowseArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct OutputArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    actor: ActorArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ActorArgs {
    /// Your name in the audit log and in messages about locks (default: USER@HOST)
    #[arg(long = "actor", value_name = "NAME")]
    name: Option<String>,
}

/// Selects the dead letters that meet every condition.
#[derive(Debug, Args)]
pub(in crate::cli) struct SelectionArgs {
    /// invalid, refused, abandoned, unreadable or unknown; comma-separated or repeated.
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = status)]
    status: Vec<DeadLetterStatus>,
    /// Dead-lettered at this time or later: 2026-11-23T09:00:00Z, or 2h for two hours ago.
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Dead-lettered at this time or earlier.
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// An id of a dead letter or of a request; comma-separated or repeated.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    id: Vec<String>,
    /// At most N, the oldest ones.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// A reason such as `http_404`; comma-separated or repeated.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<String>,
}

fn status(text: &str) -> Result<DeadLetterStatus, String> {
    DeadLetterStatus::named(text).ok_or_else(|| {
        let names: Vec<&str> = DeadLetterStatus::ALL.into_iter().map(DeadLetterStatus::as_str).collect();
        format!("one of {}", names.join(", "))
    })
}

impl SelectionArgs {
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

impl ActorArgs {
    fn actor(&self) -> Actor {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let name = self.name.clone().unwrap_or_else(|| {
            let user =
                variable("SUDO_USER").or_else(|| variable("USER")).unwrap_or_else(|| "unknown".to_owned());
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
            Error::Access(AccessError::Connect(error)) => Self::Unreachable(error),
            error => Self::Failed(error.into()),
        }
    }
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
                    print_dead_letter(dead_letter)?
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
                true => {
                    Err(anyhow::anyhow!("there is no dead letter {id} and none of a request {id}").into())
                }
                false => Ok(()),
            }
        }
        Command::Export { selection, actor } => {
            let exported = dead_letters.export(&actor.actor(), &selection.filter()).await?;
            let coverage = exported.coverage.clone();
            let out = std::io::BufWriter::new(std::io::stdout());
            let count = exported.write_to(out).map_err(anyhow::Error::from)?;
            eprintln!("exported {count} ({coverage})");
            if coverage.is_incomplete() { Err(Failure::Reported) } else { Ok(()) }
        }
        Command::Replay(args) => change::replay(&dead_letters, args).await,
        Command::Discard(args) => change::discard(&dead_letters, args).await,
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(format_args!("{}", json(value)?))
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(value).map_err(anyhow::Error::from)?)
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

fn print_dead_letter(dead_letter: &DeadLetter) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&dead_letter.to_json()).map_err(anyhow::Error::from)?;
    print(format_args!("{text}"))
}

/// Warns if not all dead letters were seen.
fn warn_if_incomplete(coverage: &Coverage) {
    if coverage.is_incomplete() {
        eprintln!("unlocker: not all dead letters were seen: {coverage}");
    }
}

/// Warns and fails if not all dead letters were seen.
fn fail_if_incomplete(coverage: &Coverage) -> Result<(), Failure> {
    warn_if_incomplete(coverage);
    if coverage.is_incomplete() { Err(Failure::Reported) } else { Ok(()) }
}
