//! The command line: what this process is.

use std::path::PathBuf;
use std::time::Duration;

pub const USAGE: &str = "usage: throughput [--pairs 5] [--requests 30000] [--backlog 1000000] [NAME…]
  NAME   a scenario, or the beginning of one's name: quorum, classic, tls, delayed, failing, telemetry, logs,
         history, memory, workers, latency, idle, backlog. Without any, all run.";

pub enum Role {
    Bench(Options),
    /// With TLS if it is given a file, into which it writes the authority of its certificate.
    Api(Behaviour, Option<PathBuf>),
    Bare(Bare),
    Collector,
}

/// What the bench runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Turns of each contender.
    pub pairs: usize,
    /// Requests a turn, where the API answers at once.
    pub requests: usize,
    /// Requests that wait, in the scenario of that name.
    pub backlog: usize,
    pub scenarios: Vec<String>,
}

impl Options {
    pub fn wants(&self, scenario: &str) -> bool {
        self.scenarios.is_empty() || self.scenarios.iter().any(|wanted| scenario.starts_with(wanted.as_str()))
    }
}

/// How the fake Trackfinity answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Behaviour {
    /// The mean latency. Each call takes up to a tenth more or less: with equal latencies, calls that began together
    /// would stay in step and wait for each other.
    pub latency: Duration,
    /// One of this many calls is answered 503; zero: none.
    pub fail_one_in: u64,
}

/// What the bare loop needs.
#[derive(Clone, Debug)]
pub struct Bare {
    pub amqp: String,
    pub api: String,
    pub concurrency: u16,
    /// The authority that the API's certificate is from, as a file.
    pub authority: Option<PathBuf>,
}

impl Role {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        // cargo adds this one for every bench.
        let mut arguments = arguments.filter(|argument| argument != "--bench").peekable();
        match arguments.peek().map(String::as_str) {
            Some("role-api") => {
                let [_, latency, fail_one_in, authority] = exactly(arguments)?;
                let latency = Duration::from_micros(number(&latency)?);
                Ok(Self::Api(Behaviour { latency, fail_one_in: number(&fail_one_in)? }, file(&authority)))
            }
            Some("role-bare") => {
                let [_, amqp, api, concurrency, authority] = exactly(arguments)?;
                let concurrency = concurrency.parse().map_err(|error| format!("{concurrency}: {error}"))?;
                Ok(Self::Bare(Bare { amqp, api, concurrency, authority: file(&authority) }))
            }
            Some("role-collector") => Ok(Self::Collector),
            _ => {
                let mut options =
                    Options { pairs: 5, requests: 30_000, backlog: 1_000_000, scenarios: Vec::new() };
                while let Some(argument) = arguments.next() {
                    let slot = match argument.as_str() {
                        "--pairs" => &mut options.pairs,
                        "--requests" => &mut options.requests,
                        "--backlog" => &mut options.backlog,
                        name if !name.starts_with('-') => {
                            options.scenarios.push(argument);
                            continue;
                        }
                        unknown => return Err(format!("unknown option {unknown}")),
                    };
                    let value = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
                    *slot = usize::try_from(number(&value)?).unwrap_or(usize::MAX);
                    if *slot == 0 {
                        return Err(format!("{argument} is zero"));
                    }
                }
                Ok(Self::Bench(options))
            }
        }
    }
}

fn exactly<const N: usize>(arguments: impl Iterator<Item = String>) -> Result<[String; N], String> {
    <[String; N]>::try_from(arguments.collect::<Vec<_>>())
        .map_err(|given| format!("{} words instead of {N}", given.len()))
}

/// An empty word is no file.
fn file(path: &str) -> Option<PathBuf> {
    (!path.is_empty()).then(|| path.into())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}
