//! `rabbitmq-server` of this machine as a private node.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{NodeOptions, output};
use crate::ports::free_port;
use crate::process::cpu_time_where;
use crate::watchdog::Watchdog;

/// The one in /usr/sbin changes user and directory.
const BIN: &str = "/usr/lib/rabbitmq/bin";

pub(super) struct LocalNode {
    pub(super) amqp_port: u16,
    pub(super) management_port: u16,
    dist_port: u16,
    epmd_port: u16,
    directory: PathBuf,
    name: String,
    /// The broker and the private epmd, each in a process group of its own.
    broker: Mutex<Option<Child>>,
    /// None in a cluster's further nodes, which have the first one's.
    epmd: Option<Child>,
    watchdog: Watchdog,
}

/// A node's place among others.
pub(super) struct Member {
    pub(super) name: String,
    /// The same in all nodes of a cluster.
    pub(super) cookie: String,
    /// Where the first node's epmd listens; `None` in that one.
    pub(super) epmd_port: Option<u16>,
}

impl LocalNode {
    pub(super) fn is_installed() -> bool {
        Path::new(BIN).join("rabbitmq-server").exists()
    }

    pub(super) fn start(options: &NodeOptions) -> Result<Self, String> {
        Self::start_as(None, options)
    }

    /// A node alone, or a member of a cluster.
    pub(super) fn start_as(member: Option<&Member>, options: &NodeOptions) -> Result<Self, String> {
        if !Self::is_installed() {
            return Err(format!("no {BIN}/rabbitmq-server on this machine"));
        }
        Self::prepare(member, options)
            .map_err(|error| format!("a private rabbitmq-server could not be started: {error}"))
    }

    /// Its name among Erlang's nodes.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn epmd_port(&self) -> u16 {
        self.epmd_port
    }

    fn prepare(member: Option<&Member>, options: &NodeOptions) -> std::io::Result<Self> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let name = member.map_or("kit@localhost", |member| &member.name).to_owned();
        let directory = format!("kit-rabbitmq-{}-{nanos}-{name}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        fs::create_dir_all(directory.join("log"))?;
        let watchdog = Watchdog::start();
        watchdog.directory(&directory);

        let (amqp_port, management_port, dist_port) = (free_port(), free_port(), free_port());
        if let Some(member) = member {
            let cookie = directory.join(".erlang.cookie");
            fs::write(&cookie, &member.cookie)?;
            fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
        }
        fs::write(directory.join("enabled_plugins"), options.enabled_plugins())?;
        for (name, content) in &options.files {
            fs::write(directory.join(name), content)?;
        }
        let conf = options.conf_for(&directory.to_string_lossy(), |port| format!("127.0.0.1:{port}"));
        fs::write(
            directory.join("rabbitmq.conf"),
            format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management_port}\n{conf}"),
        )?;

        let others = member.and_then(|member| member.epmd_port);
        let epmd_port = others.unwrap_or_else(free_port);
        let epmd = if others.is_some() { None } else { Some(start_epmd(epmd_port, &watchdog)?) };
        let broker = Mutex::new(None);
        let node = Self {
            amqp_port,
            management_port,
            dist_port,
            epmd_port,
            directory,
            name,
            broker,
            epmd,
            watchdog,
        };
        node.launch();
        Ok(node)
    }

    /// Starts the broker on the node's directory and ports.
    pub(super) fn launch(&self) {
        let mut broker = self.broker.lock().expect("no panic holds the broker");
        assert!(broker.is_none(), "the broker runs already");
        let log = File::options().create(true).append(true).open(self.directory.join("log/console.log"));
        let log = log.expect("the console log opens");
        let child = Command::new(Path::new(BIN).join("rabbitmq-server"))
            .envs(self.environment())
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a second handle"))
            .stdout(log)
            .current_dir(&self.directory)
            .process_group(0)
            .spawn()
            .expect("rabbitmq-server starts");
        self.watchdog.group(child.id());
        *broker = Some(child);
    }

    pub(super) fn kill(&self) {
        let mut broker = self.broker.lock().expect("no panic holds the broker");
        if let Some(mut child) = broker.take() {
            end_group(&mut child);
            self.watchdog.forget_group(child.id());
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let broker = self.broker.lock().expect("no panic holds the broker");
        let child = broker.as_ref().expect("the broker runs");
        kill_process_group(Pid::from_child(child), signal)
            .expect("the broker's process group takes a signal");
    }

    /// SIGSTOP, and waits until every thread has stopped: the signal itself does not wait.
    pub(super) async fn stop(&self) {
        self.signal(Signal::STOP);
        let pid =
            self.broker.lock().expect("no panic holds the broker").as_ref().map(std::process::Child::id);
        let tasks = format!("/proc/{}/task", pid.expect("the broker runs"));
        crate::eventually("the broker stands still", std::time::Duration::from_secs(10), async || {
            let threads = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
            threads.into_iter().all(|thread| {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                // The state comes after the name, which is in parentheses.
                stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
            })
        })
        .await;
    }

    pub(super) fn is_running(&self) -> bool {
        let mut broker = self.broker.lock().expect("no panic holds the broker");
        broker.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// CPU time of the broker's process group: Erlang's, and the shell's that started it.
    pub(super) fn cpu_time(&self) -> Duration {
        let broker = self.broker.lock().expect("no panic holds the broker");
        let Some(group) = broker.as_ref().map(|child| child.id().to_string()) else {
            return Duration::ZERO;
        };
        // The group is the third field after the name, which is in parentheses.
        cpu_time_where(|_, stat| {
            stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.split(' ').nth(2) == Some(&*group))
        })
    }

    pub(super) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log/console.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    pub(super) async fn rabbitmqctl(&self, args: &[&str]) -> Result<String, String> {
        let mut command = tokio::process::Command::new(Path::new(BIN).join("rabbitmqctl"));
        command.args(args).envs(self.environment()).current_dir(&self.directory);
        output(&mut command, Duration::from_secs(60)).await
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        let path = |name: &str| self.directory.join(name).into_os_string();
        // What a leader was dead-lettering when it died is tried again after this time; three minutes by default.
        let erlang = "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1} \
             -rabbit dead_letter_worker_publisher_confirm_timeout 5000";
        vec![
            ("HOME", path("")),
            ("RABBITMQ_NODENAME", self.name.as_str().into()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_NODE_PORT", self.amqp_port.to_string().into()),
            ("RABBITMQ_DIST_PORT", self.dist_port.to_string().into()),
            ("RABBITMQ_MNESIA_BASE", path("data")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
            ("RABBITMQ_FEATURE_FLAGS_FILE", path("feature_flags")),
            ("ERL_EPMD_PORT", self.epmd_port.to_string().into()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang.into()),
        ]
    }
}

impl Drop for LocalNode {
    fn drop(&mut self) {
        self.kill();
        if let Some(epmd) = &mut self.epmd {
            end_group(epmd);
            self.watchdog.forget_group(epmd.id());
        }
    }
}

/// Started here, in the foreground: one that Erlang starts outlives the node under an unknown pid.
fn start_epmd(port: u16, watchdog: &Watchdog) -> std::io::Result<Child> {
    let epmd = Command::new("epmd")
        .args(["-address", "127.0.0.1", "-port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()?;
    watchdog.group(epmd.id());
    Ok(epmd)
}

fn end_group(leader: &mut Child) {
    // Gone already is as good.
    kill_process_group(Pid::from_child(leader), Signal::KILL).ok();
    leader.wait().ok();
}
