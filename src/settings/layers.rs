//! Reads the layers (compiled in, files, environment), finds the value of a key in them, and reports
//! what is not a key.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    iter,
    path::{Path, PathBuf},
};

use config::{FileFormat, Format, Map, Value, ValueKind};

use super::{
    faults::Fault,
    keys::{self, Key, PREFIX, SHORT_PREFIX, variable},
    values::quoted,
};

/// The origin of a default.
pub(super) const COMPILED_IN: &str = "config/default.toml (compiled in)";

/// The defaults as a commented settings file, which describes every key.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What a layer sets: names as `section.key`, with their values.
type Layer = BTreeMap<String, Value>;

/// What was read, in order, or why a file could not be read. The origin of a value is
/// [`COMPILED_IN`], a file's path, or a variable's name.
pub(super) struct Layers(Vec<Result<Layer, Fault>>);

impl Layers {
    pub(super) fn read(files: &[PathBuf], environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let files = files.iter().map(|path| {
            let source = path.display().to_string();
            let readable = "give the path of a readable TOML file, see config/default.toml";
            match read_text(path) {
                Ok(text) => parse(&source, &text),
                Err(error) => {
                    Err(Fault::new("--config", &source, &format!("cannot be read: {error}"), readable))
                }
            }
        });
        let defaults = iter::once_with(|| parse(&COMPILED_IN.to_owned(), DEFAULTS));
        Self(defaults.chain(files).chain([Ok(variables(environment))]).collect())
    }

    /// The value of a key from the last layer that has it, and its origin.
    pub(super) fn get(&self, key: &str) -> Option<(ValueKind, String)> {
        let is_usable = |value: &&Value| is_utf8(value) && !is_empty_table(value);
        let mut layers = self.0.iter().rev().flatten();
        let value = layers.find_map(|layer| layer.get(key).filter(is_usable))?;
        Some((value.kind.clone(), value.origin().unwrap_or_default().to_owned()))
    }

    /// Whether there is a file that could not be read: it may set any key.
    pub(super) fn has_unread(&self) -> bool {
        self.0.iter().any(Result::is_err)
    }

    /// Files that could not be read, values that belong to none of `keys`, or are not UTF-8, and
    /// variables that are meant for a key, but are not read.
    pub(super) fn faults(self, keys: &[Key]) -> Vec<Fault> {
        let of_layer = |layer: Result<Layer, Fault>| match layer {
            Ok(layer) => layer.iter().filter_map(|(name, value)| fault(keys, name, value)).collect(),
            Err(fault) => vec![fault],
        };
        let mut faults: Vec<_> = self.0.into_iter().flat_map(of_layer).collect();
        // Each key of a misspelt section has the same fault.
        faults.dedup();
        faults
    }
}

/// The value is not shown: it may be a secret under a misspelt name.
fn fault(keys: &[Key], name: &str, value: &Value) -> Option<Fault> {
    let origin = value.origin().unwrap_or_default();
    let (is_variable, is_empty_table) = (is_variable(value), is_empty_table(value));
    if origin == name && !is_variable {
        let meant = keys::nearest_variable(keys, name)?;
        let remedy = format!("write {meant}, with two underscores");
        return Some(Fault::new(name, "a variable", "is not read", &remedy));
    }
    let is_in_section = !is_variable && !name.contains('"') && (name.contains('.') || is_empty_table);
    let section = keys::section(name);
    if let Some(meant) = keys::nearest_section(keys, section).filter(|_| is_in_section) {
        let remedy = format!("did you mean [{meant}]? Else remove it");
        return Some(Fault::new(&plain(section), origin, "is not a known section", &remedy));
    }
    let is_key = keys::find(keys, name).is_some();
    let (wrong, remedy) = match keys::nearest(keys, name) {
        _ if is_key && is_empty_table => {
            ("is the name of a key, not of a section", format!("write it as {name} = …"))
        }
        _ if is_key && is_utf8(value) => return None,
        _ if is_key => ("is not valid UTF-8", "write it again, in UTF-8".into()),
        _ if is_empty_table && keys::has_section(keys, name) => return None,
        _ if keys::has_section(keys, name) => {
            ("is the name of a section", format!("write its keys under [{name}], see config/default.toml"))
        }
        Some(key) => {
            let meant = if is_variable { variable(&key) } else { key };
            ("is not a known key", format!("did you mean {meant}? Else remove it"))
        }
        None => ("is not a known key", "remove it; config/default.toml has all keys".into()),
    };
    let source = if is_variable { plain(origin) } else { origin.to_owned() };
    Some(Fault::new(&plain(name), &source, wrong, &remedy))
}

/// Whether the value is from a variable, not from a file.
fn is_variable(value: &Value) -> bool {
    value.origin().is_some_and(|origin| origin.starts_with(PREFIX))
}

/// [`environment`](super::environment) puts U+FFFD in the place of bytes that are not UTF-8. In a
/// file, which is UTF-8, the character is itself.
fn is_utf8(value: &Value) -> bool {
    !is_variable(value) || !value.kind.to_string().contains(char::REPLACEMENT_CHARACTER)
}

fn is_empty_table(value: &Value) -> bool {
    matches!(&value.kind, ValueKind::Table(table) if table.is_empty())
}

/// A name with a dot keeps its quotes: it is no key, even if it looks like one. An empty table
/// stays a value, so that a misspelt section without keys is reported.
fn flatten(prefix: &str, table: Map<String, Value>) -> Layer {
    let entries = table.into_iter().map(|(name, value)| match name.contains('.') {
        true => (format!("{prefix}{name:?}"), value),
        false => (format!("{prefix}{name}"), value),
    });
    let flat = entries.flat_map(|(name, value)| match value.kind {
        ValueKind::Table(table) if !table.is_empty() => flatten(&format!("{name}."), table),
        _ => Layer::from([(name, value)]),
    });
    flat.collect()
}

/// The variables of the program. One that no key can have keeps its own name.
fn variables(environment: impl IntoIterator<Item = (String, String)>) -> Layer {
    let of_program = environment.into_iter().filter(|(name, _)| name.starts_with(SHORT_PREFIX));
    let named = of_program.map(|(name, value)| {
        let key = name.replacen(PREFIX, "", 1).replace("__", ".").to_lowercase();
        (if variable(&key) == name { key } else { name.clone() }, Value::new(Some(&name), value))
    });
    named.collect()
}

/// A key's name as it is, or quoted if it contains unusual characters.
fn plain(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "._-\"".contains(c);
    if !name.is_empty() && name.len() <= 100 && name.chars().all(bare) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other("it is not valid UTF-8"))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// A fault gives the reason with its place, but nothing of the text, which may be a secret.
fn parse(origin: &String, text: &str) -> Result<Layer, Fault> {
    let table = FileFormat::Toml.parse(Some(origin), text).map_err(|error| {
        let (wrong, remedy) = match error.downcast_ref::<toml::de::Error>() {
            Some(error) => {
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                let line = before.split('\n').count();
                let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
                let place = format!("(at line {line}, column {column})");
                (format!("is not TOML: {} {place}", error.message()), format!("correct line {line}"))
            }
            // The only other error of `config` for TOML.
            None => ("contains a number that is too large".into(), "write a smaller number".into()),
        };
        Fault::new("--config", origin, &wrong, &remedy)
    });
    table.map(|table| flatten("", table))
}
