//! The arguments of `unlocker check`.

use std::{fmt, time::Duration};

use clap::{Args, ValueEnum};
use serde::Serialize;

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// The process whose settings and rights are checked. Only `worker` needs Trackfinity.
    #[arg(long, value_enum, default_value_t)]
    pub(super) role: Role,
    /// Also send two canaries, through the request queue and the 1 s retry queue, and wait until a
    /// running worker has answered both. This finds a missing binding, or a policy in the way.
    #[arg(long)]
    pub(super) probe: bool,
    /// How long --probe waits for the answers.
    #[arg(long, value_name = "DURATION", default_value = "30s", requires = "probe", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
    /// Print one JSON document.
    #[arg(long)]
    pub(super) json: bool,
}

/// A process, by its command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// `unlocker run`: consumes requests and calls Trackfinity.
    #[default]
    Worker,
    /// `unlocker gateway`: takes requests over HTTP, and publishes them with a producer's rights.
    Gateway,
    /// `unlocker console`, and people who work on dead letters: with an operator's rights.
    Console,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::Gateway => "gateway",
            Self::Console => "console",
        })
    }
}
