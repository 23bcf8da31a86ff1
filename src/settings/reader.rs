//! Reads keys one by one, and collects the faults and a description of what was read.

use std::fmt::Display;

use config::ValueKind;

use super::faults::{Fault, Faults};
use super::keys::{self, KEYS};
use super::layers::{Layers, Origin};
use super::values::{Parsed, kind_name, quoted};
use crate::secret::{Check, Secret};

/// Which settings a command cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Worker,
    /// Secrets of other sections are neither required nor are their files opened.
    BrokerOnly,
}

/// Every method that returns `None` has recorded a fault, unless it says otherwise.
pub(super) struct Reader {
    layers: Layers,
    needs: Needs,
    faults: Vec<Fault>,
    described: Vec<(String, String, String)>,
}

impl Reader {
    pub(super) fn new(mut layers: Layers, needs: Needs) -> Self {
        let faults = std::mem::take(&mut layers.faults);
        let described = Vec::new();
        Self { layers, needs, faults, described }
    }

    /// The value, with what was read, if there was no fault.
    pub(super) fn finish<T>(
        self,
        build: impl FnOnce(Vec<(String, String, String)>) -> Option<T>,
    ) -> Result<T, Faults> {
        let Self { faults, described, .. } = self;
        if faults.is_empty()
            && let Some(settings) = build(described)
        {
            return Ok(settings);
        }
        Err(Faults::new(faults))
    }

    /// Whether the command uses the section of `key`.
    pub(super) fn uses(&self, key: &str) -> bool {
        let by_all = ["broker.", "topology.", "results.", "admin.audit_log"];
        self.needs == Needs::Worker || by_all.iter().any(|section| key.starts_with(section))
    }

    /// A key that has to have a value. `None` without a fault if it has none and the command does not use its section.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&ValueKind) -> Parsed<T>,
    ) -> Option<T> {
        let Some((kind, origin)) = self.layers.get(key) else {
            if self.uses(key) {
                self.unfit(key, "is required".into());
            }
            return None;
        };
        let (origin, shown) = (origin.clone(), shown(key, kind));
        let parsed = match kind {
            ValueKind::String(text) if text.trim().is_empty() && !may_be_empty(key) => Err("is empty".into()),
            kind => parse(kind),
        };
        match parsed {
            Ok(value) => {
                self.describe(key, shown, &origin);
                Some(value)
            }
            Err(wrong) => {
                self.fault(key, Some(&origin), wrong);
                None
            }
        }
    }

    /// A key that may be absent or empty: `Some(None)`.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&ValueKind) -> Parsed<T>,
    ) -> Option<Option<T>> {
        match self.layers.get(key) {
            Some((ValueKind::String(text), _)) if text.trim().is_empty() => {}
            Some(_) => return self.required(key, parse).map(Some),
            None => {}
        }
        self.describe(key, "not set".into(), "");
        Some(None)
    }

    /// A secret that has to be given, as `key` or as `key_file`. `None` without a fault if the command does not need it.
    pub(super) fn required_secret(
        &mut self,
        key: &str,
        check: Check,
        mask: fn(&str) -> String,
    ) -> Option<Secret> {
        let secret = self.secret(key, check, mask)?;
        if secret.is_none() && self.uses(key) {
            self.unfit(key, "is required".into());
        }
        secret
    }

    /// A secret, as `key` or as `key_file`; `Some(None)` if it is not given, or not read because it is not used.
    pub(super) fn secret(
        &mut self,
        key: &str,
        check: Check,
        mask: fn(&str) -> String,
    ) -> Option<Option<Secret>> {
        let file_key = format!("{key}_file");
        let (value, file) = (self.given(key), self.given(&file_key));
        let (mut value, file) = (value?, file?);
        // What is compiled in is a fallback, not something that somebody gave.
        if file.is_some() && matches!(value, Some((_, Origin::CompiledIn))) {
            value = None;
        }
        match (value, file) {
            (Some((_, from)), Some((_, file_from))) => {
                self.faults.push(Fault {
                    key: key.to_owned(),
                    source: format!("{from} and {file_from}"),
                    wrong: format!("is given twice: {key} by {from}, {file_key} by {file_from}"),
                    remedy: "keep one; an empty string takes back what an earlier source gave".into(),
                });
                None
            }
            (Some((value, from)), None) => match check(&value) {
                Ok(()) => {
                    self.describe(key, mask(&value), &from);
                    Some(Some(Secret::fixed(value)))
                }
                Err(error) => {
                    self.fault(key, Some(&from), format!("holds a value that cannot be used: {error}"));
                    None
                }
            },
            (None, Some((path, from))) => self.secret_file(key, &file_key, &path, &from, check),
            (None, None) => {
                self.describe(key, "not set".into(), "");
                Some(None)
            }
        }
    }

    fn secret_file(
        &mut self,
        key: &str,
        file_key: &str,
        path: &str,
        from: &Origin,
        check: Check,
    ) -> Option<Option<Secret>> {
        // Somebody who mixes up KEY and KEY_file puts the secret where the path belongs: it must not be shown.
        if path.contains("://") || path.contains(char::is_control) {
            let wrong = "is not a path (not shown, as it may be the secret itself)";
            self.fault(file_key, Some(from), wrong.into());
            return None;
        }
        self.describe(key, format!("file {path}"), from);
        if !self.uses(key) {
            return Some(None);
        }
        match Secret::open(path, check) {
            Ok(secret) => Some(Some(secret)),
            Err(error) => {
                let file = match path.contains('/') {
                    true => format!("the file {}", quoted(path)),
                    false => "the file (its name is not shown, as it may be the secret itself)".into(),
                };
                self.fault(file_key, Some(from), format!("{file} {error}"));
                None
            }
        }
    }

    /// A string that is not empty, as it is; `Some(None)` if there is none.
    fn given(&mut self, key: &str) -> Option<Option<(String, Origin)>> {
        let Some((kind, origin)) = self.layers.get(key) else {
            return Some(None);
        };
        let origin = origin.clone();
        match kind {
            ValueKind::String(text) if text.trim().is_empty() => Some(None),
            ValueKind::String(text) => Some(Some((text.clone(), origin))),
            other => {
                let wrong = format!("is {}, not a string: write it in quotes", kind_name(other));
                self.fault(key, Some(&origin), wrong);
                None
            }
        }
    }

    /// Records what is wrong with a key in the light of others, or that it is missing.
    pub(super) fn unfit(&mut self, key: &str, wrong: String) {
        let origin = self.layers.get(key).map(|(_, origin)| origin.clone());
        self.fault(key, origin.as_ref(), wrong);
    }

    fn fault(&mut self, key: &str, origin: Option<&Origin>, wrong: String) {
        let example = keys::find(key).map_or("", |key| key.example);
        let variable = keys::variable(key);
        let file_key = format!("{key}_file");
        let or_file = match KEYS.iter().any(|key| key.name == file_key) {
            true => format!(", or {file_key} (a path)"),
            false => String::new(),
        };
        self.faults.push(Fault {
            key: key.to_owned(),
            source: origin.map_or_else(|| "not set anywhere".to_owned(), Origin::to_string),
            wrong,
            remedy: match origin {
                Some(Origin::Variable(_)) => {
                    format!("set {variable}, e.g. to {}{or_file}", example.trim_matches('"'))
                }
                _ => format!("set {key}, e.g. {example}{or_file}, or {variable}"),
            },
        });
    }

    fn describe(&mut self, key: &str, shown: String, source: impl Display) {
        self.described.push((key.to_owned(), shown, source.to_string()));
    }
}

/// Addresses, which an empty string switches off, and the list, which it empties.
fn may_be_empty(key: &str) -> bool {
    let of_admin = ["admin.listen", "admin.allowed_hosts", "admin.trace_url", "admin.audit_log"];
    of_admin.contains(&key) || ["ops.listen", "results.reply_to_prefixes"].contains(&key)
}

/// A value that is no secret, for people.
fn shown(key: &str, kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) if text.trim().is_empty() && key.ends_with(".listen") => "off".into(),
        ValueKind::String(text) if text.trim().is_empty() => "none".into(),
        ValueKind::String(text) => text.trim().to_owned(),
        ValueKind::Array(values) if values.is_empty() => "none".into(),
        ValueKind::Array(values) => {
            let items: Vec<String> = values.iter().map(|value| value.kind.to_string()).collect();
            items.join(",")
        }
        other => other.to_string(),
    }
}

/// Shows nothing of a secret.
pub(super) fn hidden(_: &str) -> String {
    "***".into()
}
