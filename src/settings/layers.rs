//! Reads the layers (compiled in, files, environment), reports what is not a key, and lets `config`
//! merge the rest.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    iter,
    path::{Path, PathBuf},
};

use config::{Config, FileFormat, Format, Map, Value, ValueKind};

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

/// The origin of a value is [`COMPILED_IN`], a file's path, or a variable's name.
pub(super) struct Layers {
    merged: Config,
    /// What was read, in order, or why a file could not be read.
    layers: Vec<Result<Layer, Fault>>,
    /// The names of variables that begin with `UNLOCKER_`, but not as ours do.
    other_variables: Vec<String>,
}

impl Layers {
    pub(super) fn read(files: &[PathBuf], environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let defaults = (COMPILED_IN.to_owned(), Ok(DEFAULTS.to_owned()));
        let files = files.iter().map(|path| (path.display().to_string(), read_text(path)));
        let parsed = iter::once(defaults).chain(files).map(|(source, text)| {
            let readable = "give the path of a readable TOML file, see config/default.toml";
            let text = text.map_err(|error| (format!("cannot be read: {error}"), readable.into()));
            text.and_then(|text| parse(&source, &text)).map_err(|(wrong, remedy)| Fault {
                key: "--config".into(),
                source,
                wrong,
                remedy,
            })
        });
        let (ours, others): (Vec<_>, Vec<_>) =
            environment.into_iter().partition(|(name, _)| name.starts_with(PREFIX));
        let others = others.into_iter().map(|(name, _)| name);
        let other_variables = others.filter(|name| name.starts_with(SHORT_PREFIX)).collect();
        let layers: Vec<_> = parsed.chain([Ok(variables(ours))]).collect();
        let builder =
            layers.iter().flatten().fold(Config::builder(), |all, layer| all.add_source(source(layer)));
        // This merge cannot fail. If it did, the required keys would be reported as missing.
        Self { merged: builder.build().unwrap_or_default(), layers, other_variables }
    }

    /// The value of a key from the last layer that has it, and its origin.
    pub(super) fn get(&self, key: &str) -> Option<(ValueKind, String)> {
        let (section, leaf) = key.split_once('.')?;
        let value = self.merged.get_table(section).ok()?.remove(leaf)?;
        let origin = value.origin().unwrap_or_default().to_owned();
        Some((value.kind, origin))
    }

    /// Whether there is a file that could not be read: it may set any key.
    pub(super) fn has_unread(&self) -> bool {
        self.layers.iter().any(Result::is_err)
    }

    /// Files that could not be read, values that belong to none of `keys`, or are not UTF-8, and
    /// variables that are meant for a key, but are not read.
    pub(super) fn faults(self, keys: &[Key]) -> Vec<Fault> {
        let of_layer = |layer: Result<Layer, Fault>| match layer {
            Ok(layer) => {
                let mut layer = layer;
                let mut faults = misspelt_sections(keys, &mut layer);
                faults.extend(layer.into_iter().filter_map(|(name, value)| fault(keys, &name, &value)));
                faults
            }
            Err(fault) => vec![fault],
        };
        let unread = self.other_variables.iter().filter_map(|name| {
            let key = keys::of_variable(keys, name.strip_prefix(SHORT_PREFIX)?)?;
            Some(Fault {
                key: name.clone(),
                source: "a variable".into(),
                wrong: "is not read".into(),
                remedy: format!("write {}, with two underscores", variable(&key)),
            })
        });
        let unread: Vec<_> = unread.collect();
        self.layers.into_iter().flat_map(of_layer).chain(unread).collect()
    }
}

/// One fault for each section of a file whose name is nearly that of a known one. Removes its keys
/// from the layer, because each of them would be one more fault.
fn misspelt_sections(keys: &[Key], layer: &mut Layer) -> Vec<Fault> {
    let mut found = BTreeMap::new();
    layer.retain(|name, value| {
        let section = name.split('.').next().unwrap_or(name);
        let is_table = !name.contains('"') && (name.contains('.') || is_empty_table(value));
        let meant = keys::nearest_section(keys, section).filter(|_| is_table && !is_variable(value));
        let Some(meant) = meant else {
            return true;
        };
        let source = value.origin().unwrap_or_default().to_owned();
        found.entry(section.to_owned()).or_insert((meant, source));
        false
    });
    let fault = |(section, (meant, source))| Fault {
        key: plain(section),
        source,
        wrong: "is not a known section".into(),
        remedy: format!("did you mean [{meant}]? Else remove it"),
    };
    found.iter().map(|(section, (meant, source))| fault((section, (*meant, source.clone())))).collect()
}

/// The value is not shown: it may be a secret under a misspelt name.
fn fault(keys: &[Key], name: &str, value: &Value) -> Option<Fault> {
    let origin = value.origin().unwrap_or_default();
    let (is_variable, is_key) = (is_variable(value), keys::find(keys, name).is_some());
    let is_empty_table = is_empty_table(value);
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
    Some(Fault { key: plain(name), source, wrong: wrong.into(), remedy })
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

/// A layer for `config` to merge, without empty tables, and without names that cannot be keys:
/// `config` would read `a[99999999999]` as an index.
fn source(layer: &Layer) -> Config {
    let in_name = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
    let is_name = |name: &str| name.chars().all(in_name) && name.matches('.').count() == 1;
    let mut values = Map::from_iter(layer.clone());
    values.retain(|name, value| is_name(name) && is_utf8(value) && !is_empty_table(value));
    let mut source = Config::default();
    source.cache = values.into();
    source
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
    let named = environment.into_iter().map(|(name, value)| {
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

/// An error gives the reason with the place, and the remedy, but nothing of the text, which may be
/// a secret.
fn parse(origin: &String, text: &str) -> Result<Layer, (String, String)> {
    let table = FileFormat::Toml.parse(Some(origin), text).map_err(|error| {
        let Some(error) = error.downcast_ref::<toml::de::Error>() else {
            // The only other error of `config` for TOML.
            return ("contains a number that is too large".into(), "write a smaller number".into());
        };
        let place = error.span().and_then(|span| text.get(..span.start)).map(|before| {
            let line = before.split('\n').count();
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            (format!(" (at line {line}, column {column})"), format!("correct line {line}"))
        });
        let (place, remedy) = place.unwrap_or_else(|| (String::new(), "correct the file".into()));
        (format!("is not TOML: {}{place}", error.message()), remedy)
    });
    table.map(|table| flatten("", table))
}
