//! One turn of one contender: how long it takes to empty a queue full of requests.

use std::time::{Duration, Instant};

use kit::{Process, Program, Signal};
use serde::Serialize;

use crate::api::Api;
use crate::machine::Ticks;
use crate::memory::Memory;
use crate::site::{Kind, Queues};

/// How long a contender may do nothing.
const LIMIT: Duration = Duration::from_secs(60);
/// How often the outcomes are counted.
const LOOK: Duration = Duration::from_millis(20);

/// Who does the work.
#[derive(Clone, Debug)]
pub struct Contender {
    pub name: &'static str,
    program: Which,
    concurrency: u16,
    processes: usize,
    env: Vec<(&'static str, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Bare,
    Unlocker,
}

impl Contender {
    pub fn bare() -> Self {
        Self { name: "bare loop", program: Which::Bare, concurrency: 64, processes: 1, env: Vec::new() }
    }

    pub fn unlocker() -> Self {
        Self { name: "unlocker", program: Which::Unlocker, ..Self::bare() }
    }

    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    pub fn concurrency(self, concurrency: u16) -> Self {
        Self { concurrency, ..self }
    }

    pub fn processes(self, processes: usize) -> Self {
        Self { processes, ..self }
    }

    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Starts one process of it.
    pub fn start(&self, queues: &Queues, api: &Api) -> Process {
        let authority = api.authority().map(|file| file.display().to_string());
        let program = match self.program {
            Which::Bare => {
                let concurrency = self.concurrency.to_string();
                let file = authority.as_deref().unwrap_or_default();
                let program = Program::new(std::env::current_exe().expect("a path")).arg("role-bare");
                program.args([queues.amqp_url(), &api.url, &concurrency, file])
            }
            Which::Unlocker => {
                let program = Program::new(env!("CARGO_BIN_EXE_unlocker"))
                    .arg("run")
                    .env("UNLOCKER__BROKER__URL", queues.amqp_url())
                    .env("UNLOCKER__BROKER__DECLARE", (queues.kind != Kind::Classic).to_string())
                    .env("UNLOCKER__TRACKFINITY__BASE_URL", &api.url)
                    .env("UNLOCKER__TRACKFINITY__API_KEY", "key")
                    .env("UNLOCKER__TRACKFINITY__API_USERNAME", "user")
                    .env("UNLOCKER__OPS__LISTEN", "127.0.0.1:0")
                    .env("UNLOCKER__WORKER__CONCURRENCY", self.concurrency.to_string());
                match authority {
                    Some(file) => program.env("UNLOCKER__TRACKFINITY__CA_FILE", file),
                    None => program,
                }
            }
        };
        self.env.iter().fold(program, |program, (name, value)| program.env(name, value)).start()
    }
}

/// The results of one turn.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Turn {
    /// Outcomes per second.
    pub rate: f64,
    /// Processor time of the contender's processes, user and system, in µs per outcome.
    pub cpu: f64,
    /// The most resident memory that any of them had, in MiB.
    pub rss: f64,
    /// What is resident at the end of the turn, of the first of them.
    pub memory: Memory,
    /// Processor time of the fake Trackfinity, in µs per outcome.
    pub api_cpu: f64,
    /// Processor time of the broker, if it can be measured.
    pub broker_cpu: Option<f64>,
    /// The share of all processors in use, by all processes: near one, they are the limit.
    pub busy: f64,
}

/// Empties a queue of `count` requests. Measures from the end of the first sixth, in which connections are opened and
/// caches filled, until there are `until` outcomes.
pub async fn turn(contender: &Contender, queues: &Queues, api: &Api, count: usize, until: usize) -> Turn {
    queues.purge().await;
    queues.fill(0, count).await;
    let processes: Vec<Process> = (0..contender.processes).map(|_| contender.start(queues, api)).collect();
    let begun = reach(contender, queues, &processes, count / 6).await;
    let before = Sample::take(begun, &processes, queues, api);
    let ended = reach(contender, queues, &processes, until).await;
    let after = Sample::take(ended, &processes, queues, api);
    let rss = processes.iter().map(Process::peak_rss).max().unwrap_or_default();
    let memory = processes.first().map(Memory::of).unwrap_or_default();
    if until == count {
        assert_eq!(queues.outcomes().await, count, "{}: outcomes", contender.name);
        assert_eq!(queues.waiting().await, 0, "{}: requests left", contender.name);
    }
    for process in &processes {
        match contender.program {
            Which::Bare => process.kill9(),
            Which::Unlocker => process.signal(Signal::TERM),
        }
    }
    for process in &processes {
        let status = process.wait_exit(LIMIT).await;
        assert!(contender.program == Which::Bare || status.success(), "{}: {status}", contender.name);
    }
    let outcomes = (after.outcomes - before.outcomes) as f64;
    let each = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / outcomes;
    Turn {
        rate: outcomes / (after.at - before.at).as_secs_f64(),
        cpu: each(before.cpu, after.cpu),
        rss: rss as f64 / 1024.0 / 1024.0,
        memory,
        api_cpu: each(before.api_cpu, after.api_cpu),
        broker_cpu: before.broker_cpu.zip(after.broker_cpu).map(|(before, after)| each(before, after)),
        busy: after.machine.busy_since(&before.machine),
    }
}

/// The measured values at one moment.
struct Sample {
    at: Instant,
    outcomes: usize,
    cpu: Duration,
    api_cpu: Duration,
    broker_cpu: Option<Duration>,
    machine: Ticks,
}

impl Sample {
    fn take((at, outcomes): (Instant, usize), processes: &[Process], queues: &Queues, api: &Api) -> Self {
        let cpu = processes.iter().map(Process::cpu_time).sum();
        let (api_cpu, broker_cpu) = (api.cpu_time(), queues.broker_cpu());
        Self { at, outcomes, cpu, api_cpu, broker_cpu, machine: Ticks::now() }
    }
}

/// Waits for this many outcomes. Returns when they were seen, and how many there were.
async fn reach(
    contender: &Contender,
    queues: &Queues,
    processes: &[Process],
    count: usize,
) -> (Instant, usize) {
    let (mut last, mut last_at) = (0, Instant::now());
    loop {
        let outcomes = queues.outcomes().await;
        if outcomes >= count {
            return (Instant::now(), outcomes);
        }
        if outcomes > last {
            (last, last_at) = (outcomes, Instant::now());
        }
        assert!(last_at.elapsed() < LIMIT, "{}: {outcomes} of {count} outcomes", contender.name);
        assert!(processes.iter().all(|process| process.try_exit().is_none()), "{} ended", contender.name);
        tokio::time::sleep(LOOK).await;
    }
}
