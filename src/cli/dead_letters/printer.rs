//! Prints on a thread of its own, so that whoever reads slowly, as `less` does, holds up nothing else:
//! no heartbeat, no letter, no signal.

use std::sync::mpsc;

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::cli::{Failure, print};

/// A line of what became of a letter, or of the end.
enum Line {
    Step(String),
    End(String),
}

/// Prints lines in their order. Keeps those that were not printed yet.
pub(super) struct Printer {
    lines: mpsc::Sender<Line>,
    printed: oneshot::Receiver<Result<(), Failure>>,
}

impl Printer {
    /// Starts the thread; shows a bar of so many steps. Cancels `stop` when nobody reads any more.
    pub(super) fn start(steps: usize, stop: CancellationToken) -> Result<Self, Failure> {
        let (lines, received) = mpsc::channel();
        let (done, printed) = oneshot::channel();
        let print = move || {
            let printed = print_all(&received, steps);
            if printed.is_err() {
                stop.cancel();
            }
            // Whoever waited may be gone.
            done.send(printed).ok();
        };
        let thread = std::thread::Builder::new().name("prints".to_owned());
        thread.spawn(print).map_err(anyhow::Error::from)?;
        Ok(Self { lines, printed })
    }

    pub(super) fn step(&self, line: String) {
        self.send(Line::Step(line));
    }

    pub(super) fn end(&self, line: String) {
        self.send(Line::End(line));
    }

    fn send(&self, line: Line) {
        // Whoever reads is gone; what becomes of each letter is in the audit log.
        self.lines.send(line).ok();
    }

    /// Waits until all is printed.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        drop(self.lines);
        self.printed.await.unwrap_or_else(|_| Err(anyhow!("the thread that prints has ended").into()))
    }
}

fn print_all(lines: &mpsc::Receiver<Line>, steps: usize) -> Result<(), Failure> {
    let bar = ProgressBar::new(u64::try_from(steps).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len}, {eta} left  {msg}") {
        bar.set_style(style);
    }
    for line in lines {
        match line {
            Line::Step(line) => {
                bar.inc(1);
                bar.suspend(|| print(format_args!("{line}")))?;
            }
            Line::End(line) => {
                bar.finish_and_clear();
                print(format_args!("{line}"))?;
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}
