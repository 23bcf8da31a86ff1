//! Tables for people.

use crate::{cli::Failure, dead_letters::Brief, message::Timestamp};

/// The most of a detail that a line shows, in characters.
const DETAIL_CHARS: usize = 60;

pub(super) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

/// To the second, which is enough to look at.
pub(super) fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_string().chars().take(19).chain("Z".chars()).collect())
}

pub(super) fn print_letters(letters: &[Brief]) -> Result<(), Failure> {
    let rows: Vec<_> = letters
        .iter()
        .map(|letter| {
            [
                letter.id.to_string(),
                time(letter.dead_at),
                letter.status.to_string(),
                or_dash(letter.reason.as_deref()),
                letter.attempts.to_string(),
                letter.replays.to_string(),
                or_dash(letter.request_id.as_deref()),
                letter.detail.as_deref().map(short).unwrap_or_default(),
            ]
        })
        .collect();
    print(["ID", "DIED AT", "STATUS", "REASON", "ATTEMPTS", "REPLAYS", "REQUEST", "DETAIL"], &rows)
}

/// Prints rows below their headings, each column as wide as it has to be.
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
        crate::cli::print(format_args!("{}", line.trim_end()))?;
    }
    Ok(())
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(DETAIL_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// What comes from others must not move a terminal's cursor.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
