//! Arguments that the commands share.

use std::num::NonZeroUsize;

use clap::Args;

use crate::{
    dead_letters::{Actor, Filter},
    message::{DeadLetterStatus, Moment},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct OutputArgs {
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) actor: ActorArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ActorArgs {
    /// Your name in the audit log and in messages about locks (default: USER@HOST)
    #[arg(long = "actor", value_name = "NAME")]
    pub(super) name: Option<String>,
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
    #[arg(long, value_name = "N", value_parser = limit)]
    limit: Option<usize>,
    /// A reason such as `http_404`; comma-separated or repeated.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<String>,
}

fn limit(text: &str) -> Result<usize, &'static str> {
    let limit: NonZeroUsize = text.parse().map_err(|_| "it is not a whole number from 1, such as 100")?;
    Ok(limit.get())
}

fn status(text: &str) -> Result<DeadLetterStatus, String> {
    DeadLetterStatus::named(text).ok_or_else(|| {
        let names: Vec<&str> = DeadLetterStatus::ALL.into_iter().map(DeadLetterStatus::as_str).collect();
        format!("write one of {}", names.join(", "))
    })
}

impl SelectionArgs {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            status: self.status.clone(),
            reason: self.reason.clone(),
            since: self.since.map(|moment| moment.0),
            until: self.until.map(|moment| moment.0),
            ids: self.id.clone(),
            limit: self.limit,
        }
    }
}

impl ActorArgs {
    pub(super) fn actor(&self) -> Actor {
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
