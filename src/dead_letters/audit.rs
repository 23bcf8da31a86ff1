//! The audit log: who did what to which dead letters. One JSON line per event, written before the
//! event takes place.

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use tokio::sync::Mutex;

use super::{correction::CorrectionRecord, dead_letter::DeadLetterId, filter::Filter, result::StepResult};
use crate::message::Timestamp;

/// Who reads or changes dead letters.
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

/// What is about to happen, or its result.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AuditEvent<'a> {
    /// One dead letter is shown with body and headers.
    Show { id: &'a str },
    /// Dead letters are exported with bodies and headers.
    Export { filter: &'a Filter },
    /// A plan starts to execute.
    Begin {
        action: &'a str,
        reason: Option<&'a str>,
        /// The names of what a replay changes.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        set: Vec<&'a str>,
        plan: &'a str,
        dead_letters: usize,
    },
    /// A dead letter is about to be replayed or discarded.
    DeadLetter {
        action: &'a str,
        reason: Option<&'a str>,
        plan: &'a str,
        id: &'a DeadLetterId,
        request_id: &'a str,
        /// What a replay changes in it.
        #[serde(skip_serializing_if = "Option::is_none")]
        correction: Option<CorrectionRecord<'a>>,
    },
    /// What happened to it.
    Result { action: &'a str, plan: &'a str, id: &'a DeadLetterId, result: &'a StepResult },
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
struct Entry<'a> {
    audit_at: Timestamp,
    actor: &'a str,
    via: &'a str,
    #[serde(flatten)]
    event: &'a AuditEvent<'a>,
}

impl Audit {
    /// A log in a file, or on stderr.
    pub fn new(path: Option<&Path>) -> Self {
        Self(Arc::new(Inner { path: path.map(Path::to_owned), writing: Mutex::default() }))
    }

    /// Tests whether events can be written. Changes nothing that stays.
    ///
    /// # Errors
    /// If they cannot be written.
    pub async fn check(&self) -> Result<(), AuditError> {
        let Some(path) = self.0.path.clone() else { return Ok(()) };
        let checked = tokio::task::spawn_blocking(move || match path.exists() {
            true => std::fs::OpenOptions::new().append(true).open(path).map(drop),
            false => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                // Deleted at once.
                tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).map(drop)
            }
        });
        let failed = |source| AuditError { path: self.0.path.clone(), source };
        checked.await.map_err(|error| failed(error.into()))?.map_err(failed)
    }

    /// Writes an event. Returns when it is on disk.
    ///
    /// # Errors
    /// If it cannot be written. The caller must then not do what the event says.
    pub async fn write(&self, actor: &Actor, event: &AuditEvent<'_>) -> Result<(), AuditError> {
        let entry = Entry { audit_at: Timestamp::now(), actor: &actor.name, via: actor.via, event };
        let failed = |source| AuditError { path: self.0.path.clone(), source };
        let mut line = serde_json::to_vec(&entry).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        let _writing = self.0.writing.lock().await;
        let path = self.0.path.clone();
        let written = tokio::task::spawn_blocking(move || match path {
            Some(path) => {
                // Opened for each line, so that the file can be rotated.
                let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
                file.write_all(&line)?;
                file.sync_data()
            }
            None => std::io::stderr().lock().write_all(&line),
        });
        written.await.map_err(|error| failed(error.into()))?.map_err(failed)
    }
}
