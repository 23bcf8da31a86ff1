//! Limits how often the log repeats a line.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The same line is logged again only after this time.
const INTERVAL: Duration = Duration::from_secs(60);
/// How many different lines one throttle remembers. If there are more within the interval, all others
/// count as one and the same line.
const MAX_LINES: usize = 64;

/// Limits how often lines are repeated: each at most once a minute.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    remembered: Vec<(u64, Line)>,
    /// All lines that are not remembered.
    others: Line,
}

#[derive(Debug, Default)]
struct Line {
    logged_at: Option<Instant>,
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
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Lines { remembered, others } = &mut *lines;
        if let Some((_, line)) = remembered.iter_mut().find(|(known, _)| *known == key) {
            return line.due(now);
        }
        if remembered.len() >= MAX_LINES {
            remembered.retain(|(_, line)| {
                let stays = !line.is_over(now);
                if !stays {
                    others.left_out += line.left_out;
                }
                stays
            });
        }
        if remembered.len() >= MAX_LINES {
            return others.due(now);
        }
        remembered.push((key, Line { logged_at: Some(now), left_out: 0 }));
        Some(0)
    }
}

impl Line {
    fn is_over(&self, now: Instant) -> bool {
        self.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= INTERVAL)
    }

    fn due(&mut self, now: Instant) -> Option<u64> {
        if self.is_over(now) {
            self.logged_at = Some(now);
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
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
    fn a_flood_of_different_lines_is_limited_too_and_each_line_left_out_is_counted() {
        let (throttle, start) = (LogThrottle::default(), Instant::now());
        let flood = |now: Instant| -> (usize, u64) {
            let logged: Vec<u64> = (0..1000).filter_map(|n| throttle.due_at(&n, now)).collect();
            (logged.len(), logged.iter().sum())
        };
        let limited = MAX_LINES + 1;
        assert_eq!(flood(start), (limited, 0));
        assert_eq!(flood(start + SECOND), (0, 0));
        // The lines of both floods that were not logged.
        assert_eq!(flood(start + INTERVAL), (limited, 2_000 - limited as u64));
    }

    #[test]
    fn old_lines_make_room_for_new_ones() {
        let (throttle, start) = (LogThrottle::default(), Instant::now());
        let new = |first: usize, now: Instant| {
            (first..first + MAX_LINES).filter(|n| throttle.due_at(n, now).is_some()).count()
        };
        assert_eq!((new(0, start), new(100, start + INTERVAL)), (MAX_LINES, MAX_LINES));
    }
}
