//! Keeps lines until they can be written in their order: a little in memory, more in a temporary
//! file without a name.

use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use tempfile::SpooledTempFile;

use super::oldest::{Age, Keep, Sorted};

/// Bytes that are kept in memory.
const MEMORY_BYTES: usize = 32 * 1024 * 1024;

/// Lines, and where they lie.
#[derive(Debug)]
pub(super) struct Spool {
    file: BufWriter<SpooledTempFile>,
    end: u64,
    lines: Sorted<Line>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    start: u64,
    length: usize,
}

impl Spool {
    /// For so many lines; of more, the oldest.
    pub(super) fn new(most: usize) -> Self {
        let file = BufWriter::new(tempfile::spooled_tempfile(MEMORY_BYTES));
        Self { file, end: 0, lines: Sorted::new(Keep::Oldest(most)) }
    }

    pub(super) fn add(&mut self, age: Age, value: &serde_json::Value) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.lines.add(age, Line { start: self.end, length: line.len() });
        self.end += u64::try_from(line.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Writes the lines, oldest first; returns how many there were.
    pub(super) fn write_to(self, mut sink: impl Write) -> io::Result<usize> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let lines = self.lines.into_vec();
        let mut buffer = Vec::new();
        for line in &lines {
            file.seek(SeekFrom::Start(line.start))?;
            buffer.resize(line.length, 0);
            file.read_exact(&mut buffer)?;
            sink.write_all(&buffer)?;
        }
        sink.flush()?;
        Ok(lines.len())
    }
}
