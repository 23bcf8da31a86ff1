//! How wide stdout is, and whether it may have colours.

use std::io::IsTerminal;

use anstream::{AutoStream, ColorChoice};
use anstyle::Style;
use terminal_size::{Width, terminal_size_of};

/// What stdout can show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    /// In columns; `None` if stdout is no terminal, so that nothing is cut.
    width: Option<usize>,
    has_colors: bool,
}

impl Terminal {
    /// No colours if stdout is no terminal, or if `NO_COLOR` is set.
    pub(super) fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        let width = terminal_size_of(&stdout).filter(|_| stdout.is_terminal());
        Self {
            width: width.map(|(Width(columns), _)| columns.into()),
            has_colors: AutoStream::choice(&stdout) != ColorChoice::Never,
        }
    }

    pub(super) fn width(&self) -> Option<usize> {
        self.width
    }

    /// The text in this style, or as it is if there are no colours.
    pub(super) fn paint(&self, style: Style, text: &str) -> String {
        match self.has_colors {
            true => format!("{style}{text}{style:#}"),
            false => text.to_owned(),
        }
    }

    #[cfg(test)]
    pub(super) fn new(width: Option<usize>, has_colors: bool) -> Self {
        Self { width, has_colors }
    }
}
