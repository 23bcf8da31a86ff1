//! A secret: a fixed value, or the content of a file that is read again while the program runs.
//!
//! [`Secret::current`] does no IO and is meant for hot paths. [`Secret::refresh`] and [`watch()`] read
//! the files again. They compare contents, not times, because Kubernetes swaps a symlink when it
//! rotates a mounted Secret.

#[cfg(test)]
mod tests;

use std::{
    fmt, fs, future,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The largest file of a secret that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Checks whether a value can be used as this secret. Its error must never repeat the value.
pub type Check = fn(&str) -> Result<(), String>;

/// Why a secret's file gives no usable value. Never shows the file's content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is missing or may not be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// A directory, pipe or device: reading it again could block or never end.
    #[error("is not a regular file")]
    NotAFile,
    /// Larger than this number of bytes, the most that is read.
    #[error("is larger than {} KiB", .0 / 1024)]
    TooLarge(u64),
    /// Not UTF-8.
    #[error("is not valid UTF-8")]
    NotUtf8,
    /// Begins as DER does.
    #[error("is not PEM (DER or PKCS#12?)")]
    Der,
    /// Nothing in it except at most a newline.
    #[error("is empty")]
    Empty,
    /// Read, but its [`Check`] refused the value.
    #[error("holds a value that cannot be used: {0}")]
    Unusable(String),
}

/// What a [`Secret::refresh`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The file contains another value, which is current now.
    Changed,
    /// The file contains the current value, or the secret has no file.
    Unchanged,
    /// The file could not be used; the last good value stays current.
    Failed,
}

/// A secret value. Clones share it, so that all see a refresh. `Debug` never shows the value.
#[derive(Clone)]
pub struct Secret(Arc<Inner>);

struct Inner {
    current: watch::Sender<Versioned>,
    file: Option<WatchedFile>,
}

struct Versioned {
    value: Arc<SecretString>,
    version: u64,
}

struct WatchedFile {
    path: PathBuf,
    max_bytes: u64,
    check: Check,
    /// Held during a read, so that an older read never overwrites a newer one.
    reads: Mutex<Reads>,
}

#[derive(Default)]
struct Reads {
    /// The failure that was logged last.
    last_failure: Option<String>,
    /// A read whose caller gave up waiting. The next caller waits for the same read, so that a disk that
    /// hangs blocks one thread, not one for each try.
    running: Option<JoinHandle<Result<SecretString, SecretError>>>,
}

impl Secret {
    /// A secret that never changes.
    pub fn fixed(value: impl Into<SecretString>) -> Self {
        Self::new(value.into(), None)
    }

    /// Reads a secret from `path`, which [`refresh`](Self::refresh) reads again. One trailing newline is not part of it.
    /// Blocks on the file.
    ///
    /// # Errors
    /// If the file cannot be read, or `check` refuses its content.
    pub fn open(path: impl Into<PathBuf>, check: Check) -> Result<Self, SecretError> {
        Self::open_up_to(MAX_FILE_BYTES, path, check)
    }

    /// As [`open`](Self::open), for a file of up to `max_bytes`.
    ///
    /// # Errors
    /// If the file cannot be read, or `check` refuses its content.
    pub fn open_up_to(max_bytes: u64, path: impl Into<PathBuf>, check: Check) -> Result<Self, SecretError> {
        let path = path.into();
        let value = read(&path, max_bytes, check)?;
        let file = WatchedFile { path, max_bytes, check, reads: Mutex::default() };
        Ok(Self::new(value, Some(file)))
    }

    fn new(value: SecretString, file: Option<WatchedFile>) -> Self {
        let first = Versioned { value: Arc::new(value), version: 0 };
        let current = watch::Sender::new(first);
        Self(Arc::new(Inner { current, file }))
    }

    /// The value now. No IO.
    pub fn current(&self) -> Arc<SecretString> {
        Arc::clone(&self.0.current.borrow().value)
    }

    /// How often the value has changed: a value derived from the secret is stale once this differs. No IO.
    pub fn version(&self) -> u64 {
        self.0.current.borrow().version
    }

    /// Waits until the version is not `version`, and returns it. A fixed secret waits for ever.
    pub async fn changed_since(&self, version: u64) -> u64 {
        let mut changes = self.0.current.subscribe();
        let changed = changes.wait_for(|now| now.version != version).await.map(|now| now.version);
        match changed {
            Ok(version) => version,
            // Impossible: the sender lives in `self`.
            Err(_closed) => future::pending().await,
        }
    }

    /// The file of the secret, if it has one.
    pub fn path(&self) -> Option<&Path> {
        self.0.file.as_ref().map(|file| file.path.as_path())
    }

    /// Reads the file again now. A file that cannot be used leaves the last value in place and is logged once, until
    /// the failure changes.
    pub async fn refresh(&self) -> Refreshed {
        let Some(file) = &self.0.file else {
            return Refreshed::Unchanged;
        };
        let mut reads = file.reads.lock().await;
        let Reads { last_failure, running } = &mut *reads;
        let read = running.get_or_insert_with(|| spawn_read(file)).await;
        *running = None;
        match read.unwrap_or_else(|error| Err(SecretError::Read(io::Error::other(error)))) {
            Ok(value) => {
                let failed_before = last_failure.take().is_some();
                let changed = self.replace(value);
                if changed {
                    info!(event = "secret_changed", path = %file.path.display(), "a file has changed: its new content is used from now on");
                } else if failed_before {
                    info!(event = "secret_readable", path = %file.path.display(), "a file can be read again, and has not changed");
                }
                if changed { Refreshed::Changed } else { Refreshed::Unchanged }
            }
            Err(error) => {
                let failure = error.to_string();
                if last_failure.as_deref() != Some(&failure) {
                    warn!(event = "secret_unusable", path = %file.path.display(), error = %failure, "a file cannot be used: its last content is kept");
                    *last_failure = Some(failure);
                }
                Refreshed::Failed
            }
        }
    }

    fn replace(&self, value: SecretString) -> bool {
        self.0.current.send_if_modified(|current| {
            if current.value.expose_secret() == value.expose_secret() {
                return false;
            }
            current.value = Arc::new(value);
            current.version += 1;
            true
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            Some(path) => write!(f, "[file {}]", path.display()),
            None => f.write_str("[redacted]"),
        }
    }
}

/// Reads the files of `secrets` again every `every`, until `cancel`.
pub async fn watch(secrets: Vec<Secret>, every: Duration, cancel: CancellationToken) {
    // An interval of zero would panic.
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let refreshing = async {
        loop {
            ticks.tick().await;
            for secret in &secrets {
                secret.refresh().await;
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = refreshing => {}
    }
}

fn spawn_read(file: &WatchedFile) -> JoinHandle<Result<SecretString, SecretError>> {
    let (path, max_bytes, check) = (file.path.clone(), file.max_bytes, file.check);
    tokio::task::spawn_blocking(move || read(&path, max_bytes, check))
}

fn read(path: &Path, max_bytes: u64, check: Check) -> Result<SecretString, SecretError> {
    // Checked before opening: opening a pipe blocks until someone writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(SecretError::NotAFile);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(SecretError::TooLarge(max_bytes));
    }
    // A sequence with a length of more than 127 bytes.
    let is_der = matches!(bytes.as_slice(), [0x30, 0x81..=0x83, ..]);
    let not_text = if is_der { SecretError::Der } else { SecretError::NotUtf8 };
    let mut text = String::from_utf8(bytes).map_err(|_| not_text)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(SecretError::Empty);
    }
    check(&text).map_err(SecretError::Unusable)?;
    Ok(SecretString::from(text))
}
