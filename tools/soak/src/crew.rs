//! The workers: real `unlocker run` processes, each on a line to the broker of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use kit::{Process, Program, RabbitNode, Signal, TcpCutter};
use tokio::time::{Instant, sleep};

use crate::install::{Install, KEY};
use crate::journal::Journal;

/// Requests in flight at once in one worker.
pub const CONCURRENCY: usize = 32;
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// What a stop may take besides the drain: the cancel, the goodbyes, and a busy machine.
const STOP_MARGIN: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(30);

pub struct Crew {
    pub slots: [Slot; 2],
    secrets: PathBuf,
    logs: PathBuf,
    install_url: String,
    history: bool,
    journal: Arc<Journal>,
}

pub struct Slot {
    pub name: char,
    /// Between this worker and the broker.
    pub line: TcpCutter,
    broker_url: String,
    worker: Mutex<Option<Arc<Process>>>,
    starts: AtomicUsize,
}

impl Slot {
    async fn new(name: char, node: &RabbitNode) -> Self {
        let (host, port) = node.address();
        let line = TcpCutter::start(format!("{host}:{port}")).await;
        let direct = node.amqp_url("/");
        let through = direct.replace(&format!(":{port}/"), &format!(":{}/", line.address().port()));
        // A short heartbeat: a dead line is to be noticed within the run.
        let broker_url = format!("{through}?heartbeat=2");
        Self { name, line, broker_url, worker: Mutex::default(), starts: AtomicUsize::new(0) }
    }

    fn worker(&self) -> MutexGuard<'_, Option<Arc<Process>>> {
        self.worker.lock().expect("no panic holds the worker")
    }

    pub fn runs(&self) -> bool {
        self.worker().is_some()
    }

    /// For SIGSTOP and SIGCONT.
    pub fn process(&self) -> Option<Arc<Process>> {
        self.worker().clone()
    }
}

impl Crew {
    /// `directory` is for the secrets' files and the workers' logs.
    pub async fn new(
        node: &RabbitNode,
        install: &Install,
        directory: &Path,
        history: bool,
        journal: Arc<Journal>,
    ) -> Self {
        let secrets = directory.join("secrets");
        fs::create_dir_all(&secrets).expect("a directory for the secrets");
        let slots = [Slot::new('A', node).await, Slot::new('B', node).await];
        let (logs, install_url) = (directory.to_owned(), install.url());
        let crew = Self { slots, secrets, logs, install_url, history, journal };
        crew.write("api-key", KEY);
        crew.write("api-username", "soak");
        for slot in &crew.slots {
            crew.write(&format!("broker-url-{}", slot.name), &slot.broker_url);
        }
        crew
    }

    /// Replaces a secret's file as Kubernetes does: whole, or not at all.
    fn write(&self, name: &str, secret: &str) {
        let (new, path) = (self.secrets.join("new"), self.secrets.join(name));
        fs::write(&new, secret).and_then(|()| fs::rename(&new, &path)).expect("a secret can be written");
    }

    pub fn set_key(&self, key: &str) {
        self.write("api-key", key);
    }

    pub fn running(&self) -> usize {
        self.slots.iter().filter(|slot| slot.runs()).count()
    }

    fn program(&self, slot: &Slot) -> Program {
        let secret = |name: &str| self.secrets.join(name);
        Program::new(path())
            .args(["--log-format", "json", "run"])
            .env("RUST_LOG", "info,trackfinity_unlocker=debug")
            .env("UNLOCKER__BROKER__URL_FILE", secret(&format!("broker-url-{}", slot.name)))
            .env("UNLOCKER__TRACKFINITY__BASE_URL", &self.install_url)
            .env("UNLOCKER__TRACKFINITY__API_KEY_FILE", secret("api-key"))
            .env("UNLOCKER__TRACKFINITY__API_USERNAME_FILE", secret("api-username"))
            .env("UNLOCKER__TRACKFINITY__TIMEOUT", "2s")
            .env("UNLOCKER__TRACKFINITY__CONNECT_TIMEOUT", "1s")
            .env("UNLOCKER__WORKER__CONCURRENCY", CONCURRENCY.to_string())
            .env("UNLOCKER__WORKER__DRAIN_TIMEOUT", format!("{}s", DRAIN_TIMEOUT.as_secs()))
            .env("UNLOCKER__RETRY__MAX_ATTEMPTS", "10")
            .env("UNLOCKER__RETRY__MAX_DELAY", "2s")
            .env("UNLOCKER__PAUSE__PROBE_DELAY", "200ms")
            .env("UNLOCKER__PAUSE__PROBE_MAX_DELAY", "2s")
            .env("UNLOCKER__HISTORY__ENABLED", self.history.to_string())
            .env("UNLOCKER__OPS__LISTEN", "")
    }

    pub fn start(&self, slot: &Slot) {
        slot.starts.fetch_add(1, Ordering::SeqCst);
        *slot.worker() = Some(Arc::new(self.program(slot).start()));
    }

    /// Starts one and waits until it consumes.
    pub async fn start_and_wait(&self, slot: &Slot) {
        self.start(slot);
        if let Some(worker) = slot.process() {
            worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
        }
    }

    /// SIGKILL.
    pub async fn kill(&self, slot: &Slot) {
        let worker = slot.worker().take();
        if let Some(worker) = worker {
            worker.kill9();
            self.keep_log(slot, &worker).await;
        }
    }

    /// SIGTERM: it has to leave with 0, in time.
    pub async fn stop(&self, slot: &Slot) {
        let worker = slot.worker().take();
        let Some(worker) = worker else { return };
        let name = slot.name;
        // One that has hardly begun is not listening for signals yet: it is ended, and holds nothing.
        let listening = worker.stderr().iter().any(|line| line.contains("started"));
        if worker.try_exit().is_none() {
            worker.signal(Signal::TERM);
        }
        let begun = Instant::now();
        let status = loop {
            match worker.try_exit() {
                None if begun.elapsed() < 4 * DRAIN_TIMEOUT => sleep(Duration::from_millis(5)).await,
                status => break status,
            }
        };
        let (took, limit) = (begun.elapsed(), DRAIN_TIMEOUT + STOP_MARGIN);
        match status {
            None => self.journal.complain(format!("worker {name} did not stop within {took:.1?} of SIGTERM")),
            Some(status) if !status.success() && listening => {
                self.journal.complain(format!("worker {name}, asked to stop, left with {status}"));
            }
            Some(_) if took > limit => {
                self.journal
                    .complain(format!("worker {name} took {took:.1?} to stop; {limit:?} is the most"));
            }
            Some(_) => {}
        }
        worker.kill9();
        self.keep_log(slot, &worker).await;
    }

    /// Sees to it that no worker has ended by itself.
    pub async fn look_after(&self) {
        for slot in &self.slots {
            let ended = slot.process().and_then(|worker| Some((worker.try_exit()?, worker)));
            let Some((status, worker)) = ended else { continue };
            // It may have been taken since, to end it.
            let same = slot.worker().take_if(|now| Arc::ptr_eq(now, &worker)).is_some();
            if same {
                self.journal.complain(format!("worker {} ended by itself: {status}", slot.name));
                self.keep_log(slot, &worker).await;
                self.start(slot);
            }
        }
    }

    async fn keep_log(&self, slot: &Slot, worker: &Process) {
        // For the last of its output.
        worker.wait_exit(SOON).await;
        let count = slot.starts.load(Ordering::SeqCst);
        let path = self.logs.join(format!("worker-{}-{count:03}.log", slot.name));
        fs::write(path, worker.stderr().join("\n") + "\n").expect("a worker's log can be written");
    }
}

/// `unlocker dead-letters COMMAND`.
pub fn dead_letters(url: &str, command: &str) -> Program {
    unlocker(url).args(["dead-letters", command])
}

/// The program with this broker.
pub fn unlocker(url: &str) -> Program {
    Program::new(path()).env("UNLOCKER__BROKER__URL", url)
}

/// The program the soak was built with.
fn path() -> PathBuf {
    let soak = std::env::current_exe().expect("the soak has a path");
    soak.with_file_name("unlocker")
}
