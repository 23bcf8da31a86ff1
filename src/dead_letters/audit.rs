//! Who did what to which letters: a line of JSON each, written before it is done.

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use tokio::sync::Mutex;

use super::{filter::Filter, letter::LetterId};
use crate::message::Timestamp;

/// Who looks or changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Actor {
    pub name: String,
    /// `command line`, `page` or `api`.
    pub via: &'static str,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.name, self.via)
    }
}

/// What is about to be done, or was.
#[derive(Debug, Serialize)]
#[serde(tag = "deed", rename_all = "snake_case")]
pub enum Deed<'a> {
    /// All of one letter is shown.
    Show { id: &'a str },
    /// All of many letters is handed out.
    Export { filter: &'a Filter },
    /// A plan begins to be carried out.
    Begin { action: &'a str, reason: Option<&'a str>, plan: &'a str, letters: usize },
    /// A letter is about to be replayed or discarded.
    Letter { action: &'a str, reason: Option<&'a str>, plan: &'a str, id: &'a LetterId, request_id: &'a str },
    /// What became of it.
    Result { action: &'a str, plan: &'a str, id: &'a LetterId, result: &'a super::StepResult },
}

/// The audit log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.as_ref().map_or("stderr".into(), |path| path.display().to_string()))]
pub struct AuditError {
    path: Option<PathBuf>,
    source: std::io::Error,
}

/// An append-only log. Clones share it.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: Option<PathBuf>,
    /// One line at a time.
    writing: Mutex<()>,
}

#[derive(Serialize)]
struct Line<'a> {
    audit_at: Timestamp,
    actor: &'a str,
    via: &'a str,
    #[serde(flatten)]
    deed: &'a Deed<'a>,
}

impl Audit {
    /// A log in a file, or on stderr.
    #[must_use]
    pub fn new(path: Option<&Path>) -> Self {
        Self(Arc::new(Inner { path: path.map(Path::to_owned), writing: Mutex::default() }))
    }

    /// Writes a line, and does not return before it is on the disk.
    ///
    /// # Errors
    /// If it cannot be written: then nothing is to be done.
    pub async fn write(&self, actor: &Actor, deed: &Deed<'_>) -> Result<(), AuditError> {
        let line = Line { audit_at: Timestamp::now(), actor: &actor.name, via: actor.via, deed };
        let failed = |source| AuditError { path: self.0.path.clone(), source };
        let mut line = serde_json::to_vec(&line).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        let _writing = self.0.writing.lock().await;
        let path = self.0.path.clone();
        let written = tokio::task::spawn_blocking(move || match path {
            Some(path) => {
                // Opened anew for each line, so that it can be rotated.
                let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
                file.write_all(&line)?;
                file.sync_data()
            }
            None => std::io::stderr().lock().write_all(&line),
        });
        written.await.map_err(|error| failed(error.into()))?.map_err(failed)
    }
}
