//! Reads keys one by one, and collects the faults and a description of what was read.

use std::net::SocketAddr;

use config::ValueKind;

use super::{
    faults::{Fault, Faults},
    keys::{self, Key, variable},
    layers::{COMPILED_IN, Layers},
    values::{Parsed, list, quoted},
};
use crate::secret::{Check, Secret, SecretError};

/// For each key: its name, its value for people, and its origin.
pub(super) type Described = Vec<(String, String, String)>;

/// Every method that returns `None` has recorded a fault, unless the command does not need the
/// missing value, or there is already the fault of a file that could not be read.
pub(super) struct Reader {
    layers: Layers,
    /// The keys that were read, which are all there are.
    keys: Vec<Key>,
    faults: Vec<Fault>,
    pub(super) described: Described,
    needs: Needs,
}

/// Which sections a command has no need of.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    /// Required values may be missing, and secrets' files are not opened. What is there is checked.
    pub(super) optional: &'static [&'static str],
    /// Their keys are known, and their values are not looked at.
    pub(super) unread: &'static [&'static str],
    /// Where health and metrics are served by default, if not at the worker's address.
    pub(super) default_ops: Option<SocketAddr>,
}

impl Reader {
    pub(super) fn new(layers: Layers, needs: Needs) -> Self {
        Self { layers, keys: Vec::new(), faults: Vec::new(), described: Vec::new(), needs }
    }

    /// The settings, if there was no fault.
    pub(super) fn finish<T>(self, settings: Option<T>) -> Result<T, Faults> {
        let mut faults = self.layers.faults(&self.keys);
        faults.extend(self.faults);
        settings.filter(|_| faults.is_empty()).ok_or(Faults(faults))
    }

    /// See [`Needs::default_ops`].
    pub(super) fn default_ops(&self) -> Option<SocketAddr> {
        self.needs.default_ops
    }

    /// Whether the command needs the key.
    pub(super) fn needs(&self, name: &str) -> bool {
        !self.needs.optional.contains(&keys::section(name)) && self.reads(name)
    }

    /// Whether the command looks at the key's value.
    fn reads(&self, name: &str) -> bool {
        !self.needs.unread.contains(&keys::section(name))
    }

    /// Describes the key with another default; `false` if it was set.
    pub(super) fn replace_default(&mut self, name: &str, shown: &str) -> bool {
        let default = self.described.iter_mut().find(|(key, _, from)| key == name && from == COMPILED_IN);
        default.map(|(_, value, _)| shown.clone_into(value)).is_some()
    }

    /// A value that must be given.
    pub(super) fn value<T>(
        &mut self,
        key: Key,
        text: fn(&ValueKind) -> Parsed<String>,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Option<T> {
        self.read(key, text, parse, None)
    }

    /// A value that may be missing or empty, and is then shown as `none`.
    pub(super) fn optional<T>(
        &mut self,
        key: Key,
        text: fn(&ValueKind) -> Parsed<String>,
        parse: impl FnOnce(&str) -> Parsed<T>,
        none: &str,
    ) -> Option<Option<T>> {
        self.read(key, text, |text| parse(text).map(Some), Some((None, none)))
    }

    /// Any number of values.
    pub(super) fn list<T>(&mut self, key: Key, item: fn(&str) -> Parsed<T>) -> Option<Vec<T>> {
        let parse = |text: &str| text.split(',').map(|text| item(text.trim())).collect();
        self.read(key, list, parse, Some((Vec::new(), "none")))
    }

    /// `when_empty`: the value if there is no text, and how it is shown.
    fn read<T>(
        &mut self,
        key: Key,
        text: fn(&ValueKind) -> Parsed<String>,
        parse: impl FnOnce(&str) -> Parsed<T>,
        when_empty: Option<(T, &str)>,
    ) -> Option<T> {
        self.keys.push(key);
        if !self.reads(key.name) {
            return None;
        }
        let (text, from) = match self.layers.get(key.name) {
            Some((kind, from)) => (text(&kind), from),
            None => (Ok(String::new()), String::new()),
        };
        let read = text.and_then(|text| match when_empty {
            _ if !text.is_empty() => parse(&text).map(|value| (value, text)),
            Some((value, shown)) => Ok((value, shown.to_owned())),
            None if from.is_empty() => Err("is required".into()),
            None => Err("is empty".into()),
        });
        match read {
            Ok((value, shown)) => {
                self.describe(key, &shown, &from);
                Some(value)
            }
            Err(_) if from.is_empty() && !self.needs(key.name) => None,
            Err(wrong) => self.fail(key.name, &wrong),
        }
    }

    /// A secret that must be given.
    pub(super) fn secret(&mut self, key: Key, check: Check, mask: fn(&str) -> String) -> Option<Secret> {
        match self.optional_secret(key, check, mask)? {
            None if self.needs(key.name) => self.fail(key.name, "is required"),
            secret => secret,
        }
    }

    /// A secret, given as KEY or as KEY_file. `Some(None)` if it is not given, or is a file that
    /// the command does not need.
    pub(super) fn optional_secret(
        &mut self,
        key: Key,
        check: Check,
        mask: fn(&str) -> String,
    ) -> Option<Option<Secret>> {
        self.keys.push(Key { is_secret: true, ..key });
        if !self.reads(key.name) {
            return None;
        }
        let file_key = format!("{}_file", key.name);
        let (value, path) = (self.given(key.name), self.given(&file_key));
        let (mut value, path) = (value?, path?);
        // The default is a fallback: nobody gave it.
        if path.is_some() {
            value = value.filter(|(_, from)| from != COMPILED_IN);
        }
        match (value, path) {
            (Some((_, from)), Some((_, file_from))) => {
                let source = format!("{from} and {file_from}");
                let wrong = format!("is given twice: {} by {from}, {file_key} by {file_from}", key.name);
                let remedy = "keep one; an empty string takes back what an earlier source gave";
                self.faults.push(Fault::new(key.name, &source, &wrong, remedy));
                None
            }
            (Some((value, from)), None) => {
                if let Err(error) = check(&value) {
                    return self.fail(key.name, &format!("contains a value that cannot be used: {error}"));
                }
                self.describe(key, &mask(&value), &from);
                Some(Some(Secret::fixed(value)))
            }
            // Someone who mixes up KEY and KEY_file puts the secret where the path belongs.
            (None, Some((path, _))) if path.contains("://") || path.contains(char::is_control) => {
                self.fail(&file_key, "is not a path (not shown, as it may be the secret itself)")
            }
            (None, Some((path, from))) => {
                self.describe(key, &format!("file {path}"), &from);
                let hidden = "(its name is not shown, as it may be the secret itself)";
                let shown = if path.contains('/') { quoted(&path) } else { hidden.into() };
                match self.needs(key.name).then(|| Secret::open(path, check)).transpose() {
                    Ok(secret) => Some(secret),
                    Err(error) => self.fail_by_file(&file_key, &shown, &error),
                }
            }
            (None, None) => {
                self.describe(key, "not set", "");
                Some(None)
            }
        }
    }

    /// A file of at most `max_bytes` that is read again while the program runs; `Some(None)` if none is named, or
    /// the command does not need it.
    pub(super) fn watched_file(&mut self, key: Key, max_bytes: u64, check: Check) -> Option<Option<Secret>> {
        self.keys.push(key);
        if !self.reads(key.name) {
            return None;
        }
        match self.given(key.name)? {
            // Someone has put the content where the path belongs.
            Some((path, _)) if path.contains(char::is_control) || path.starts_with("eyJ") => {
                self.fail(key.name, "is not a path (not shown, as it may be the secret itself)")
            }
            Some((path, from)) => {
                self.describe(key, &format!("file {path}"), &from);
                let shown = quoted(&path);
                let open = || Secret::open_up_to(max_bytes, path, check);
                match self.needs(key.name).then(open).transpose() {
                    Ok(file) => Some(file),
                    Err(error) => self.fail_by_file(key.name, &shown, &error),
                }
            }
            None => {
                self.describe(key, "not set", "");
                Some(None)
            }
        }
    }

    /// Whether the compiled-in default is in force.
    pub(super) fn is_default(&self, name: &str) -> bool {
        self.layers.get(name).is_some_and(|(_, from)| from == COMPILED_IN)
    }

    /// A string and its origin; `Some(None)` if there is none, or it is blank.
    fn given(&mut self, name: &str) -> Option<Option<(String, String)>> {
        match self.layers.get(name) {
            None => Some(None),
            Some((ValueKind::String(text), _)) if text.trim().is_empty() => Some(None),
            Some((ValueKind::String(text), from)) => Some(Some((text, from))),
            Some(_) => self.fail(name, "is not a string: write it in quotes"),
        }
    }

    /// Records what is wrong with a key, and how to set it.
    pub(super) fn fault(&mut self, name: &str, wrong: &str) {
        let (example, or_file) = match keys::find(&self.keys, name) {
            Some(key) if key.name != name => (key.file_example(), String::new()),
            Some(key) if key.is_secret => (key.example.into(), format!(", or {name}_file (a path)")),
            key => (key.map_or("", |key| key.example).into(), String::new()),
        };
        let variable = variable(name);
        let remedy = if self.layers.get(name).is_some_and(|(_, origin)| origin == variable) {
            let example = example.trim_matches(['[', ']', '"']).replace("\", \"", ",");
            format!("set {variable}, e.g. to {example}{or_file}")
        } else {
            format!("set {name}, e.g. {example}{or_file}, or {variable}")
        };
        self.fault_with_remedy(name, wrong, &remedy);
    }

    /// Records what is wrong with a key, and what to do. Not for a missing key that a file which
    /// could not be read may set.
    pub(super) fn fault_with_remedy(&mut self, name: &str, wrong: &str, remedy: &str) {
        let source = match self.layers.get(name) {
            Some((_, origin)) => origin,
            None if self.layers.has_unread() => return,
            None => "not set anywhere".into(),
        };
        self.faults.push(Fault::new(name, &source, wrong, remedy));
    }

    fn fail<T>(&mut self, name: &str, wrong: &str) -> Option<T> {
        self.fault(name, wrong);
        None
    }

    /// The file that the key names cannot be used.
    fn fail_by_file<T>(&mut self, name: &str, shown: &str, error: &SecretError) -> Option<T> {
        let wrong = format!("the file {shown} {error}");
        match error {
            // The path is wrong.
            SecretError::Read(_) | SecretError::NotAFile => self.fault(name, &wrong),
            SecretError::TooLarge(_)
            | SecretError::NotUtf8
            | SecretError::Der
            | SecretError::Empty
            | SecretError::Unusable(_) => {
                let remedy = format!("replace the file's content, or name another file in {name}");
                self.fault_with_remedy(name, &wrong, &remedy);
            }
        }
        None
    }

    fn describe(&mut self, key: Key, shown: &str, source: &str) {
        self.described.push((key.name.to_owned(), shown.to_owned(), source.to_owned()));
    }
}
