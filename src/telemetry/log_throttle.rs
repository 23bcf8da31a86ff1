//! Limits how often the log repeats a line.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The same line is logged again only after this time.
const INTERVAL: Duration = Duration::from_secs(60);
/// How many different lines one throttle remembers. If there are more within the interval, it leaves
/// out the others.
const MAX_LINES: usize = 64;

/// Limits how often lines are repeated: each at most once a minute.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Vec<Line>>);

#[derive(Debug)]
struct Line {
    key: u64,
    logged_at: Instant,
    left_out: u64,
}

impl LogThrottle {
    /// Whether a line is due. Lines with the same `key` count as the same. `Some` if it is due: how
    /// often it was left out since it was last logged.
    pub fn due<K: Hash + ?Sized>(&self, key: &K) -> Option<u64> {
        self.due_at(key, Instant::now())
    }

    fn due_at<K: Hash + ?Sized>(&self, key: &K, now: Instant) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let key = hasher.finish();
        let is_over = |line: &Line| now.saturating_duration_since(line.logged_at) >= INTERVAL;
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.iter_mut().find(|line| line.key == key) {
            if is_over(line) {
                line.logged_at = now;
                return Some(std::mem::take(&mut line.left_out));
            }
            line.left_out += 1;
            return None;
        }
        if lines.len() >= MAX_LINES {
            lines.retain(|line| !is_over(line));
        }
        if lines.len() >= MAX_LINES {
            return None;
        }
        lines.push(Line { key, logged_at: now, left_out: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_same_line_is_due_once_a_minute_with_the_number_of_those_left_out() {
        let (throttle, start) = (LogThrottle::default(), Instant::now());
        let due_after = |seconds: u32| throttle.due_at("down", start + seconds * SECOND);
        let due: Vec<_> =
            (0..130).filter_map(|second| due_after(second).map(|left_out| (second, left_out))).collect();
        assert_eq!(due, [(0, 0), (60, 59), (120, 59)]);
        assert_eq!(due_after(3600), Some(9), "those of the last minute are counted, however late");
    }

    #[test]
    fn another_line_is_due_at_once() {
        let (throttle, start) = (LogThrottle::default(), Instant::now());
        let due_after = |key: (&str, u16), seconds: u32| throttle.due_at(&key, start + seconds * SECOND);
        let (down, refused) = (("failed", 503), ("failed", 403));
        assert_eq!((due_after(down, 0), due_after(refused, 0)), (Some(0), Some(0)));
        assert_eq!((due_after(down, 1), due_after(refused, 1)), (None, None));
        assert_eq!(due_after(down, 59), None);
        assert_eq!((due_after(down, 60), due_after(refused, 60)), (Some(2), Some(1)));
    }

    #[test]
    fn a_flood_of_different_lines_is_limited_too() {
        let (throttle, start) = (LogThrottle::default(), Instant::now());
        let flood = |now: Instant| (0..1000).filter(|n| throttle.due_at(n, now).is_some()).count();
        assert_eq!((flood(start), flood(start + SECOND)), (MAX_LINES, 0));
        assert_eq!(flood(start + INTERVAL), MAX_LINES);
    }
}
