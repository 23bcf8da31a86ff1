//! The command line.

use std::str::FromStr;
use std::time::Duration;

pub const USAGE: &str =
    "usage: soak [--seconds 120] [--seed N] [--rate 100] [--history on|off] [--faults on|off] [--nodes 1]";

pub struct Options {
    /// How long requests and faults flow.
    pub run_for: Duration,
    /// What is random, is so by this.
    pub seed: u64,
    /// Requests per second.
    pub rate: f64,
    /// Whether the stream of outcomes is there, and is a witness.
    pub history: bool,
    /// Without them it only measures what the processes take.
    pub faults: bool,
    /// Of RabbitMQ.
    pub nodes: usize,
}

impl Options {
    /// # Errors
    /// What is wrong with the arguments.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            run_for: Duration::from_secs(120),
            // Short enough to be typed again.
            seed: fastrand::u64(1..1_000_000),
            rate: 100.0,
            history: true,
            faults: true,
            nodes: 1,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} wants a value"))?;
            match name.as_str() {
                "--seconds" => options.run_for = Duration::from_secs(number(&name, &value)?),
                "--seed" => options.seed = number(&name, &value)?,
                "--rate" => options.rate = number(&name, &value)?,
                "--history" => options.history = is_on(&name, &value)?,
                "--faults" => options.faults = is_on(&name, &value)?,
                "--nodes" => options.nodes = number(&name, &value)?,
                _ => return Err(format!("{name} is not known")),
            }
        }
        if !(0.1..=10_000.0).contains(&options.rate) {
            return Err("--rate is not between 0.1 and 10000".into());
        }
        if ![1, 3, 5].contains(&options.nodes) {
            return Err("--nodes is not 1, 3 or 5".into());
        }
        Ok(options)
    }
}

fn is_on(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{name}: {value:?} is neither on nor off")),
    }
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}: {value:?} is not a number that fits"))
}
