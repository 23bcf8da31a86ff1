//! A RabbitMQ to run against.

mod cluster;
mod container_member;
#[cfg(feature = "docker")]
mod docker;
#[cfg(not(feature = "docker"))]
#[path = "node/without_docker.rs"]
mod docker;
mod find;
mod local;
#[cfg(all(test, feature = "docker"))]
mod tests;

use std::io::Write;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use lapin::{Connection, ConnectionProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use crate::management::Management;
use crate::vhost::Vhost;
pub use cluster::RabbitCluster;
use docker::DockerNode;
use local::LocalNode;

const UP_WITHIN: Duration = Duration::from_secs(90);

static SHARED: OnceCell<Result<RabbitNode, String>> = OnceCell::const_new();

/// How a test's own node differs from the default.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    conf: String,
    plugins: Vec<&'static str>,
    files: Vec<(&'static str, String)>,
    tls_port: Option<u16>,
    needs_local: bool,
}

impl NodeOptions {
    /// Adds a line to the node's `rabbitmq.conf`, such as `consumer_timeout = 5000`.
    pub fn conf(mut self, line: &str) -> Self {
        self.conf.push_str(line);
        self.conf.push('\n');
        self
    }

    /// Enables a plugin that listens on a port, such as `rabbitmq_stomp`. A node with one is always a
    /// `rabbitmq-server` on this machine: a container has no port for it.
    pub fn plugin(mut self, name: &'static str) -> Self {
        self.needs_local = true;
        self.plugin_without_port(name)
    }

    /// Enables a plugin that listens nowhere, such as `rabbitmq_auth_mechanism_ssl`.
    pub fn plugin_without_port(mut self, name: &'static str) -> Self {
        self.plugins.push(name);
        self
    }

    /// A file for the node. In `rabbitmq.conf`, `FILES/name` stands for its path.
    pub fn file(mut self, name: &'static str, content: &str) -> Self {
        self.files.push((name, content.to_owned()));
        self
    }

    /// AMQP with TLS on this port of 127.0.0.1, too. The lines `ssl_options.…` say which certificates.
    pub fn tls(mut self, port: u16) -> Self {
        self.tls_port = Some(port);
        self
    }

    /// The content of `rabbitmq.conf`, where the files are in `directory`, and TLS listens there.
    fn conf_for(&self, directory: &str, tls: impl Fn(u16) -> String) -> String {
        let listener = self.tls_port.map(|port| format!("listeners.ssl.1 = {}\n", tls(port)));
        self.conf.replace("FILES", directory) + &listener.unwrap_or_default()
    }

    fn enabled_plugins(&self) -> String {
        format!("[{}].\n", [&["rabbitmq_management"], self.plugins.as_slice()].concat().join(","))
    }
}

/// A RabbitMQ node with the management plugin. It ends with the test process, even if that is killed.
///
/// Found in this order:
/// 1. `UNLOCKER_TEST_AMQP_URL`, with `UNLOCKER_TEST_MANAGEMENT_URL` (default: same host and user, port 15672);
/// 2. a Docker engine that answers and holds or can pull `UNLOCKER_TEST_RABBITMQ_IMAGE` (default
///    `rabbitmq:4.0-management`); an image that was named and can't be had is an error;
/// 3. `rabbitmq-server` on this machine, as a private node on free ports.
///
/// `UNLOCKER_TEST_BROKER=local|docker` forces a kind.
pub struct RabbitNode {
    kind: Kind,
    amqp: Url,
    management: Url,
    own: bool,
}

enum Kind {
    Given,
    Docker(DockerNode),
    Local(LocalNode),
}

impl RabbitNode {
    /// The node that all tests of this process share. A test that damages its node uses [`RabbitNode::start_own`].
    ///
    /// # Panics
    /// When no broker can be had; the message says how to get one.
    pub async fn shared() -> &'static Self {
        let node = SHARED
            .get_or_init(|| async {
                let node = on_node_runtime(find::shared()).await;
                match &node {
                    Ok(node) => say(&format!("shared broker: {}", node.description())),
                    Err(error) => say(error),
                }
                node
            })
            .await;
        node.as_ref().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A node for one test to hurt, never the one of `UNLOCKER_TEST_AMQP_URL`. A `rabbitmq-server` on this machine
    /// comes first (it starts sooner), Docker second, unless `UNLOCKER_TEST_RABBITMQ_IMAGE` is set.
    ///
    /// # Panics
    /// When no broker can be had; the message says how to get one.
    pub async fn start_own(options: NodeOptions) -> Self {
        let node = on_node_runtime(find::own(options)).await.unwrap_or_else(|error| panic!("{error}"));
        say(&format!("own broker: {}", node.description()));
        node
    }

    /// What it is and where, for people.
    pub fn description(&self) -> String {
        let kind = match &self.kind {
            Kind::Given => "UNLOCKER_TEST_AMQP_URL".into(),
            Kind::Docker(node) => format!("Docker {}", node.image),
            Kind::Local(_) => "local rabbitmq-server".into(),
        };
        let (host, port) = self.address();
        format!("{kind} at {host}:{port}")
    }

    /// User and system CPU time so far; `None` if it cannot be measured.
    pub fn cpu_time(&self) -> Option<Duration> {
        match &self.kind {
            Kind::Local(node) => Some(node.cpu_time()),
            Kind::Docker(node) => node.cpu_time(),
            Kind::Given => None,
        }
    }

    /// Host and port of AMQP: where a proxy should point.
    pub fn address(&self) -> (String, u16) {
        let tls = self.amqp.scheme() == "amqps";
        let host = self.amqp.host_str().unwrap_or("127.0.0.1").to_owned();
        (host, self.amqp.port().unwrap_or(if tls { 5671 } else { 5672 }))
    }

    /// The AMQP URL of one of its vhosts.
    pub fn amqp_url(&self, vhost: &str) -> String {
        let mut url = self.amqp.clone();
        url.set_path(&format!("/{}", crate::management::segment(vhost)));
        url.into()
    }

    /// The management API, looking at one vhost.
    pub fn management(&self, vhost: &str) -> Management {
        Management::new(self.management.clone(), vhost)
    }

    /// Where the management page is, without user and password.
    pub fn management_url(&self) -> String {
        let url = &self.management;
        let port = url.port_or_known_default().unwrap_or(15672);
        format!("{}://{}:{port}", url.scheme(), url.host_str().unwrap_or("127.0.0.1"))
    }

    /// A new vhost, deleted when dropped.
    pub async fn vhost(&self) -> Vhost {
        Vhost::create(self).await
    }

    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    /// SIGKILL: the broker ends, its data stay.
    pub async fn kill(&self) {
        match &self.hurt().kind {
            Kind::Docker(node) => node.kill().await,
            Kind::Local(node) => node.kill(),
            Kind::Given => unreachable!("never an own node"),
        }
    }

    /// Starts it again after [`RabbitNode::kill`]: same data, same ports. Returns when AMQP connects.
    pub async fn restart(&self) {
        match &self.hurt().kind {
            Kind::Docker(node) => node.start_again().await,
            Kind::Local(node) => node.launch(),
            Kind::Given => unreachable!("never an own node"),
        }
        self.wait_until_up().await.unwrap_or_else(|error| panic!("the node did not come back: {error}"));
    }

    /// Freezes it: connections stay open and nothing answers.
    pub async fn freeze(&self) {
        match &self.hurt().kind {
            Kind::Docker(node) => node.pause().await,
            Kind::Local(node) => node.stop().await,
            Kind::Given => unreachable!("never an own node"),
        }
    }

    /// Ends [`RabbitNode::freeze`].
    pub async fn thaw(&self) {
        match &self.hurt().kind {
            Kind::Docker(node) => node.unpause().await,
            Kind::Local(node) => node.signal(rustix::process::Signal::CONT),
            Kind::Given => unreachable!("never an own node"),
        }
    }

    /// Raises or clears the memory alarm: publishing connections are blocked while it is on.
    pub async fn memory_alarm(&self, on: bool) {
        let watermark: &[&str] = if on { &["absolute", "1"] } else { &["0.6"] };
        let args = [&["set_vm_memory_high_watermark"], watermark].concat();
        self.hurt().rabbitmqctl(&args).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Closes every AMQP connection from the broker's side.
    pub async fn close_all_connections(&self) {
        let args = ["close_all_connections", "--global", "closed by the test"];
        self.hurt().rabbitmqctl(&args).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Runs `rabbitmqctl` against it and returns its standard output.
    ///
    /// # Errors
    /// Its output, when it exits with another code than 0; also for a broker given by URL.
    pub async fn rabbitmqctl(&self, args: &[&str]) -> Result<String, String> {
        match &self.kind {
            Kind::Docker(node) => node.rabbitmqctl(args).await,
            Kind::Local(node) => node.rabbitmqctl(args).await,
            Kind::Given => Err("no rabbitmqctl for a broker given by UNLOCKER_TEST_AMQP_URL".into()),
        }
    }

    fn hurt(&self) -> &Self {
        assert!(self.own, "only a node of the test's own may be hurt: RabbitNode::start_own");
        self
    }

    async fn wait_until_up(&self) -> Result<(), String> {
        let until = Instant::now() + UP_WITHIN;
        let (host, port) = self.address();
        // A published Docker port accepts connections before the broker does. Only AMQP's greeting shows that it runs.
        while !greets(&host, port).await {
            self.look_alive()?;
            if Instant::now() > until {
                return Err(format!("no AMQP greeting within {UP_WITHIN:?}{}", self.log_tail()));
            }
            sleep(Duration::from_millis(50)).await;
        }
        let management = self.management("/");
        loop {
            let seen = match connects(&self.amqp_url("/")).await {
                Ok(()) => management.get("/api/vhosts").await.map(drop),
                Err(error) => Err(error),
            };
            match seen {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > until => {
                    return Err(format!("{error}{}", self.log_tail()));
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn look_alive(&self) -> Result<(), String> {
        match &self.kind {
            Kind::Local(node) if !node.is_running() => {
                Err(format!("rabbitmq-server ended{}", self.log_tail()))
            }
            _ => Ok(()),
        }
    }

    fn log_tail(&self) -> String {
        match &self.kind {
            Kind::Local(node) => format!("; the end of its log:\n{}", node.log_tail()),
            _ => String::new(),
        }
    }
}

/// Writes to the real standard error: a passing test hides what `eprintln!` writes.
fn say(line: &str) {
    writeln!(std::io::stderr(), "testbed: {line}").ok();
}

/// Nodes outlive the runtime of the test that started them, and so must their clients.
fn node_runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime for the nodes")
    })
}

pub(crate) async fn on_node_runtime<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match node_runtime().spawn(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The same from `Drop`, which can't await; `None` when it takes longer than `limit`.
pub(crate) fn block_on_node_runtime<T: Send + 'static>(
    limit: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (done, result) = std::sync::mpsc::channel();
    drop(node_runtime().spawn(async move { done.send(work.await).ok() }));
    result.recv_timeout(limit).ok()
}

/// A command's standard output.
///
/// # Errors
/// It can't be started, does not end within `limit`, or exits with another code than 0.
async fn output(command: &mut Command, limit: Duration) -> Result<String, String> {
    let shown = {
        let command = command.as_std();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    };
    let output = match timeout(limit, command.stdin(Stdio::null()).kill_on_drop(true).output()).await {
        Ok(output) => output.map_err(|error| format!("{shown}: {error}"))?,
        Err(_) => return Err(format!("{shown}: no end within {limit:?}")),
    };
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{shown}: {}: {stdout}{stderr}", output.status))
}

/// Whether a broker answers AMQP's protocol header with `connection.start`.
async fn greets(host: &str, port: u16) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect((host, port)).await.ok()?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await.ok()?;
        let mut method = [0_u8; 11];
        stream.read_exact(&mut method).await.ok()?;
        (method[0] == 1 && method[7..] == [0, 10, 0, 10]).then_some(())
    };
    timeout(Duration::from_secs(2), greeting).await.is_ok_and(|greeted| greeted.is_some())
}

async fn connects(url: &str) -> Result<(), String> {
    let attempt = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        connection.close(200, "seen".into()).await
    };
    match timeout(Duration::from_secs(10), attempt).await {
        Ok(result) => result.map_err(|error| format!("AMQP: {error}")),
        Err(_) => Err("AMQP: no handshake within 10 s".into()),
    }
}
