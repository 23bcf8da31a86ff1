//! Which line a returned message was.

use std::collections::{HashMap, VecDeque};

/// The lines published last, by message id.
///
/// With several mandatory publishes in flight on one channel, a return is sometimes attached to the
/// confirm of another one; what it says of itself is true. So it is found by its own message id,
/// among more lines than can be in flight, as its own confirm may have been read before.
#[derive(Debug)]
pub(super) struct Recent {
    most: usize,
    order: VecDeque<(String, u64)>,
    lines: HashMap<String, VecDeque<u64>>,
}

impl Recent {
    pub(super) fn new(most: usize) -> Self {
        Self { most, order: VecDeque::new(), lines: HashMap::new() }
    }

    /// Adds a line, and forgets the oldest where there are too many.
    pub(super) fn add(&mut self, message_id: String, line: u64) {
        if self.order.len() == self.most
            && let Some((oldest, line)) = self.order.pop_front()
            && let Some(lines) = self.lines.get_mut(&oldest)
        {
            // It may be taken already, and others have its id.
            if lines.front() == Some(&line) {
                lines.pop_front();
            }
            if lines.is_empty() {
                self.lines.remove(&oldest);
            }
        }
        self.lines.entry(message_id.clone()).or_default().push_back(line);
        self.order.push_back((message_id, line));
    }

    /// The oldest line with this id that was not taken yet.
    pub(super) fn take(&mut self, message_id: &str) -> Option<u64> {
        self.lines.get_mut(message_id)?.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_once_and_only_among_the_last() {
        let mut recent = Recent::new(3);
        for (id, line) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
            recent.add(id.to_owned(), line);
        }
        assert_eq!(recent.take("a"), None, "forgotten");
        assert_eq!(recent.take("c"), Some(3));
        assert_eq!(recent.take("c"), None);
        assert_eq!(recent.take("never"), None);
        for line in 5..100 {
            recent.add(format!("{line}"), line);
        }
        assert_eq!((recent.order.len(), recent.lines.len()), (3, 3));
    }

    #[test]
    fn lines_that_share_an_id_are_found_one_after_the_other() {
        let mut recent = Recent::new(10);
        for line in 1..=3 {
            recent.add("same".to_owned(), line);
        }
        assert_eq!([recent.take("same"), recent.take("same")], [Some(1), Some(2)]);
        recent.add("same".to_owned(), 4);
        assert_eq!([recent.take("same"), recent.take("same"), recent.take("same")], [Some(3), Some(4), None]);
    }
}
