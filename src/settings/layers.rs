//! Reads the layers (compiled in, files, environment), keeps what is a key, and lets `config` put them together.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Environment, FileFormat, Format, Map, Source, Value, ValueKind};

use super::faults::Fault;
use super::keys::{self, KEYS};
use super::values::{kind_name, quoted};

const DEFAULTS: &str = include_str!("../../config/default.toml");
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const PREFIX: &str = "UNLOCKER__";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    CompiledIn,
    File(PathBuf),
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CompiledIn => f.write_str("config/default.toml (compiled in)"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// All layers put together.
pub(super) struct Layers {
    merged: HashMap<String, ValueKind>,
    origins: BTreeMap<&'static str, Origin>,
    /// What was wrong with the layers themselves.
    pub(super) faults: Vec<Fault>,
}

impl Layers {
    pub(super) fn read(files: &[PathBuf], environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut layers = Self { merged: HashMap::new(), origins: BTreeMap::new(), faults: Vec::new() };
        let mut builder = Config::builder();
        if let Some(table) = layers.parse(&Origin::CompiledIn, DEFAULTS) {
            builder = builder.add_source(layers.keep_keys(&Origin::CompiledIn, table));
        }
        for path in files {
            let origin = Origin::File(path.clone());
            if let Some(table) = layers.read_file(&origin, path) {
                builder = builder.add_source(layers.keep_keys(&origin, table));
            }
        }
        let builder = builder.add_source(layers.keep_variables(environment));
        match builder.build() {
            Ok(config) => layers.merged = flatten(config.cache.kind),
            Err(_) => layers.fault_of_file(&Origin::CompiledIn, "the layers cannot be put together".into()),
        }
        layers
    }

    /// The value of a key, and where the layer that won has it from.
    pub(super) fn get(&self, key: &str) -> Option<(&ValueKind, &Origin)> {
        Some((self.merged.get(key)?, self.origins.get(key)?))
    }

    fn read_file(&mut self, origin: &Origin, path: &Path) -> Option<Map<String, Value>> {
        match read_text(path) {
            Ok(text) => self.parse(origin, &text),
            Err(error) => {
                self.fault_of_file(origin, format!("cannot be read: {error}"));
                None
            }
        }
    }

    fn parse(&mut self, origin: &Origin, text: &str) -> Option<Map<String, Value>> {
        match FileFormat::Toml.parse(Some(&origin.to_string()), text) {
            Ok(table) => Some(table),
            Err(error) => {
                let reason = without_excerpt(&error.to_string());
                self.fault_of_file(origin, format!("is not TOML: {reason}"));
                None
            }
        }
    }

    fn fault_of_file(&mut self, origin: &Origin, wrong: String) {
        self.faults.push(Fault {
            key: "--config".into(),
            source: origin.to_string(),
            wrong,
            remedy: "give the path of a readable TOML file, see config/default.toml".into(),
        });
    }

    /// Names what is not a key and keeps the rest. `config` would take a name such as `a[99999999999]` for an index.
    fn keep_keys(&mut self, origin: &Origin, table: Map<String, Value>) -> Layer {
        let mut kept = Layer(Map::new());
        // A hash map has no order, the list of faults should have one.
        for (section, value) in BTreeMap::from_iter(table) {
            let known = KEYS.iter().any(|key| key.section() == section);
            match value.kind {
                ValueKind::Table(entries) if known => {
                    let entries = BTreeMap::from_iter(entries)
                        .into_iter()
                        .filter(|(leaf, _)| self.is_key(origin, &section, leaf))
                        .collect::<Map<_, _>>();
                    kept.0.insert(section, Value::from(entries));
                }
                kind if known => self.faults.push(Fault {
                    key: section.clone(),
                    source: origin.to_string(),
                    wrong: format!("is {}, but it is the name of a section", kind_name(&kind)),
                    remedy: format!("write its keys under [{section}], see config/default.toml"),
                }),
                ValueKind::Table(_) => self.unknown(origin, &plain(&section), suggested_section(&section)),
                _ => self.unknown(origin, &plain(&section), suggested_key(&section)),
            }
        }
        kept
    }

    fn is_key(&mut self, origin: &Origin, section: &str, leaf: &str) -> bool {
        let name = format!("{section}.{leaf}");
        match keys::find(&name) {
            Some(key) => {
                self.origins.insert(key.name, origin.clone());
                true
            }
            None => {
                let shown = format!("{section}.{}", plain(leaf));
                self.unknown(origin, &shown, suggested_key(&name));
                false
            }
        }
    }

    fn keep_variables(&mut self, environment: impl IntoIterator<Item = (String, String)>) -> Environment {
        let mut kept = Map::new();
        let ours = environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX));
        for (name, value) in BTreeMap::from_iter(ours) {
            match KEYS.iter().find(|key| key.variable() == name) {
                Some(key) if value.contains(char::REPLACEMENT_CHARACTER) => self.faults.push(Fault {
                    key: key.name.to_owned(),
                    source: name,
                    wrong: "is not valid UTF-8".into(),
                    remedy: format!("set {}, e.g. {}, in UTF-8", key.variable(), key.example),
                }),
                Some(key) => {
                    self.origins.insert(key.name, Origin::Variable(name.clone()));
                    kept.insert(name, value);
                }
                None => {
                    let dotted = name.strip_prefix(PREFIX).unwrap_or(&name).replace("__", ".");
                    let suggestion = keys::nearest(&dotted).map(keys::Key::variable);
                    self.unknown(&Origin::Variable(plain(&name)), &plain(&dotted.to_lowercase()), suggestion);
                }
            }
        }
        Environment::with_prefix("UNLOCKER").separator("__").source(Some(kept))
    }

    /// The value is not shown: it may be a secret under a misspelt name.
    fn unknown(&mut self, origin: &Origin, key: &str, suggestion: Option<String>) {
        self.faults.push(Fault {
            key: key.to_owned(),
            source: origin.to_string(),
            wrong: "is not a known key".into(),
            remedy: match suggestion {
                Some(name) => format!("did you mean {name}? Else remove it"),
                None => "remove it; config/default.toml has all keys".into(),
            },
        });
    }
}

fn suggested_key(name: &str) -> Option<String> {
    keys::nearest(name).map(|key| key.name.to_owned())
}

fn suggested_section(name: &str) -> Option<String> {
    keys::nearest_section(name).map(|section| format!("[{section}]"))
}

/// A key's name as it is, or quoted if a terminal or a reader could stumble over it.
fn plain(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.is_empty() && name.len() <= 100 && name.chars().all(bare) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

/// One layer, pruned to what is a key.
#[derive(Clone)]
struct Layer(Map<String, Value>);

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Layer")
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// `section → key → value` to `section.key → value`.
fn flatten(root: ValueKind) -> HashMap<String, ValueKind> {
    let mut flat = HashMap::new();
    let ValueKind::Table(sections) = root else {
        return flat;
    };
    for (section, value) in sections {
        if let ValueKind::Table(entries) = value.kind {
            flat.extend(entries.into_iter().map(|(leaf, value)| (format!("{section}.{leaf}"), value.kind)));
        }
    }
    flat
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

/// The TOML parser's message without the excerpt of the file, which may show a secret: the place, then the reason.
fn without_excerpt(message: &str) -> String {
    let mut lines = message.lines();
    let Some(first) = lines.next() else {
        return "unknown reason".into();
    };
    let Some(place) = first.strip_prefix("TOML parse error ") else {
        return first.to_owned();
    };
    // Three lines of excerpt: a margin, the line of the file, the marks below it.
    let reason: Vec<&str> = lines.skip(3).map(str::trim).collect();
    format!("{} ({place})", reason.join(", "))
}
