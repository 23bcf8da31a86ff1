//! Finds the line of a returned message.

use std::collections::{HashMap, VecDeque};

/// The most recently published lines, by message id.
///
/// With several mandatory publishes in flight on one channel, lapin sometimes attaches a returned
/// message to the confirm of another one, but its properties are right. So its own message id
/// finds the line, among more lines than can be in flight, because its own confirm may come first.
#[derive(Debug)]
pub(super) struct Recent {
    max: usize,
    order: VecDeque<(String, u64)>,
    lines: HashMap<String, VecDeque<u64>>,
}

impl Recent {
    pub(super) fn new(max: usize) -> Self {
        Self { max, order: VecDeque::new(), lines: HashMap::new() }
    }

    /// Adds a line. Drops the oldest if there are too many.
    pub(super) fn add(&mut self, message_id: String, line: u64) {
        if self.order.len() == self.max
            && let Some((oldest, line)) = self.order.pop_front()
            && let Some(lines) = self.lines.get_mut(&oldest)
        {
            // It may have been taken already, and other lines may have its id.
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

    /// Takes the oldest line with this id.
    pub(super) fn take(&mut self, message_id: &str) -> Option<u64> {
        self.lines.get_mut(message_id)?.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_once_and_only_among_the_most_recent() {
        let mut recent = Recent::new(3);
        for (id, line) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
            recent.add(id.to_owned(), line);
        }
        assert_eq!(recent.take("a"), None, "dropped");
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
