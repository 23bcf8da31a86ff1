//! Reads the layers (compiled in, files, environment), reports what is not a key, and lets `config` merge the rest.

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
    keys::{Keys, PREFIX, variable},
    values::quoted,
};

/// The origin of a default.
pub(super) const COMPILED_IN: &str = "config/default.toml (compiled in)";

const DEFAULTS: &str = include_str!("../../config/default.toml");
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// All layers, merged. The origin of a value is [`COMPILED_IN`], a file's path, or a variable's name.
pub(super) struct Layers {
    merged: Config,
    /// What is wrong with the layers themselves.
    pub(super) faults: Vec<Fault>,
}

impl Layers {
    pub(super) fn read(
        keys: Keys,
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut faults = Vec::new();
        let mut builder = Config::builder();
        let defaults = (COMPILED_IN.to_owned(), Ok(DEFAULTS.to_owned()));
        let files = files.iter().map(|path| (path.display().to_string(), read_text(path)));
        for (origin, text) in iter::once(defaults).chain(files) {
            let text = text.map_err(|error| format!("cannot be read: {error}"));
            match text.and_then(|text| parse(&origin, &text)) {
                Ok(layer) => builder = builder.add_source(known(keys, layer, &mut faults)),
                Err(wrong) => faults.push(Fault {
                    key: "--config".into(),
                    source: origin,
                    wrong,
                    remedy: "give the path of a readable TOML file, see config/default.toml".into(),
                }),
            }
        }
        let merged = builder.add_source(known(keys, variables(keys, environment), &mut faults)).build();
        // Known keys can always be merged. If they could not, every required key would be reported as missing.
        Self { merged: merged.unwrap_or_default(), faults }
    }

    /// The value of a key from the last layer that has it.
    pub(super) fn get(&self, key: &str) -> Option<Value> {
        let (section, leaf) = key.split_once('.')?;
        self.merged.get_table(section).ok()?.remove(leaf)
    }
}

/// Names as `section.key`, with their values.
type Layer = BTreeMap<String, Value>;

fn flatten(prefix: &str, table: Map<String, Value>) -> Layer {
    let entries = table.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value));
    let flat = entries.flat_map(|(name, value)| match value.kind {
        ValueKind::Table(table) => flatten(&format!("{name}."), table),
        _ => Layer::from([(name, value)]),
    });
    flat.collect()
}

/// The variables of the program. One that is not a key's keeps its own name.
fn variables(keys: Keys, environment: impl IntoIterator<Item = (String, String)>) -> Layer {
    let ours = environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX));
    ours.map(|(name, value)| {
        let key = keys.names().find(|key| variable(key) == name);
        (key.unwrap_or_else(|| name.clone()), Value::new(Some(&name), value))
    })
    .collect()
}

/// Reports what is not a key and keeps the rest, as a layer for [`Config`] to merge. `config` would read a name such as
/// `a[99999999999]` as an index.
fn known(keys: Keys, layer: Layer, faults: &mut Vec<Fault>) -> Config {
    let mut known = Map::new();
    for (name, value) in layer {
        let origin = value.origin().unwrap_or_default();
        let is_variable = origin.starts_with(PREFIX);
        let not_utf8 = is_variable && value.kind.to_string().contains(char::REPLACEMENT_CHARACTER);
        if !not_utf8 && keys.find(&name).is_some() {
            known.insert(name, value);
            continue;
        }
        // The value is not shown: it may be a secret under a misspelt name.
        let (wrong, remedy) = match keys.nearest(&name) {
            _ if not_utf8 => ("is not valid UTF-8", format!("set {origin} to valid UTF-8")),
            _ if keys.has_section(&name) => (
                "is the name of a section",
                format!("write its keys under [{name}], see config/default.toml"),
            ),
            Some(key) => {
                let meant = if is_variable { variable(&key) } else { key };
                ("is not a known key", format!("did you mean {meant}? Else remove it"))
            }
            None => ("is not a known key", "remove it; config/default.toml has all keys".into()),
        };
        let source = if is_variable { plain(origin) } else { origin.to_owned() };
        faults.push(Fault { key: plain(&name), source, wrong: wrong.into(), remedy });
    }
    let mut layer = Config::default();
    layer.cache = known.into();
    layer
}

/// A key's name as it is, or quoted if it holds unusual characters.
fn plain(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
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

/// An error gives the reason and the place, but nothing of the text, which may be a secret.
fn parse(origin: &String, text: &str) -> Result<Layer, String> {
    let table = FileFormat::Toml.parse(Some(origin), text).map_err(|error| {
        let Some(error) = error.downcast_ref::<toml::de::Error>() else {
            // The only other error of `config` for TOML.
            return "holds a number that is too large".into();
        };
        let place = error.span().and_then(|span| text.get(..span.start)).map(|before| {
            let line = before.split('\n').count();
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            format!(" (at line {line}, column {column})")
        });
        format!("is not TOML: {}{}", error.message(), place.unwrap_or_default())
    });
    table.map(|table| flatten("", table))
}
