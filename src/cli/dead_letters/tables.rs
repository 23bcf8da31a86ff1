//! Tables and warnings for people.

pub(super) use crate::cli::table::{clean, or_dash, print};
use crate::{
    cli::failure::Failure,
    dead_letters::{Coverage, DeadLetterSummary},
    message::Timestamp,
};

pub(super) fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), crate::cli::table::time)
}

pub(super) fn print_dead_letters(dead_letters: &[DeadLetterSummary]) -> Result<(), Failure> {
    let rows: Vec<_> = dead_letters
        .iter()
        .map(|dead_letter| {
            [
                dead_letter.id.to_string(),
                time(dead_letter.dead_at),
                dead_letter.status.to_string(),
                or_dash(dead_letter.reason.as_deref()),
                dead_letter.attempts.to_string(),
                dead_letter.replays.to_string(),
                or_dash(dead_letter.request_id.as_deref()),
                dead_letter.detail.clone().unwrap_or_default(),
            ]
        })
        .collect();
    print(["ID", "DEAD-LETTERED AT", "STATUS", "REASON", "ATTEMPTS", "REPLAYS", "REQUEST", "DETAIL"], &rows)
}

/// Warns if not all dead letters were seen.
pub(super) fn warn_if_incomplete(coverage: &Coverage) {
    if coverage.is_incomplete() {
        eprintln!("unlocker: not all dead letters were seen: {coverage}");
    }
}
