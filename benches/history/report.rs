//! The results, for people and as JSON for programs.

use serde::Serialize;

use crate::bounds::Bounds;
use crate::figures::Spread;

/// All results of one run of the bench.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub machine: String,
    pub broker: String,
    pub figures: Vec<Figure>,
    pub bounds: Bounds,
}

/// One value, over all turns.
#[derive(Debug, Serialize)]
pub struct Figure {
    name: String,
    unit: &'static str,
    value: Spread,
}

impl Report {
    /// Prints and keeps a value.
    pub fn figure(&mut self, name: &str, unit: &'static str, value: Spread) {
        let Spread { median, least, most } = value;
        println!("{name:<48} {median:>10.3} ({least:.3} to {most:.3}) {unit}");
        self.figures.push(Figure { name: name.to_owned(), unit, value });
    }

    /// A value that was measured once.
    pub fn one(&mut self, name: &str, unit: &'static str, value: f64) {
        self.figure(name, unit, Spread::of([value]));
    }
}
