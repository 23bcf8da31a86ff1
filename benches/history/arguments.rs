//! The command line.

pub const USAGE: &str = "usage: history [--outcomes 200000] [--in-flight 1] [--runs 3]
  --in-flight   how many outcomes are published at once. With 1, each is a chunk of its own in the stream, as on a
                quiet day. With more, RabbitMQ puts several into a chunk.";

/// What the bench runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many outcomes the stream has.
    pub outcomes: usize,
    pub in_flight: usize,
    /// Turns of each search.
    pub runs: usize,
}

impl Options {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { outcomes: 200_000, in_flight: 1, runs: 3 };
        // cargo adds this one for every bench.
        let mut arguments = arguments.filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            let slot = match argument.as_str() {
                "--outcomes" => &mut options.outcomes,
                "--in-flight" => &mut options.in_flight,
                "--runs" => &mut options.runs,
                unknown => return Err(format!("unknown option {unknown}")),
            };
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
            *slot = value.parse().map_err(|error| format!("{value}: {error}"))?;
            if *slot == 0 {
                return Err(format!("{argument} is zero"));
            }
        }
        Ok(options)
    }
}
