//! The log lines of one test, in memory.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tracing::{Dispatch, subscriber::DefaultGuard};

/// Collects what the code under test logs on this thread. Clones share the lines.
#[derive(Clone, Default)]
pub struct CollectedLog(Arc<Mutex<Vec<u8>>>);

impl io::Write for CollectedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl CollectedLog {
    /// Collects until the result is dropped.
    pub fn collect(&self) -> (DefaultGuard, Dispatch) {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        let dispatch = Dispatch::new(subscriber);
        // With a single dispatcher, tracing asks the first thread that logs whether anybody listens, and caches the
        // answer. That thread may belong to another test.
        let second = Dispatch::new(tracing_subscriber::registry());
        (tracing::dispatcher::set_default(&dispatch), second)
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8")
    }

    /// The lines since the last call.
    pub fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().expect("no panic"))).expect("UTF-8")
    }
}
