//! Writes log lines from a thread of its own, many at once: a write for each line would cost as much
//! as making the line. If the reader of stderr is stuck, lines wait and are then dropped; the program
//! continues (decision 151).

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long lines are collected before they are written.
const COLLECT_FOR: Duration = Duration::from_millis(5);
/// How many bytes may wait to be written. Further lines are dropped and counted.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;
/// A buffer that grew beyond this is made smaller again.
const USUAL_CAPACITY: usize = 64 * 1024;
/// How long a warning or an error may hold up its task until it is written.
const WARNING_TIMEOUT: Duration = Duration::from_millis(50);
/// How long the end of the program waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
const STACK_BYTES: usize = 256 * 1024;

/// Takes lines for the thread that writes them; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct LineWriter(Arc<Shared>);

/// Waits when it is dropped until all lines are written, but not for long.
#[derive(Debug)]
pub struct FlushOnDrop(Arc<Shared>);

/// One line, and whether it is to be written before the program continues.
pub(super) struct OneLine<'a> {
    shared: &'a Shared,
    at_once: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Lines came, or the program ends.
    changed: Condvar,
    /// Lines were written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<u8>,
    /// How many bytes were ever taken and written.
    taken_bytes: u64,
    written_bytes: u64,
    dropped: u64,
    /// Whether a warning waits to be written.
    at_once: bool,
    /// Whether a warning was not written in time, and nothing was since.
    is_stuck: bool,
    is_closed: bool,
}

impl LineWriter {
    /// Starts the thread.
    pub(super) fn start(target: impl Write + Send + 'static) -> io::Result<(Self, FlushOnDrop)> {
        let writer = Self::default();
        let shared = Arc::clone(&writer.0);
        thread::Builder::new()
            .name("log writer".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.write_all_to(target))?;
        let flush = FlushOnDrop(Arc::clone(&writer.0));
        Ok((writer, flush))
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = OneLine<'a>;

    fn make_writer(&'a self) -> OneLine<'a> {
        OneLine { shared: &self.0, at_once: false }
    }

    /// A warning is written before the program continues: it may be the last thing that the program
    /// does. Not the warning that lines were dropped, which the thread itself logs.
    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> OneLine<'a> {
        let at_once = *metadata.level() <= Level::WARN && metadata.target() != module_path!();
        OneLine { shared: &self.0, at_once }
    }
}

impl Write for OneLine<'_> {
    /// Takes the whole line. Never fails: a line that has no room is dropped.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.take(line, self.at_once);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn take(&self, line: &[u8], at_once: bool) {
        if line.is_empty() {
            return;
        }
        let mut queue = self.lock();
        if queue.lines.len() + line.len() > MAX_WAITING_BYTES {
            queue.dropped += 1;
            return;
        }
        let is_first = queue.lines.is_empty();
        queue.lines.extend_from_slice(line);
        queue.taken_bytes += line.len() as u64;
        queue.at_once |= at_once;
        if is_first || at_once {
            self.changed.notify_one();
        }
        if at_once && !queue.is_stuck {
            let (mut queue, is_written) = self.wait_until_written(queue, WARNING_TIMEOUT);
            queue.is_stuck = !is_written;
        }
    }

    /// Waits until everything that was taken so far is written; `false` if that takes too long.
    fn wait_until_written<'a>(
        &self,
        queue: MutexGuard<'a, Queue>,
        timeout: Duration,
    ) -> (MutexGuard<'a, Queue>, bool) {
        let taken = queue.taken_bytes;
        let is_unwritten = |queue: &mut Queue| queue.written_bytes < taken;
        let waited = self.written.wait_timeout_while(queue, timeout, is_unwritten);
        let (queue, result) = waited.unwrap_or_else(PoisonError::into_inner);
        (queue, !result.timed_out())
    }

    /// Runs on the thread until the program ends.
    fn write_all_to(&self, mut target: impl Write) {
        let mut lines = Vec::new();
        loop {
            let (is_closed, dropped) = self.collect(&mut lines);
            if lines.is_empty() && is_closed {
                return;
            }
            // There is no other place to report that stderr is closed.
            target.write_all(&lines).and_then(|()| target.flush()).ok();
            let mut queue = self.lock();
            queue.written_bytes += lines.len() as u64;
            queue.is_stuck = false;
            drop(queue);
            self.written.notify_all();
            lines.clear();
            lines.shrink_to(USUAL_CAPACITY);
            if dropped > 0 {
                tracing::warn!(
                    event = "log_lines_dropped",
                    dropped,
                    "log lines were dropped: whatever reads stderr was too slow"
                );
            }
        }
    }

    /// Waits for lines, and takes all that came within [`COLLECT_FOR`]. Also returns whether the
    /// program ends, and how many lines were dropped.
    fn collect(&self, lines: &mut Vec<u8>) -> (bool, u64) {
        let is_idle = |queue: &mut Queue| queue.lines.is_empty() && !queue.is_closed;
        let queue = self.changed.wait_while(self.lock(), is_idle);
        let queue = queue.unwrap_or_else(PoisonError::into_inner);
        let may_wait = |queue: &mut Queue| !queue.at_once && !queue.is_closed;
        let waited = self.changed.wait_timeout_while(queue, COLLECT_FOR, may_wait);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.lines, lines);
        queue.at_once = false;
        (queue.is_closed, std::mem::take(&mut queue.dropped))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_closed = true;
        self.0.changed.notify_one();
        drop(self.0.wait_until_written(queue, FLUSH_TIMEOUT));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Passes on each write, and can be made to hang.
    struct Target {
        writes: mpsc::Sender<String>,
        gate: Arc<Mutex<()>>,
    }

    impl Write for Target {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.gate.lock().expect("a gate");
            self.writes.send(String::from_utf8(bytes.to_vec()).expect("UTF-8")).ok();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Log {
        writer: LineWriter,
        flush: FlushOnDrop,
        written: mpsc::Receiver<String>,
        gate: Arc<Mutex<()>>,
    }

    impl Log {
        fn start() -> Self {
            let (writes, written) = mpsc::channel();
            let gate = Arc::new(Mutex::new(()));
            let (writer, flush) =
                LineWriter::start(Target { writes, gate: Arc::clone(&gate) }).expect("a thread");
            Self { writer, flush, written, gate }
        }

        fn log(&self, line: &str, at_once: bool) {
            self.writer.0.take(line.as_bytes(), at_once);
        }
    }

    #[test]
    fn lines_are_written_in_their_order_and_the_last_ones_at_the_end() {
        let log = Log::start();
        for n in 0..1000 {
            log.log(&format!("{n}\n"), false);
        }
        drop(log.flush);
        let text: String = log.written.try_iter().collect();
        let expected: String = (0..1000).map(|n| format!("{n}\n")).collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn a_warning_is_written_before_the_program_continues() {
        let log = Log::start();
        log.log("info\n", false);
        log.log("warning\n", true);
        let text: String = log.written.try_iter().collect();
        assert_eq!(text, "info\nwarning\n");
    }

    #[test]
    fn while_the_reader_is_stuck_the_program_continues_and_a_limited_number_of_lines_waits() {
        let log = Log::start();
        let stuck = log.gate.lock().expect("a gate");
        let begun = std::time::Instant::now();
        for _ in 0..1000 {
            log.log("a warning\n", true);
        }
        let line = "x".repeat(1023) + "\n";
        for _ in 0..2 * MAX_WAITING_BYTES / line.len() {
            log.log(&line, false);
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "each warning waited: {:?}", begun.elapsed());
        let dropped = log.writer.0.lock().dropped;
        assert!(dropped > 4000, "{dropped}");
        drop(stuck);
        drop(log.flush);
        let text: String = log.written.try_iter().collect();
        assert_eq!(text.lines().filter(|line| *line == "a warning").count(), 1000);
        assert!(text.len() > MAX_WAITING_BYTES / 2 && text.len() < 2 * MAX_WAITING_BYTES, "{}", text.len());
    }
}
