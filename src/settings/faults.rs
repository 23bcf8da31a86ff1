use std::error::Error;
use std::fmt;

/// One thing that is wrong with the settings. No field ever holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, `worker.concurrency`; for a file that cannot be read, `--config`.
    pub key: String,
    /// Where its value came from: a file, an environment variable, or "not set anywhere".
    pub source: String,
    /// What is wrong, as a phrase whose subject is the key.
    pub wrong: String,
    /// What to do about it.
    pub remedy: String,
}

/// Everything that is wrong with the settings; `Display` lists it, numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        Self(faults)
    }

    /// The faults in the order in which they are listed.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => writeln!(f, "the settings have 1 fault:")?,
            count => writeln!(f, "the settings have {count} faults:")?,
        }
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{:>3}. {} ({})", index + 1, fault.key, fault.source)?;
            writeln!(f, "     {}", fault.wrong)?;
            write!(f, "     fix: {}", fault.remedy)?;
        }
        Ok(())
    }
}

impl Error for Faults {}
