//! The results, for people and as JSON for programs.

use serde::Serialize;

use crate::bounds::Bounds;
use crate::contender::Contender;
use crate::figures::Spread;

/// All results of one run of the bench.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub machine: String,
    pub broker: String,
    pub figures: Vec<Figure>,
    pub bounds: Bounds,
}

/// One value of one contender, over all rounds.
#[derive(Debug, Serialize)]
pub struct Figure {
    contender: &'static str,
    name: String,
    unit: &'static str,
    value: Spread,
}

impl Report {
    /// Prints and keeps a value of a contender.
    pub fn figure(&mut self, contender: Contender, name: &str, unit: &'static str, value: Spread) {
        let contender = contender.name();
        let Spread { median, least, most } = value;
        println!("{contender:<10} {name:<34} {median:>9.2} ({least:.2} to {most:.2}) {unit}");
        self.figures.push(Figure { contender, name: name.to_owned(), unit, value });
    }

    /// Prints and keeps a value of both contenders; returns the median of the gateway's value divided by the bare
    /// loop's of the same round.
    pub fn compare<T>(
        &mut self,
        rounds: &[[T; 2]],
        name: &str,
        unit: &'static str,
        value: impl Fn(&T) -> f64,
    ) -> f64 {
        for (index, contender) in Contender::BOTH.into_iter().enumerate() {
            let spread = Spread::of(rounds.iter().map(|round| value(&round[index])));
            self.figure(contender, name, unit, spread);
        }
        let ratio = Spread::of(rounds.iter().map(|[bare, gateway]| value(gateway) / value(bare)));
        println!(
            "{:<10} {:<34} {:>9.2} ({:.2} to {:.2})",
            "", "ratio", ratio.median, ratio.least, ratio.most
        );
        ratio.median
    }
}
