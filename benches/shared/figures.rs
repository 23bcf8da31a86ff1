//! The median and the spread of many turns.

use serde::Serialize;

/// The median and the extremes of one figure.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// # Panics
    /// Without any number.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        let middle = numbers.len() / 2;
        let median = match numbers.len() % 2 {
            0 => f64::midpoint(numbers[middle - 1], numbers[middle]),
            _ => numbers[middle],
        };
        Self { median, least: numbers[0], most: numbers[numbers.len() - 1] }
    }

    /// From optional values; `None` if any is missing.
    pub fn of_some(numbers: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        numbers.into_iter().collect::<Option<Vec<f64>>>().map(Self::of)
    }
}

/// The quantile `share` of sorted numbers.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
    sorted[index - 1]
}
