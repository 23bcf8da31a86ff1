//! Tables and warnings for people.

use crate::{
    cli::{failure::Failure, print::print as print_line},
    dead_letters::{Coverage, DeadLetterSummary},
    message::Timestamp,
};

/// The longest detail in a table, in characters.
const MAX_DETAIL_CHARS: usize = 60;

pub(super) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

/// The time to the second.
pub(super) fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_string().chars().take(19).chain("Z".chars()).collect())
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
                dead_letter.detail.as_deref().map(truncate).unwrap_or_default(),
            ]
        })
        .collect();
    print(["ID", "DEAD-LETTERED AT", "STATUS", "REASON", "ATTEMPTS", "REPLAYS", "REQUEST", "DETAIL"], &rows)
}

/// Prints headings and rows, with columns as wide as needed.
pub(super) fn print<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Result<(), Failure> {
    let headings = headings.map(str::to_owned);
    let mut widths = [0; N];
    for row in std::iter::once(&headings).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in std::iter::once(&headings).chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{:width$}", clean(cell)));
        let line = cells.collect::<Vec<_>>().join("  ");
        print_line(format_args!("{}", line.trim_end()))?;
    }
    Ok(())
}

/// Warns if not all dead letters were seen.
pub(super) fn warn_if_incomplete(coverage: &Coverage) {
    if coverage.is_incomplete() {
        eprintln!("unlocker: not all dead letters were seen: {coverage}");
    }
}

fn truncate(text: &str) -> String {
    let mut truncated: String = text.chars().take(MAX_DETAIL_CHARS).collect();
    if truncated.len() < text.len() {
        truncated.push('…');
    }
    truncated
}

/// Replaces control characters, so that foreign text cannot move the terminal's cursor.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
