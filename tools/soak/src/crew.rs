//! Our processes: two workers, a gateway and a console, each on a line to the broker of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kit::{Program, Signal, eventually};
use tokio::time::{Instant, sleep};

use crate::broker::Broker;
use crate::install::{Install, KEY};
use crate::journal::Journal;
use crate::options::Options;
use crate::slot::{Role, Slot};

/// Requests in flight at once in one worker.
pub const CONCURRENCY: usize = 32;
pub const MAX_ATTEMPTS: u64 = 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the gateway finishes what it has begun (docs/http.md).
const GATEWAY_FINISHES_WITHIN: Duration = Duration::from_secs(10);
/// What a stop may take besides: the cancel, the flush of traces and metrics, the goodbyes, and a busy machine.
const STOP_MARGIN: Duration = Duration::from_secs(7);
const SOON: Duration = Duration::from_secs(30);

pub struct Crew {
    pub slots: [Slot; 4],
    secrets: PathBuf,
    install_url: String,
    collector_url: String,
    history: bool,
    journal: Arc<Journal>,
}

impl Crew {
    /// `directory` is for the secrets' files and the logs.
    pub async fn new(
        broker: &Broker,
        install: &Install,
        collector_url: String,
        directory: &Path,
        options: &Options,
        journal: Arc<Journal>,
    ) -> Self {
        let secrets = directory.join("secrets");
        fs::create_dir_all(&secrets).expect("a directory for the secrets");
        let slot = async |role, name| Slot::new(role, name, broker, directory, options.faults).await;
        let slots = [
            slot(Role::Worker, "worker A").await,
            slot(Role::Worker, "worker B").await,
            slot(Role::Gateway, "gateway").await,
            slot(Role::Console, "console").await,
        ];
        let install_url = install.url();
        let crew = Self { slots, secrets, install_url, collector_url, history: options.history, journal };
        crew.write("api-key", KEY);
        crew.write("api-username", "soak");
        for slot in &crew.slots {
            crew.write(&broker_url_file(slot), &slot.broker_url);
        }
        crew
    }

    pub fn workers(&self) -> &[Slot] {
        &self.slots[..2]
    }

    pub fn gateway(&self) -> &Slot {
        &self.slots[2]
    }

    pub fn console(&self) -> &Slot {
        &self.slots[3]
    }

    /// Replaces a secret's file as Kubernetes does: whole, or not at all.
    fn write(&self, name: &str, secret: &str) {
        let (new, path) = (self.secrets.join("new"), self.secrets.join(name));
        fs::write(&new, secret).and_then(|()| fs::rename(&new, &path)).expect("a secret can be written");
    }

    pub fn set_key(&self, key: &str) {
        self.write("api-key", key);
    }

    /// Workers that run.
    pub fn running(&self) -> usize {
        self.workers().iter().filter(|slot| slot.runs()).count()
    }

    fn program(&self, slot: &Slot) -> Program {
        let secret = |name: &str| self.secrets.join(name);
        let log = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
        let program = Program::new(path())
            .args(["--log-format", "json", slot.role.command()])
            .env("RUST_LOG", log)
            .env("UNLOCKER__BROKER__URL_FILE", secret(&broker_url_file(slot)))
            .env("UNLOCKER__HISTORY__ENABLED", self.history.to_string())
            .env("UNLOCKER__OPS__LISTEN", "")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &self.collector_url)
            .env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
            .env("OTEL_TRACES_SAMPLER_ARG", "0.1");
        let program = match &slot.clock {
            Some(clock) => clock.of(program),
            None => program,
        };
        match slot.role {
            Role::Worker => program
                .env("UNLOCKER__TRACKFINITY__BASE_URL", &self.install_url)
                .env("UNLOCKER__TRACKFINITY__API_KEY_FILE", secret("api-key"))
                .env("UNLOCKER__TRACKFINITY__API_USERNAME_FILE", secret("api-username"))
                .env("UNLOCKER__TRACKFINITY__TIMEOUT", "2s")
                .env("UNLOCKER__TRACKFINITY__CONNECT_TIMEOUT", "1s")
                .env("UNLOCKER__WORKER__CONCURRENCY", CONCURRENCY.to_string())
                .env("UNLOCKER__WORKER__DRAIN_TIMEOUT", format!("{}s", DRAIN_TIMEOUT.as_secs()))
                .env("UNLOCKER__RETRY__MAX_ATTEMPTS", MAX_ATTEMPTS.to_string())
                .env("UNLOCKER__RETRY__MAX_DELAY", "2s")
                .env("UNLOCKER__PAUSE__PROBE_DELAY", "200ms")
                .env("UNLOCKER__PAUSE__PROBE_MAX_DELAY", "2s"),
            Role::Gateway => program.env("UNLOCKER__GATEWAY__LISTEN", &slot.address),
            Role::Console => program.env("UNLOCKER__CONSOLE__LISTEN", &slot.address),
        }
    }

    pub fn start(&self, slot: &Slot) {
        slot.start(&self.program(slot));
    }

    /// Starts the first worker and waits until it consumes; then the gateway and the console.
    pub async fn start_all(&self) {
        self.start(&self.slots[0]);
        eventually("a worker consumes", SOON, async || self.slots[0].has_logged(r#""message":"consuming""#))
            .await;
        for slot in [self.gateway(), self.console()] {
            self.start(slot);
            eventually(slot.name, SOON, async || slot.has_logged(r#""event":"started""#)).await;
        }
    }

    /// SIGKILL.
    pub fn kill(&self, slot: &Slot) {
        if let Some(process) = slot.take() {
            process.kill9();
        }
    }

    /// SIGTERM: it has to leave with 0, in time.
    pub async fn stop(&self, slot: &Slot) {
        // One that has hardly begun is not listening for signals yet: it is ended, and holds nothing.
        let listening = slot.has_logged("started");
        let (Some(process), name) = (slot.take(), slot.name) else { return };
        if process.try_exit().is_none() {
            process.signal(Signal::TERM);
        }
        let limit = STOP_MARGIN
            + match slot.role {
                Role::Worker => DRAIN_TIMEOUT,
                Role::Gateway => GATEWAY_FINISHES_WITHIN,
                Role::Console => Duration::ZERO,
            };
        let begun = Instant::now();
        let status = loop {
            match process.try_exit() {
                None if begun.elapsed() < 3 * limit => sleep(Duration::from_millis(5)).await,
                status => break status,
            }
        };
        let took = begun.elapsed();
        match status {
            None => self.journal.complain(format!("{name} did not stop within {took:.1?} of SIGTERM")),
            Some(status) if !status.success() && listening => {
                self.journal.complain(format!("{name}, asked to stop, left with {status}"));
            }
            Some(_) if took > limit => {
                self.journal.complain(format!("{name} took {took:.1?} to stop; {limit:?} is the most"));
            }
            Some(_) => {}
        }
        process.kill9();
    }

    /// Sees to it that none has ended by itself.
    pub async fn look_after(&self) {
        for slot in &self.slots {
            let ended = slot.process().and_then(|process| Some((process.try_exit()?, process)));
            let Some((status, process)) = ended else { continue };
            // It may have been taken since, to end it.
            if slot.take_if(&process) {
                let log = slot.log();
                self.journal.complain(format!("{} ended by itself: {status}; {}", slot.name, log.display()));
                self.start(slot);
            }
        }
    }
}

fn broker_url_file(slot: &Slot) -> String {
    format!("broker-url-{}", slot.name.replace(' ', "-"))
}

/// `unlocker dead-letters COMMAND`.
pub fn dead_letters(urls: &str, command: &str) -> Program {
    unlocker(urls).args(["dead-letters", command])
}

/// The program with this broker.
pub fn unlocker(urls: &str) -> Program {
    Program::new(path()).env("UNLOCKER__BROKER__URL", urls)
}

/// The program that is hurt: `UNLOCKER_SOAK_PROGRAM`, or the one beside the soak.
fn path() -> PathBuf {
    std::env::var_os("UNLOCKER_SOAK_PROGRAM").map_or_else(
        || std::env::current_exe().expect("the soak has a path").with_file_name("unlocker"),
        PathBuf::from,
    )
}
