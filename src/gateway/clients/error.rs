//! What is wrong with the clients' files.

use std::{error::Error, fmt, path::PathBuf};

/// One fault of a client's file, or of the directory. No field ever holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFault {
    /// The name of the file, escaped; `None` if the fault is the directory's.
    pub file: Option<String>,
    /// The number of the line, from 1, if the fault is in one.
    pub line: Option<usize>,
    /// What is wrong, as a phrase whose subject is the line, the file or the directory.
    pub wrong: String,
    /// What to do about it.
    pub remedy: String,
}

impl ClientFault {
    pub(super) fn new(wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: None, line: None, wrong: wrong.into(), remedy: remedy.into() }
    }

    #[must_use]
    pub(super) fn in_line(self, line: usize) -> Self {
        Self { line: Some(line), ..self }
    }

    #[must_use]
    pub(super) fn in_file(self, file: &str) -> Self {
        Self { file: Some(file.to_owned()), ..self }
    }
}

/// For a line of the log, which names the file beside it.
impl fmt::Display for ClientFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line} {} ({})", self.wrong, self.remedy),
            None => write!(f, "{} ({})", self.wrong, self.remedy),
        }
    }
}

/// All faults of the clients' directory; `Display` lists them, numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientsError {
    /// The directory.
    pub directory: PathBuf,
    /// The faults by file and line; at least one.
    pub faults: Vec<ClientFault>,
}

impl fmt::Display for ClientsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (directory, count) = (self.directory.display(), self.faults.len());
        write!(f, "the clients in {directory} have {count} fault{}:", if count == 1 { "" } else { "s" })?;
        for (number, ClientFault { file, line, wrong, remedy }) in (1..).zip(&self.faults) {
            let file = file.as_deref().unwrap_or("the directory");
            let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
            write!(f, "\n{number:>3}. {file}{line}\n     {wrong}\n     fix: {remedy}")?;
        }
        Ok(())
    }
}

impl Error for ClientsError {}
