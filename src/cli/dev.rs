//! `unlocker dev`: the worker and a stand-in for Trackfinity in one process, for the tests of services
//! that send requests.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, anyhow};
use clap::Args;
use lapin::{options::QueuePurgeOptions, protocol::AMQPSoftError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::Instant,
};

use super::{failure::Failure, print::print, run::run_worker};
use crate::{
    broker::{Connector, Topology, connection::Connection, errors::soft_error},
    policy::Tier,
    sandbox::Sandbox,
    settings::{Settings, environment},
    worker::StatusHandle,
};

/// How long `--is-ready` waits for an answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait before RabbitMQ is tried again.
const CONNECT_INTERVAL: Duration = Duration::from_millis(500);

/// A request that always fails ends after some seconds, and does not pause the others' calls.
const SHORT_RETRIES: [(&str, &str); 3] =
    [("RETRY__MAX_ATTEMPTS", "3"), ("RETRY__MAX_DELAY", "1s"), ("PAUSE__AFTER_FAILURES", "1000000")];

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// The broker's address [default: the setting broker.url]
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// What the names of all exchanges and queues start with [default: the setting topology.prefix]
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// How long the stand-in takes to answer for slow customers.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
    slow: Duration,
    /// Do not print the calls.
    #[arg(long)]
    quiet: bool,
    /// First remove the requests that an earlier run left in the queues.
    #[arg(long)]
    purge: bool,
    /// How long to wait for RabbitMQ, and until the worker is ready.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    start_timeout: Duration,
    /// Only ask whether the one that runs on this machine, at ops.listen, is ready: exit code 0 if it
    /// is, else 1.
    #[arg(long)]
    is_ready: bool,
}

pub(super) async fn dev(files: &[PathBuf], args: DevArgs) -> Result<(), Failure> {
    if args.is_ready {
        let settings = settings(files, &args, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = settings.ops.listen.context("ops.listen is off")?;
        return Ok(ask_readiness(reachable(address)).await?);
    }
    let listener = Sandbox::bind((Ipv4Addr::LOCALHOST, 0).into())
        .await
        .context("the stand-in for Trackfinity cannot listen")?;
    let settings = settings(files, &args, listener.local_addr().map_err(anyhow::Error::from)?)?;
    let topology = Topology::new(&settings.rabbitmq.topology_prefix);
    let deadline = Instant::now() + args.start_timeout;
    let connection = connect(&settings, deadline).await?;
    if args.purge {
        purge(&connection, &topology).await?;
    }
    connection.close().await;
    let sandbox = Sandbox { scripted: Some(args.slow), quiet: args.quiet, ..Sandbox::default() };
    // It serves until the process ends: the worker needs it for the calls in flight.
    tokio::spawn(sandbox.serve(listener, std::future::pending()));
    let (tell_started, started) = oneshot::channel();
    // The receiver is there as long as the worker runs.
    let worker = run_worker(settings, |status| drop(tell_started.send(status)));
    let announced = async {
        match started.await {
            Ok(status) => announce(status, topology, deadline, args.start_timeout).await,
            // The worker could not start, and says why.
            Err(_dropped) => Ok(()),
        }
    };
    tokio::pin!(worker);
    tokio::select! {
        biased;
        ended = &mut worker => return ended,
        announced = announced => announced?,
    }
    worker.await
}

/// Connects, to see whether the worker can. RabbitMQ may just be starting, so this is repeated, but
/// not if it refuses the user: a worker would try for ever, and a test that waits for it would hang.
async fn connect(settings: &Settings, deadline: Instant) -> Result<Connection, Failure> {
    let connector = Connector::new(&settings.rabbitmq.broker);
    loop {
        let error = match connector.connect("dev").await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        if error.is_refusal() || Instant::now() + CONNECT_INTERVAL >= deadline {
            return Err(error.into());
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
}

/// Removes all requests, also those that wait for a retry. Dead letters stay.
async fn purge(connection: &Connection, topology: &Topology) -> anyhow::Result<()> {
    let tiers = Tier::ALL.into_iter().map(|tier| topology.retry_queue(tier));
    for queue in [topology.requests(), topology.undeliverable()].into_iter().chain(tiers) {
        let channel = connection.create_channel().await?;
        match channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await {
            Ok(_count) => channel.close(200, "purged".into()).await?,
            // RabbitMQ has closed the channel.
            Err(error) if matches!(soft_error(&error), Some((AMQPSoftError::NOTFOUND, _))) => {}
            Err(error) => return Err(error).context(format!("queue {queue} cannot be purged")),
        }
    }
    Ok(())
}

/// The usual settings, apart from those that make it a double.
fn settings(files: &[PathBuf], args: &DevArgs, trackfinity: SocketAddr) -> Result<Settings, Failure> {
    let base_url = format!("http://{trackfinity}");
    let stand_in = [
        ("TRACKFINITY__BASE_URL", base_url.as_str()),
        ("TRACKFINITY__API_KEY", "dev"),
        ("TRACKFINITY__API_KEY_FILE", ""),
        ("TRACKFINITY__API_USERNAME", "dev"),
        ("TRACKFINITY__API_USERNAME_FILE", ""),
    ];
    let broker = args.broker.iter().flat_map(|url| [("BROKER__URL", url.as_str()), ("BROKER__URL_FILE", "")]);
    let prefix = args.prefix.iter().map(|prefix| ("TOPOLOGY__PREFIX", prefix.as_str()));
    let own = stand_in.into_iter().chain(SHORT_RETRIES).chain(broker).chain(prefix);
    let own = own.map(|(key, value)| (format!("UNLOCKER__{key}"), value.to_owned()));
    Ok(Settings::load(files, environment().chain(own))?)
}

/// Prints a line once requests are consumed. Fails if that takes too long.
async fn announce(
    status: StatusHandle,
    topology: Topology,
    deadline: Instant,
    limit: Duration,
) -> Result<(), Failure> {
    if tokio::time::timeout_at(deadline, status.ready()).await.is_err() {
        let limit = humantime::format_duration(limit);
        let why = status.current().topology.unwrap_or_else(|| "the log says why".to_owned());
        return Err(anyhow!("the worker is not ready within {limit}: {why}").into());
    }
    let ready = format_args!(
        "ready: publish requests to the exchange {} with the routing key request, and bind a queue to the \
         exchange {} for outcomes",
        topology.exchange(),
        topology.results()
    );
    // If no one reads stdout, `/readyz` still says it.
    drop(print(ready));
    Ok(())
}

/// Asks `/readyz` of the process that serves `ops.listen`.
async fn ask_readiness(address: SocketAddr) -> anyhow::Result<()> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_bytes| answer)
    };
    let answer = tokio::time::timeout(PROBE_TIMEOUT, ask)
        .await
        .map_err(|_elapsed| anyhow!("not ready: no answer from {address}"))?
        .with_context(|| format!("not ready: nothing answers at {address}"))?;
    if answer.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    let reason = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_, body)| body);
    Err(anyhow!("not ready: {reason}"))
}

/// An address of this machine in place of "all addresses".
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    }
}
