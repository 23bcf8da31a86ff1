//! A place for one of our processes: its line to the broker, its clock, and the process that has it now.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kit::{Process, Program, TcpCutter, free_port};

use crate::broker::Broker;
use crate::clock::Clock;

/// Bytes of a log that tell how a process has started.
const START_OF_LOG: u64 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Worker,
    Gateway,
    Console,
}

impl Role {
    /// The program's command.
    pub fn command(self) -> &'static str {
        match self {
            Self::Worker => "run",
            Self::Gateway => "gateway",
            Self::Console => "console",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "a worker",
            Self::Gateway => "the gateway",
            Self::Console => "the console",
        }
    }
}

pub struct Slot {
    pub role: Role,
    pub name: &'static str,
    /// Between this process and each of the broker's nodes.
    pub lines: Vec<TcpCutter>,
    pub clock: Option<Clock>,
    /// Where it serves, if it does.
    pub address: String,
    pub broker_url: String,
    process: Mutex<Option<Arc<Process>>>,
    starts: AtomicUsize,
    logs: PathBuf,
}

impl Slot {
    /// With `moves_clock` its clock can be made to jump. The console needs no clock that is right.
    pub async fn new(
        role: Role,
        name: &'static str,
        broker: &Broker,
        logs: &Path,
        moves_clock: bool,
    ) -> Self {
        let (mut lines, mut urls) = (Vec::new(), Vec::new());
        for node in broker.nodes() {
            let (host, port) = node.address();
            let line = TcpCutter::start(format!("{host}:{port}")).await;
            let through =
                node.amqp_url("/").replace(&format!(":{port}/"), &format!(":{}/", line.address().port()));
            // A short heartbeat: a dead line is to be noticed within the run.
            urls.push(format!("{through}?heartbeat=2"));
            lines.push(line);
        }
        let clock = (moves_clock && role != Role::Console)
            .then(|| Clock::new(&logs.join(format!("clock-{}", name.replace(' ', "-")))));
        Self {
            role,
            name,
            lines,
            clock,
            address: format!("127.0.0.1:{}", free_port()),
            broker_url: urls.join(","),
            process: Mutex::default(),
            starts: AtomicUsize::new(0),
            logs: logs.to_owned(),
        }
    }

    /// How many workers are cut off from the broker with it.
    pub fn workers(&self) -> usize {
        usize::from(self.role == Role::Worker)
    }

    pub fn runs(&self) -> bool {
        self.lock().is_some()
    }

    /// For SIGSTOP and SIGCONT, and to look at it.
    pub fn process(&self) -> Option<Arc<Process>> {
        self.lock().clone()
    }

    pub fn start(&self, program: &Program) {
        self.starts.fetch_add(1, Ordering::SeqCst);
        *self.lock() = Some(Arc::new(program.clone().stderr_to(self.log()).start()));
    }

    /// Takes the process out, to end it.
    pub fn take(&self) -> Option<Arc<Process>> {
        self.lock().take()
    }

    /// The same, if it is still this one.
    pub fn take_if(&self, process: &Arc<Process>) -> bool {
        self.lock().take_if(|now| Arc::ptr_eq(now, process)).is_some()
    }

    /// Whether the process that was started last has logged this text at its start.
    pub fn has_logged(&self, text: &str) -> bool {
        let mut log = Vec::new();
        let read = File::open(self.log()).and_then(|file| file.take(START_OF_LOG).read_to_end(&mut log));
        read.is_ok_and(|_| String::from_utf8_lossy(&log).contains(text))
    }

    /// Where the process that was started last logs.
    pub fn log(&self) -> PathBuf {
        let count = self.starts.load(Ordering::SeqCst);
        self.logs.join(format!("{}-{count:03}.log", self.name.replace(' ', "-")))
    }

    pub async fn cut(&self) {
        for line in &self.lines {
            line.cut().await;
        }
    }

    /// Drops what is sent in these directions.
    pub fn drop_bytes(&self, to_broker: bool, from_broker: bool) {
        for line in &self.lines {
            line.swallow(to_broker, from_broker);
        }
    }

    pub fn delay(&self, delay: Duration) {
        for line in &self.lines {
            line.delay(delay);
        }
    }

    /// Ends a cut and the dropping of bytes.
    pub async fn restore(&self) {
        for line in &self.lines {
            line.restore().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Process>>> {
        self.process.lock().expect("no panic holds the process")
    }
}
