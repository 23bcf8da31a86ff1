//! Dead letters in the order of their age.

use super::scan::Coverage;

/// Dead letters that match a filter, oldest first.
#[derive(Clone, Debug)]
pub struct Listing<T> {
    pub dead_letters: Vec<T>,
    /// All dead letters that match, also those that are not in this list.
    pub count: usize,
    pub coverage: Coverage,
}
