//! The clock of a process, which can be made to jump: libfaketime, preloaded.

use std::fs;
use std::path::{Path, PathBuf};

use kit::Program;

pub struct Clock {
    library: PathBuf,
    /// How far it is off, for libfaketime, which reads it again each second.
    file: PathBuf,
}

impl Clock {
    /// # Panics
    /// When there is no libfaketime on this machine.
    pub fn new(file: &Path) -> Self {
        let library = library().expect("no libfaketime on this machine: scripts/get-faketime gets it");
        let clock = Self { library, file: file.to_owned() };
        clock.set(0);
        clock
    }

    /// How many seconds it is ahead.
    pub fn set(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        // Replaced whole: libfaketime may read it at any time.
        let written = fs::write(&new, format!("{seconds:+}\n")).and_then(|()| fs::rename(&new, &self.file));
        written.expect("a clock can be set");
    }

    /// Only the time of day jumps. What counts time on, such as a timer, does not: so it is on a real machine.
    pub fn of(&self, program: Program) -> Program {
        program
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1")
    }
}

/// Debian puts it below the directory of the machine's architecture.
fn library() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = directories.map(|directory| directory.path().join("faketime/libfaketime.so.1"));
    found.find(|path| path.exists())
}
