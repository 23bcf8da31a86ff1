//! What the resident memory of a process is used for (`/proc/PID/smaps`).

use kit::Process;
use serde::Serialize;

/// Resident memory by part, in MiB.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Code and constants of the program, as far as they were used.
    pub program: f64,
    /// The variables of the program that are no longer as its file has them.
    pub variables: f64,
    /// Shared libraries.
    pub libraries: f64,
    /// Allocations, and the stacks of threads.
    pub allocated: f64,
}

impl Memory {
    pub fn of(process: &Process) -> Self {
        let pid = process.pid();
        let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        Self::parse(&smaps, &program.display().to_string())
    }

    fn parse(smaps: &str, program: &str) -> Self {
        let mut memory = Self::default();
        let (mut of_file, mut of_program) = (false, false);
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let mib = |words: &mut std::str::SplitWhitespace<'_>| {
                words.next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / 1024.0
            };
            match words.next() {
                Some("Rss:") if of_program => memory.program += mib(&mut words),
                Some("Rss:") if of_file => memory.libraries += mib(&mut words),
                Some("Rss:") => memory.allocated += mib(&mut words),
                // Counted with the program at first.
                Some("Anonymous:") if of_program => {
                    let variables = mib(&mut words);
                    memory.program -= variables;
                    memory.variables += variables;
                }
                Some(range) if !range.ends_with(':') => {
                    // Permissions, offset, device, inode, and what is mapped.
                    let mapped = words.nth(4).unwrap_or_default();
                    (of_file, of_program) = (mapped.starts_with('/'), mapped == program);
                }
                _ => {}
            }
        }
        memory
    }
}
