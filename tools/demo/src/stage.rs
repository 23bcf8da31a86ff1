//! Everything the demo starts: a broker, the sandbox, the worker, the gateway.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use testbed::{Amqp, NodeOptions, Process, Program, RabbitNode, Signal, Vhost};
use tokio::time::Instant;

use crate::cases::{Case, MAX_ATTEMPTS, Trackfinity};

pub const EXCHANGE: &str = "trackfinity.unlock";
pub const REQUEST_KEY: &str = "request";
pub const REQUESTS: &str = "trackfinity.unlock.requests";
pub const RESULTS: &str = "trackfinity.unlock.results";
pub const DEAD: &str = "trackfinity.unlock.dead";

pub const API_KEY: &str = "demo-key";
pub const API_USERNAME: &str = "demo";

const SOON: Duration = Duration::from_secs(20);

/// All queues but that of the dead letters.
pub fn waiting_queues() -> Vec<String> {
    let retry = (0..=10).map(|tier| format!("{EXCHANGE}.retry.{}s", 1 << tier));
    std::iter::once(REQUESTS.to_owned()).chain(retry).collect()
}

/// Dropped in this order: the gateway first, the broker last.
pub struct Stage {
    gateway: Process,
    worker: Process,
    sandbox: Process,
    pub amqp: Amqp,
    pub amqp_url: String,
    pub sandbox_url: String,
    /// Where the gateway takes requests over HTTP.
    pub gateway_address: String,
    vhost: Option<Vhost>,
    pub broker: Broker,
}

/// Where the broker comes from.
pub enum Broker {
    /// A private node, which ends with the demo.
    Own(Box<RabbitNode>),
    /// The one of `UNLOCKER_TEST_AMQP_URL`.
    Given(&'static RabbitNode),
}

impl Broker {
    async fn find() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if set("UNLOCKER_TEST_AMQP_URL") && !set("UNLOCKER_TEST_BROKER") {
            return Self::Given(RabbitNode::shared().await);
        }
        Self::Own(Box::new(RabbitNode::start_own(NodeOptions::default()).await))
    }

    pub fn node(&self) -> &RabbitNode {
        match self {
            Self::Own(node) => node,
            Self::Given(node) => node,
        }
    }
}

/// The program the demo was built with.
pub fn unlocker() -> PathBuf {
    let demo = std::env::current_exe().expect("the demo has a path");
    demo.with_file_name("unlocker")
}

impl Stage {
    pub async fn set_up(cases: &[Case]) -> Self {
        let begun = Instant::now();
        let broker = Broker::find().await;
        let vhost = match &broker {
            Broker::Own(_) => None,
            Broker::Given(node) => Some(node.vhost().await),
        };
        let amqp_url =
            vhost.as_ref().map_or_else(|| broker.node().amqp_url("/"), |vhost| vhost.amqp_url().to_owned());
        println!("broker   {}, up in {:.1} s", broker.node().description(), begun.elapsed().as_secs_f64());

        let (sandbox, sandbox_url) = start_sandbox(cases).await;
        println!("sandbox  a stand-in for Trackfinity at {sandbox_url}");

        let begun = Instant::now();
        let worker = worker(&amqp_url, &sandbox_url).start();
        worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
        println!("worker   `unlocker run`, consuming after {} ms", begun.elapsed().as_millis());

        let (gateway, gateway_address) = start_gateway(&amqp_url).await;
        println!("gateway  `unlocker gateway`, at http://{gateway_address}");

        let amqp = Amqp::connect(&amqp_url).await;
        Self { gateway, worker, sandbox, amqp, amqp_url, sandbox_url, gateway_address, vhost, broker }
    }

    /// Calls to unlock that the sandbox got.
    pub fn unlock_calls(&self) -> usize {
        self.sandbox.stdout().iter().filter(|line| line.contains("PATCH ")).count()
    }

    /// Whether the gateway, the worker or the sandbox has ended.
    pub fn has_fallen(&self) -> bool {
        [&self.gateway, &self.worker, &self.sandbox].into_iter().any(|process| process.try_exit().is_some())
    }

    /// Stops everything, in order. Returns what did not stop as it should, or had ended before.
    pub async fn strike(self) -> Vec<String> {
        let mut faults = Vec::new();
        let processes = [("gateway", self.gateway), ("worker", self.worker), ("sandbox", self.sandbox)];
        for (name, process) in processes {
            let was_running = process.try_exit().is_none();
            if was_running {
                process.signal(Signal::TERM);
            }
            let status = process.wait_exit(SOON).await;
            if !(was_running && status.success()) {
                let when = if was_running { "asked to stop, left" } else { "ended before it was asked to" };
                let log = process.stderr();
                let end_of_log = log[log.len().saturating_sub(10)..].join("\n  ");
                faults.push(format!("the {name} {when}: {status}\n  {end_of_log}"));
            }
        }
        self.amqp.close().await;
        drop(self.vhost);
        drop(self.broker);
        faults
    }
}

async fn start_sandbox(cases: &[Case]) -> (Process, String) {
    let mut known = Vec::new();
    let mut sandbox =
        Program::new(unlocker()).args(["sandbox", "--listen", "127.0.0.1:0", "--api-key", API_KEY]);
    for case in cases {
        match case.trackfinity {
            Trackfinity::Unlocks(identifier) => known.push(identifier),
            Trackfinity::First(identifier, statuses) => {
                known.push(identifier);
                sandbox = sandbox.arg("--first").arg(format!("{identifier}={statuses}"));
            }
            Trackfinity::Nothing => {}
        }
    }
    let process = sandbox.arg("--locked-customers").arg(known.join(",")).start();
    let line = process.wait_for_line(|line| line.contains("listening on "), SOON).await;
    let url = line.rsplit(' ').next().unwrap_or_default().to_owned();
    (process, url)
}

/// Settings by environment variables alone.
fn worker(amqp_url: &str, sandbox_url: &str) -> Program {
    Program::new(unlocker())
        .args(["--log-format", "json", "run"])
        .env("UNLOCKER__BROKER__URL", amqp_url)
        .env("UNLOCKER__TRACKFINITY__BASE_URL", sandbox_url)
        .env("UNLOCKER__TRACKFINITY__API_KEY", API_KEY)
        .env("UNLOCKER__TRACKFINITY__API_USERNAME", API_USERNAME)
        .env("UNLOCKER__RETRY__MAX_ATTEMPTS", MAX_ATTEMPTS.to_string())
        // Another worker on this machine may have the default address.
        .env("UNLOCKER__OPS__LISTEN", "")
}

/// A gateway for this machine alone, ready to publish and to wait for outcomes.
async fn start_gateway(amqp_url: &str) -> (Process, String) {
    let gateway = Program::new(unlocker())
        .args(["--log-format", "json", "gateway"])
        .env("UNLOCKER__BROKER__URL", amqp_url)
        .env("UNLOCKER__GATEWAY__LISTEN", "127.0.0.1:0")
        .env("UNLOCKER__OPS__LISTEN", "")
        .start();
    let started = gateway.wait_for_line(|line| line.contains(r#""event":"started""#), SOON).await;
    for event in ["publishing_connected", "replies_received"] {
        gateway.wait_for_line(|line| line.contains(&format!(r#""event":"{event}""#)), SOON).await;
    }
    let started: Value = serde_json::from_str(&started).expect("a line of the log is JSON");
    let address = started["address"].as_str().expect("the log names the address").to_owned();
    (gateway, address)
}
