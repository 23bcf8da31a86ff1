//! `unlocker history`: finds outcomes.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    failure::Failure,
    print::print,
    run::Signals,
    table::{self, or_dash, time},
};
use crate::{
    broker::{Backoff, Connector, Topology, consumer::queue_state},
    history::{Found, HistoryError, Outcomes, Progress, Query},
    message::{Moment, RecordedOutcome, Status},
    policy::Tier,
    settings::{BrokerSettings, environment},
};

/// What its connection is for, on RabbitMQ's page.
const PURPOSE: &str = "history";
const HEADINGS: [&str; 10] = [
    "FINISHED AT",
    "STATUS",
    "REASON",
    "IDENTIFIERS",
    "ATTEMPTS",
    "HTTP",
    "REPLAYS",
    "ASKED BY",
    "REQUEST",
    "TRACE",
];

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Outcomes of this customer.
    #[arg(long, value_name = "ID")]
    customer_id: Option<String>,
    /// Outcomes of this subscription.
    #[arg(long, value_name = "ID")]
    subscription_id: Option<String>,
    /// Outcomes of this order.
    #[arg(long, value_name = "ID")]
    orderid: Option<String>,
    /// Outcomes of this request.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// unlocked, invalid, refused, abandoned or discarded; comma-separated or repeated.
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = status)]
    status: Vec<Status>,
    /// A reason such as `http_404`; comma-separated or repeated.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<String>,
    /// Decided at this time or later: 2026-11-23T09:00:00Z, or 2h for two hours ago. Makes the search
    /// faster.
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Decided at this time or earlier.
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// At most N, the newest ones.
    #[arg(long, value_name = "N", default_value = "100")]
    limit: NonZeroUsize,
    /// Print the outcomes as they were published, one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Print what comes from now on, oldest first, until it is interrupted.
    #[arg(long, conflicts_with_all = ["since", "until", "limit"])]
    follow: bool,
}

fn status(text: &str) -> Result<Status, String> {
    Status::named(text).ok_or_else(|| {
        let names: Vec<&str> = Status::ALL.into_iter().map(Status::as_str).collect();
        format!("write one of {}", names.join(", "))
    })
}

impl HistoryArgs {
    fn query(&self) -> Query {
        Query {
            customer_id: self.customer_id.clone(),
            subscription_id: self.subscription_id.clone(),
            orderid: self.orderid.clone(),
            request_id: self.request_id.clone(),
            status: self.status.clone(),
            reason: self.reason.clone(),
            since: self.since.map(|moment| moment.0),
            until: self.until.map(|moment| moment.0),
        }
    }
}

pub(super) async fn history(files: &[PathBuf], args: HistoryArgs) -> Result<(), Failure> {
    if let (Some(Moment(since)), Some(Moment(until))) = (args.since, args.until)
        && since > until
    {
        let why = format!("--since is {}, after --until, {}", time(since), time(until));
        return Err(anyhow::anyhow!("nothing can match: {why}").into());
    }
    let settings = BrokerSettings::load(files, environment())?;
    let topology = Topology::new(&settings.topology_prefix);
    let connector = Connector::new(&settings.broker);
    if args.follow {
        return follow(&connector, &topology, &args).await;
    }
    let connection = connector.connect(PURPOSE).await?;
    let result = search(&connection, &topology, &args).await;
    connection.close().await;
    result
}

async fn search(
    connection: &lapin::Connection,
    topology: &Topology,
    args: &HistoryArgs,
) -> Result<(), Failure> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent} %, {eta} left  {msg}") {
        bar.set_style(style);
    }
    let show = |progress: Progress| {
        bar.set_length(progress.span);
        bar.set_position(progress.passed);
        bar.set_message(format!("{} outcomes read", progress.read));
    };
    let (query, stream) = (args.query(), topology.history());
    let searched = Outcomes::search(connection, &stream, &query, args.limit.get(), show).await;
    bar.finish_and_clear();
    let outcomes = searched.map_err(anyhow::Error::from)?;
    if args.json {
        for found in &outcomes.found {
            print(format_args!("{}", json_line(found)))?;
        }
    } else if !outcomes.found.is_empty() {
        let rows: Vec<_> = outcomes.found.iter().map(row).collect();
        table::print(HEADINGS, &rows)?;
    }
    if outcomes.found.is_empty() {
        eprintln!("{}", nothing(connection, topology, &query, &outcomes).await);
    } else if outcomes.left_out > 0 {
        eprintln!("{} older ones are left out: see --limit", outcomes.left_out);
    }
    Ok(())
}

/// Prints until a signal comes.
async fn follow(connector: &Connector, topology: &Topology, args: &HistoryArgs) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    tokio::select! {
        ended = follow_on(connector, topology, args) => ended,
        () = signals.next() => Ok(()),
    }
}

/// Prints, and connects again where it was when the connection is lost. Ends with an error only.
async fn follow_on(connector: &Connector, topology: &Topology, args: &HistoryArgs) -> Result<(), Failure> {
    let (query, stream) = (args.query(), topology.history());
    let hand_over = |found: Found| match args.json {
        true => print(format_args!("{}", json_line(&found))),
        false => print(format_args!("{}", row(&found).map(|cell| table::clean(&cell)).join("  "))),
    };
    let (mut next, mut backoff, mut is_away) = (None, Backoff::new(), false);
    loop {
        let before = next;
        let ended = async {
            let connection = connector.connect(PURPOSE).await?;
            let ended = Outcomes::follow(&connection, &stream, &query, &mut next, hand_over).await;
            connection.close().await;
            ended
        };
        match ended.await {
            Err(failure) if next.is_some() && is_passing(&failure) => {
                if next > before {
                    (backoff, is_away) = (Backoff::new(), false);
                }
                if !std::mem::replace(&mut is_away, true) {
                    eprintln!("{failure}. It goes on where it was when RabbitMQ is back; Ctrl-C ends it");
                }
                connector.wait_to_retry(backoff.next(fastrand::f64())).await;
            }
            ended => return ended,
        }
    }
}

fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Connect(error) => !error.is_refusal(),
        Failure::Failed(error) => error.downcast_ref().is_some_and(HistoryError::is_passing),
        _ => false,
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        Self::Failed(error.into())
    }
}

/// The outcome as it was published. A line break in JSON, as another program may write it, means a space.
fn json_line(found: &Found) -> String {
    String::from_utf8_lossy(&found.body).replace(['\n', '\r'], " ")
}

fn row(found: &Found) -> [String; 10] {
    let outcome = &found.outcome;
    [
        time(outcome.finished_at),
        outcome.status.clone(),
        or_dash(outcome.reason.as_deref()),
        or_dash(identifiers(outcome).as_deref()),
        outcome.attempts.to_string(),
        outcome.http_status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
        outcome.replays.to_string(),
        or_dash(outcome.requested_by.as_deref()),
        outcome.request_id.clone(),
        or_dash(found.trace_id.as_deref()),
    ]
}

/// Such as `customer_id=191 orderid=7`; `None` if the request had none that could be read.
fn identifiers(outcome: &RecordedOutcome) -> Option<String> {
    let given = outcome.request.as_ref()?.iter().map(|(name, value)| format!("{name}={value}"));
    Some(given.collect::<Vec<_>>().join(" ")).filter(|text| !text.is_empty())
}

/// What to say where nothing is found: how far back was looked, and what may still come.
async fn nothing(
    connection: &lapin::Connection,
    topology: &Topology,
    query: &Query,
    outcomes: &Outcomes,
) -> String {
    let from = match (query.since, outcomes.from) {
        (Some(since), Some(from)) => Some(since.max(from)),
        (since, from) => since.or(from),
    };
    let looked = match (from, query.until) {
        (Some(from), Some(until)) if from > until => {
            format!("nothing until {}: the history begins at {}", time(until), time(from))
        }
        (Some(from), Some(until)) => format!("nothing from {} to {}", time(from), time(until)),
        (Some(from), None) => format!("nothing since {}", time(from)),
        (None, _) if outcomes.read > 0 => "nothing in the whole history".to_owned(),
        (None, _) => "nothing: the history is empty".to_owned(),
    };
    let waiting = ready(connection, &topology.requests()).await;
    let mut retries = Some(0);
    for tier in Tier::ALL {
        let ready = ready(connection, &topology.retry_queue(tier)).await;
        retries = retries.and_then(|sum: u32| Some(sum + ready?));
    }
    match (retries, waiting) {
        (Some(0), Some(0)) => format!("{looked}; no request waits"),
        (Some(retries), Some(waiting)) => {
            let wait = if retries == 1 { "request waits" } else { "requests wait" };
            format!("{looked}; {retries} {wait} for a retry, {waiting} in the queue")
        }
        // This user may not see the queues.
        _ => looked,
    }
}

/// How many messages are ready in a queue; `None` if it does not exist or may not be seen.
async fn ready(connection: &lapin::Connection, queue: &str) -> Option<u32> {
    // A refusal closes its channel.
    let channel = connection.create_channel().await.ok()?;
    let state = queue_state(&channel, queue).await.ok();
    drop(channel);
    state.map(|state| state.messages)
}
