use std::{error::Error, fmt};

/// One fault of the settings. No field ever holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, such as `worker.concurrency`; for a file that cannot be read, `--config`.
    pub key: String,
    /// Where its value came from: a file, an environment variable, or "not set anywhere".
    pub source: String,
    /// What is wrong, as a phrase whose subject is the key.
    pub wrong: String,
    /// What to do about it.
    pub remedy: String,
}

impl Fault {
    pub(super) fn new(key: &str, source: &str, wrong: &str, remedy: &str) -> Self {
        Self { key: key.into(), source: source.into(), wrong: wrong.into(), remedy: remedy.into() }
    }
}

/// All faults of the settings; `Display` lists them, numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub(super) Vec<Fault>);

impl Faults {
    /// The faults in the order in which they are listed.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the settings have {count} fault{}:", if count == 1 { "" } else { "s" })?;
        for (number, Fault { key, source, wrong, remedy }) in (1..).zip(&self.0) {
            write!(f, "\n{number:>3}. {key} ({source})\n     {wrong}\n     fix: {remedy}")?;
        }
        Ok(())
    }
}

impl Error for Faults {}
