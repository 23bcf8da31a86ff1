//! Prints on its own thread, so that a slow reader of stdout, such as `less`, delays nothing else:
//! no heartbeat, no dead letter, no signal.

use std::sync::mpsc;

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::cli::{Failure, print};

/// A line with the result of one dead letter, or with the end. An error stops the printing.
enum PrintedLine {
    Step(Result<String, Failure>),
    End(Result<String, Failure>),
}

/// Prints lines in their order. Queues those that are not printed yet.
pub(super) struct Printer {
    lines: mpsc::Sender<PrintedLine>,
    printed: oneshot::Receiver<Result<(), Failure>>,
}

impl Printer {
    /// Starts the thread; shows a progress bar of `steps`. Cancels `stop` when stdout is closed.
    pub(super) fn start(steps: usize, stop: CancellationToken) -> Result<Self, Failure> {
        let (lines, received) = mpsc::channel();
        let (done, printed) = oneshot::channel();
        let print = move || {
            let printed = print_all(&received, steps);
            if printed.is_err() {
                stop.cancel();
            }
            // The receiver may be gone.
            done.send(printed).ok();
        };
        let thread = std::thread::Builder::new().name("prints".to_owned());
        thread.spawn(print).map_err(anyhow::Error::from)?;
        Ok(Self { lines, printed })
    }

    pub(super) fn step(&self, line: Result<String, Failure>) {
        self.send(PrintedLine::Step(line));
    }

    pub(super) fn end(&self, line: Result<String, Failure>) {
        self.send(PrintedLine::End(line));
    }

    fn send(&self, line: PrintedLine) {
        // Stdout is closed; the results are in the audit log.
        self.lines.send(line).ok();
    }

    /// Waits until all is printed.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        drop(self.lines);
        self.printed.await.unwrap_or_else(|_| Err(anyhow!("the printing thread has ended").into()))
    }
}

fn print_all(lines: &mpsc::Receiver<PrintedLine>, steps: usize) -> Result<(), Failure> {
    let bar = ProgressBar::new(u64::try_from(steps).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len}, {eta} left  {msg}") {
        bar.set_style(style);
    }
    for line in lines {
        match line {
            PrintedLine::Step(line) => {
                let line = line?;
                bar.inc(1);
                bar.suspend(|| print(format_args!("{line}")))?;
            }
            PrintedLine::End(line) => {
                bar.finish_and_clear();
                print(format_args!("{}", line?))?;
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}
