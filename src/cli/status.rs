//! `unlocker status`: who consumes, what waits, and what is dead-lettered, in about ten lines.

mod readyz;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::Args;
use serde::{Serialize, Serializer};
use url::Url;

use self::readyz::WorkerReport;
use super::{
    failure::Failure,
    print::{print, print_json},
    table::clean,
};
use crate::{
    broker::{Connector, QueueStates, Topology},
    dead_letters::{Actor, Audit, DeadLetters, Filter, Summary},
    message::Timestamp,
    policy::Tier,
    settings::{BrokerSettings, environment},
};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// A worker's health address (its ops.listen), such as `http://10.0.0.7:9464`, to see whether it
    /// is paused, and why; may be repeated.
    #[arg(long = "ops", value_name = "URL", value_parser = readyz::ops_url)]
    ops: Vec<Url>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// What is seen. A count is null if the queue does not exist or may not be seen.
#[derive(Debug, Serialize)]
struct Status {
    workers_consuming: Option<u32>,
    workers: Vec<WorkerReport>,
    requests_waiting: Option<u32>,
    /// Requests that wait for a retry, by tier.
    #[serde(serialize_with = "by_name")]
    retries_waiting: BTreeMap<Tier, Option<u32>>,
    /// What RabbitMQ gave up and no worker has settled yet.
    undeliverable: Option<u32>,
    dead_letters_waiting: Option<u32>,
    /// Null if the dead letters may not be browsed.
    dead_letters: Option<Summary>,
    /// What could not be seen, and why.
    unseen: Vec<String>,
}

pub(super) async fn status(files: &[PathBuf], args: StatusArgs) -> Result<(), Failure> {
    let settings = BrokerSettings::load(files, environment())?;
    let topology = Topology::new(&settings.topology_prefix);
    let connection = Connector::new(&settings.broker).connect("status").await?;
    let states = QueueStates::read(&connection, &topology).await;
    connection.close().await;
    let mut unseen = states.refused.clone();
    unseen.extend(explain_missing(&states.missing, states.total(), settings.topology_prefix.as_str()));
    let QueueStates { requests, retries, undeliverable, dead, .. } = &states;
    let dead_letters = match dead {
        Some(_) => summary(settings, &mut unseen).await,
        None => None,
    };
    let status = Status {
        workers_consuming: requests.map(|state| state.consumers),
        workers: readyz::ask(args.ops, &mut unseen).await?,
        requests_waiting: requests.map(|state| state.messages),
        retries_waiting: retries.clone(),
        undeliverable: *undeliverable,
        dead_letters_waiting: *dead,
        dead_letters,
        unseen,
    };
    match args.json {
        true => print_json(&status)?,
        false => status.print()?,
    }
    match status.unseen.is_empty() {
        true => Ok(()),
        false => Err(Failure::Reported),
    }
}

/// One line about all queues that are missing; `total`: how many there should be.
fn explain_missing(missing: &[String], total: usize, prefix: &str) -> Option<String> {
    match missing {
        [] => None,
        missing if missing.len() == total => Some(format!(
            "no queue of the prefix {prefix} exists: correct topology.prefix, or the virtual host in broker.url; a \
             worker declares the queues when it starts"
        )),
        missing => Some(format!(
            "these queues do not exist: {}. A worker declares them when it starts",
            missing.join(", ")
        )),
    }
}

/// Browses the dead letters, as `dead-letters summary` does.
async fn summary(settings: BrokerSettings, unseen: &mut Vec<String>) -> Option<Summary> {
    let actor = Actor { name: "status".to_owned(), via: "command line" };
    match DeadLetters::new(settings, Audit::new(None)).summary(&actor, &Filter::default()).await {
        Ok(summary) => {
            if summary.coverage.is_incomplete() {
                unseen.push(format!("some dead letters: {}", summary.coverage));
            }
            Some(summary)
        }
        Err(error) => {
            unseen.push(format!("the reasons of dead letters: {error}"));
            None
        }
    }
}

/// Tiers by their names, the shortest first.
fn by_name<S: Serializer>(tiers: &BTreeMap<Tier, Option<u32>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tiers.iter().map(|(tier, count)| (tier.to_string(), count)))
}

impl Status {
    fn print(&self) -> Result<(), Failure> {
        let count =
            |count: Option<u32>| count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        line("workers consuming", &count(self.workers_consuming))?;
        match self.workers.as_slice() {
            [] => line("paused", "unknown; --ops URL asks a worker")?,
            workers => {
                for worker in workers {
                    line("paused", &worker.to_string())?;
                }
            }
        }
        line("requests waiting", &count(self.requests_waiting))?;
        line("waiting for a retry", &self.retries())?;
        line("given up by RabbitMQ", &count(self.undeliverable))?;
        match &self.dead_letters {
            None => line("dead letters", &count(self.dead_letters_waiting))?,
            Some(summary) => print_summary(summary)?,
        }
        for unseen in &self.unseen {
            eprintln!("unlocker: not seen: {}", clean(unseen));
        }
        Ok(())
    }

    fn retries(&self) -> String {
        let known: Option<Vec<_>> =
            self.retries_waiting.iter().map(|(tier, count)| Some((tier, (*count)?))).collect();
        let Some(known) = known else { return "unknown".to_owned() };
        let total: u32 = known.iter().map(|(_, count)| count).sum();
        let tiers: Vec<_> = known
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(tier, count)| format!("{count} in {tier}"))
            .collect();
        match tiers.is_empty() {
            true => total.to_string(),
            false => format!("{total}: {}", tiers.join(", ")),
        }
    }
}

fn print_summary(summary: &Summary) -> Result<(), Failure> {
    let oldest = summary.oldest.map(|oldest| {
        let age = age(Timestamp::now().since(oldest));
        format!(", the oldest {age} old")
    });
    line("dead letters", &format!("{}{}", summary.count, oldest.unwrap_or_default()))?;
    for group in &summary.groups {
        let reason = clean(group.reason.as_deref().unwrap_or("-"));
        line("", &format!("{}  {}  {reason}", group.count, group.status))?;
    }
    Ok(())
}

fn line(label: &str, value: &str) -> Result<(), Failure> {
    print(format_args!("{label:<22}{}", clean(value)))
}

/// A duration in its two largest units.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..172_800 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_its_two_largest_units() {
        let ages = [0, 59, 60, 3599, 3600, 172_799, 172_800].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(ages, ["0 s", "59 s", "1 min", "59 min", "1 h 0 min", "47 h 59 min", "2 d 0 h"]);
    }
}
