//! Shows the progress on stderr: a bar on a terminal, otherwise a line every few seconds.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The time between two lines if stderr is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    bar: ProgressBar,
    size: Option<u64>,
    read: u64,
    started_at: Instant,
    /// The time of the last line; none on a terminal.
    last_line: Option<Instant>,
}

impl Progress {
    /// `size`: the bytes to read, if known.
    pub(super) fn new(size: Option<u64>) -> Self {
        let started_at = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(size, target);
        let template = match size {
            Some(_) => "{bar:30} {percent:>3} %  {msg}  {eta} left",
            None => "{spinner} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, size, read: 0, started_at, last_line: (!terminal).then_some(started_at) }
    }

    /// Counts bytes that were read.
    pub(super) fn read(&mut self, bytes: u64) {
        self.read += bytes;
    }

    /// Shows the number of confirmed requests. Without a terminal, at most every `LINE_INTERVAL`.
    pub(super) fn show(&mut self, confirmed: u64, in_flight: usize) {
        let rate = || confirmed as f64 / self.started_at.elapsed().as_secs_f64().max(0.001);
        match &mut self.last_line {
            None => {
                self.bar.set_position(self.read);
                self.bar.set_message(format!("{confirmed} confirmed, {:.0}/s", rate()));
            }
            Some(last_line) if last_line.elapsed() >= LINE_INTERVAL => {
                *last_line = Instant::now();
                let read = match self.size {
                    Some(size) if size > 0 => format!(", {} % read", self.read * 100 / size),
                    _ => String::new(),
                };
                eprintln!("{confirmed} confirmed, {in_flight} in flight, {:.0}/s{read}", rate());
            }
            Some(_) => {}
        }
    }

    /// Writes a line to stderr, above the bar if there is one.
    pub(super) fn note(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Hides the bar while `print` runs.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Removes the bar. Returns the time since the start.
    pub(super) fn finish(&self) -> Duration {
        self.bar.finish_and_clear();
        self.started_at.elapsed()
    }
}
