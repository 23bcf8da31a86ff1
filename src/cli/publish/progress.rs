//! How far it is: a bar on a terminal, else a line now and then. On stderr, both.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines, where stderr is no terminal.
const INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    bar: ProgressBar,
    size: Option<u64>,
    read: u64,
    begun: Instant,
    /// Of the last line; none on a terminal.
    said: Option<Instant>,
}

impl Progress {
    /// `size`: all bytes there are to read, if known.
    pub(super) fn new(size: Option<u64>) -> Self {
        let begun = Instant::now();
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
        Self { bar, size, read: 0, begun, said: (!terminal).then_some(begun) }
    }

    /// Counts bytes that were read.
    pub(super) fn read(&mut self, bytes: u64) {
        self.read += bytes;
    }

    /// Shows what was confirmed so far, if it is time to.
    pub(super) fn show(&mut self, confirmed: u64, in_flight: usize) {
        let rate = || confirmed as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        match &mut self.said {
            None => {
                self.bar.set_position(self.read);
                self.bar.set_message(format!("{confirmed} confirmed, {:.0}/s", rate()));
            }
            Some(said) if said.elapsed() >= INTERVAL => {
                *said = Instant::now();
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

    /// Runs `print` without the bar in its way.
    pub(super) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Takes the bar away. Returns how long it all took.
    pub(super) fn finish(&self) -> Duration {
        self.bar.finish_and_clear();
        self.begun.elapsed()
    }
}
