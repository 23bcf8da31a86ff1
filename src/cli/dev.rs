//! `unlocker dev`: the worker and a stand-in for Trackfinity in one process, for the tests of services
//! that send requests.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{failure::Failure, print::print, run::run_worker};
use crate::{
    broker::Topology,
    sandbox::Sandbox,
    settings::{Settings, environment},
    worker::StatusHandle,
};

/// How long `--is-ready` waits for an answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

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
    let sandbox = Sandbox { scripted: Some(args.slow), quiet: args.quiet, ..Sandbox::default() };
    // It serves until the process ends: the worker needs it for the calls in flight.
    tokio::spawn(sandbox.serve(listener, std::future::pending()));
    let topology = Topology::new(&settings.rabbitmq.topology_prefix);
    run_worker(settings, |status| drop(tokio::spawn(announce(status, topology)))).await
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

/// Prints a line once requests are consumed.
async fn announce(status: StatusHandle, topology: Topology) {
    status.ready().await;
    let ready = format_args!(
        "ready: publish requests to the exchange {} with the routing key request, and bind a queue to the \
         exchange {} for outcomes",
        topology.exchange(),
        topology.results()
    );
    // If no one reads stdout, `/readyz` still says it.
    drop(print(ready));
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
