//! Tables for people: as wide as the terminal, or as wide as needed where stdout is none.

use anstyle::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{failure::Failure, print::print as print_line, terminal::Terminal};
use crate::message::Timestamp;

/// The last column is cut to the terminal's width, but not below this.
const MIN_LAST_WIDTH: usize = 20;
const GAP: &str = "  ";

/// Prints headings and rows. On a terminal the last column is cut to what fits; the others are
/// never cut, because people copy them.
pub(super) fn print<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Result<(), Failure> {
    let terminal = Terminal::of_stdout();
    for line in lines(headings, rows, &terminal) {
        print_line(format_args!("{line}"))?;
    }
    Ok(())
}

fn lines<const N: usize>(headings: [&str; N], rows: &[[String; N]], terminal: &Terminal) -> Vec<String> {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| clean(cell))).collect();
    let headings = headings.map(str::to_owned);
    let mut widths = headings.each_ref().map(|heading| heading.width());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    if let (Some(total), [others @ .., last]) = (terminal.width(), widths.as_mut_slice()) {
        let taken: usize = others.iter().map(|width| width + GAP.len()).sum();
        *last = (*last).min(total.saturating_sub(taken).max(MIN_LAST_WIDTH));
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| fit(cell, width));
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };
    let heading = terminal.paint(Style::new().bold(), &line(&headings));
    std::iter::once(heading).chain(rows.iter().map(line)).collect()
}

/// Cuts or pads a text to this width.
fn fit(text: &str, width: usize) -> String {
    let mut fitted = cut(text, width);
    fitted.extend(std::iter::repeat_n(' ', width.saturating_sub(fitted.width())));
    fitted
}

/// Cuts a text that is wider than this, with an ellipsis at its end.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut room = width.saturating_sub(1);
    for character in text.chars() {
        let Some(rest) = room.checked_sub(character.width().unwrap_or(0)) else { break };
        room = rest;
        cut.push(character);
    }
    cut.push('…');
    cut
}

pub(super) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

/// The time to the second.
pub(super) fn time(at: Timestamp) -> String {
    at.to_string().chars().take(19).chain("Z".chars()).collect()
}

/// Replaces control characters, so that foreign text cannot move the terminal's cursor.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<[String; 2]> {
        vec![
            ["a-rather-long-id".to_owned(), "a detail that is longer than the terminal".to_owned()],
            ["b".to_owned(), "客户不存在 客户不存在 客户不存在".to_owned()],
        ]
    }

    #[test]
    fn the_last_column_is_cut_to_the_terminal() {
        let lines = lines(["ID", "DETAIL"], &rows(), &Terminal::new(Some(40), false));
        assert_eq!(
            lines,
            [
                "ID                DETAIL",
                "a-rather-long-id  a detail that is long…",
                "b                 客户不存在 客户不存在…",
            ]
        );
        assert!(lines.iter().all(|line| line.width() <= 40));
    }

    #[test]
    fn nothing_is_cut_without_a_terminal_and_no_other_column_ever() {
        let whole = lines(["ID", "DETAIL"], &rows(), &Terminal::new(None, false));
        assert!(whole[1].ends_with("longer than the terminal"), "{whole:?}");
        let narrow = lines(["ID", "DETAIL"], &rows(), &Terminal::new(Some(5), false));
        assert!(narrow[1].starts_with("a-rather-long-id  a detail"), "{narrow:?}");
    }

    #[test]
    fn only_a_terminal_gets_colours_and_no_control_character_gets_through() {
        let row = [["\u{1b}[31mred".to_owned()]];
        let plain = lines(["A"], &row, &Terminal::new(None, false));
        assert_eq!(plain, ["A", "\u{fffd}[31mred"]);
        let coloured = lines(["A"], &row, &Terminal::new(Some(80), true));
        assert_eq!(coloured, ["\u{1b}[1mA\u{1b}[0m", "\u{fffd}[31mred"]);
    }
}
