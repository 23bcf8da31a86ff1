//! The bounds of a bench, and which of them were met.

use serde::Serialize;

/// The bounds of one run.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Bounds(Vec<Bound>);

/// The bound of a value.
#[derive(Debug, Serialize)]
struct Bound {
    name: String,
    value: f64,
    least: Option<f64>,
    most: Option<f64>,
    met: bool,
}

impl Bounds {
    pub fn at_least(&mut self, name: impl Into<String>, value: f64, least: f64) {
        let met = value >= least;
        self.0.push(Bound { name: name.into(), value, least: Some(least), most: None, met });
    }

    pub fn at_most(&mut self, name: impl Into<String>, value: f64, most: f64) {
        let met = value <= most;
        self.0.push(Bound { name: name.into(), value, least: None, most: Some(most), met });
    }

    /// Prints the bounds; whether all were met.
    pub fn conclude(&self) -> bool {
        println!();
        for Bound { name, value, least, most, met } in &self.0 {
            let word = if *met { "met   " } else { "MISSED" };
            let bound = match (least, most) {
                (Some(least), _) => format!("at least {least}"),
                (_, Some(most)) => format!("at most {most}"),
                (None, None) => String::new(),
            };
            println!("{word}  {name}: {value:.3}, {bound}");
        }
        self.0.iter().all(|bound| bound.met)
    }
}
