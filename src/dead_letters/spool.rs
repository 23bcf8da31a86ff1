//! Stores lines until they can be written in order: in memory first, then in an unnamed temporary
//! file.

use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use tempfile::SpooledTempFile;

use super::oldest::{AgeKey, Limit, Sorted};

/// Beyond this number of bytes, lines go to a file.
const MAX_MEMORY_BYTES: usize = 32 * 1024 * 1024;

/// Lines and their positions in the file.
#[derive(Debug)]
pub(super) struct Spool {
    file: BufWriter<SpooledTempFile>,
    end: u64,
    lines: Sorted<Position>,
}

#[derive(Clone, Copy, Debug)]
struct Position {
    start: u64,
    length: usize,
}

impl Spool {
    /// For at most `max` lines; drops newer ones.
    pub(super) fn new(max: usize) -> Self {
        let file = BufWriter::new(tempfile::spooled_tempfile(MAX_MEMORY_BYTES));
        Self { file, end: 0, lines: Sorted::new(Limit::Oldest(max)) }
    }

    pub(super) fn add(&mut self, key: AgeKey, value: &serde_json::Value) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.lines.add(key, Position { start: self.end, length: line.len() });
        self.end += u64::try_from(line.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Writes the lines, oldest first. Returns the number of lines.
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
