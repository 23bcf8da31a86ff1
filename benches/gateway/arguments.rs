//! The command line: what this process is.

pub const USAGE: &str = "usage: gateway [--pairs 5] [--seconds 5] [--steady 600] [NAME…]
  NAME   a scenario: rate, latency, connections, steady. Without any, all but steady run.";

pub enum Role {
    Bench(Options),
    /// The bare loop, with the URL of its broker.
    Bare {
        amqp: String,
    },
}

/// What the bench runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Turns of each contender.
    pub pairs: usize,
    /// How long the load of one turn lasts, in seconds.
    pub seconds: usize,
    /// How long the steady load lasts, in seconds.
    pub steady: usize,
    pub scenarios: Vec<String>,
}

impl Options {
    pub fn wants(&self, scenario: &str) -> bool {
        match self.scenarios.is_empty() {
            true => scenario != "steady",
            false => self.scenarios.iter().any(|wanted| wanted == scenario),
        }
    }
}

impl Role {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        // cargo adds this one for every bench.
        let mut arguments = arguments.filter(|argument| argument != "--bench").peekable();
        if arguments.next_if(|first| first == "role-bare").is_some() {
            let amqp = arguments.next().ok_or("role-bare needs a URL")?;
            return Ok(Self::Bare { amqp });
        }
        let mut options = Options { pairs: 5, seconds: 5, steady: 600, scenarios: Vec::new() };
        while let Some(argument) = arguments.next() {
            let slot = match argument.as_str() {
                "--pairs" => &mut options.pairs,
                "--seconds" => &mut options.seconds,
                "--steady" => &mut options.steady,
                "rate" | "latency" | "connections" | "steady" => {
                    options.scenarios.push(argument);
                    continue;
                }
                unknown => return Err(format!("{unknown} is neither an option nor a scenario")),
            };
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
            *slot = value.parse().map_err(|error| format!("{value}: {error}"))?;
            if *slot == 0 {
                return Err(format!("{argument} is zero"));
            }
        }
        Ok(Self::Bench(options))
    }
}
