//! The results, as a table for people and as JSON for programs, and which bounds were met.

use serde::Serialize;

use crate::bounds::Bounds;
use crate::figures::Spread;
use crate::run::Turn;

/// All results of one run of the bench.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub machine: String,
    pub broker: String,
    /// Calls per second that the fake Trackfinity answers alone.
    pub api_capacity: f64,
    pub contests: Vec<Contest>,
    pub figures: Vec<Figure>,
    pub bounds: Bounds,
}

/// Contenders that took turns. The others are compared with the first one.
#[derive(Debug, Serialize)]
pub struct Contest {
    pub scenario: String,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Serialize)]
pub struct Entry {
    pub name: &'static str,
    pub rate: Spread,
    pub cpu: Spread,
    pub rss: Spread,
    pub api_cpu: Spread,
    pub broker_cpu: Option<Spread>,
    pub busy: Spread,
    /// Each turn's value divided by that of the first contender in the same round.
    pub rate_ratio: Spread,
    pub cpu_ratio: Spread,
}

/// A value that is not a comparison.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub scenario: String,
    pub name: String,
    pub unit: &'static str,
    pub value: Spread,
}

impl Contest {
    /// `rounds` holds a turn of each contender, in the order of `names`.
    pub fn new(scenario: &str, names: &[&'static str], rounds: &[Vec<Turn>]) -> Self {
        let entry = |(index, name): (usize, &&'static str)| {
            let of = |figure: fn(&Turn) -> f64| Spread::of(rounds.iter().map(|round| figure(&round[index])));
            let ratio = |figure: fn(&Turn) -> f64| {
                Spread::of(rounds.iter().map(|round| figure(&round[index]) / figure(&round[0])))
            };
            Entry {
                name,
                rate: of(|turn| turn.rate),
                cpu: of(|turn| turn.cpu),
                rss: of(|turn| turn.rss),
                api_cpu: of(|turn| turn.api_cpu),
                broker_cpu: Spread::of_some(rounds.iter().map(|round| round[index].broker_cpu)),
                busy: of(|turn| turn.busy),
                rate_ratio: ratio(|turn| turn.rate),
                cpu_ratio: ratio(|turn| turn.cpu),
            }
        };
        let entries = names.iter().enumerate().map(entry).collect();
        let contest = Self { scenario: scenario.to_owned(), entries };
        contest.print();
        contest
    }

    pub fn entry(&self, name: &str) -> &Entry {
        self.entries.iter().find(|entry| entry.name == name).expect("a contender of that name")
    }

    fn print(&self) {
        println!(
            "\n{:<34} {:>22} {:>18} {:>9} {:>8} {:>9} {:>6}   rate and CPU against the first",
            self.scenario, "outcomes/s", "CPU µs each", "RSS MiB", "API µs", "broker µs", "busy"
        );
        for entry in &self.entries {
            let Entry { name, rate, cpu, rss, api_cpu, broker_cpu, busy, rate_ratio, cpu_ratio } = entry;
            let broker_cpu = broker_cpu.map_or_else(|| "?".to_owned(), |cpu| format!("{:.1}", cpu.median));
            println!(
                "  {name:<32} {:>6.0} ({:>5.0} to {:>5.0}) {:>6.1} ({:>4.0} to {:>3.0}) {:>9.1} {:>8.1} \
                 {broker_cpu:>9} {:>5.0}%   {:.2} ({:.2} to {:.2})  {:.2} ({:.2} to {:.2})",
                rate.median,
                rate.least,
                rate.most,
                cpu.median,
                cpu.least,
                cpu.most,
                rss.most,
                api_cpu.median,
                busy.median * 100.0,
                rate_ratio.median,
                rate_ratio.least,
                rate_ratio.most,
                cpu_ratio.median,
                cpu_ratio.least,
                cpu_ratio.most,
            );
        }
    }
}

impl Report {
    pub fn figure(&mut self, scenario: &str, name: &str, unit: &'static str, value: Spread) {
        println!("\n{scenario}: {name} {:.2} {unit} ({:.2} to {:.2})", value.median, value.least, value.most);
        self.figures.push(Figure { scenario: scenario.to_owned(), name: name.to_owned(), unit, value });
    }
}
