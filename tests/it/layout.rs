//! The one-way order of dependencies between the modules, and between the files.
//!
//! Each path in the code is resolved to the file that defines what the path names. `crate::` starts
//! at the root, `self::` and the name of a child module at the file's own module, each `super::` one
//! module further up. From there, each segment that is a file goes down to this file, and a name that
//! a file re-exports with `pub use` leads to the file that the name comes from. So a `mod` or a `pub
//! use` is no import, unless the same file also uses the name. Unit tests and comments do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// A later module may use an earlier one, never the reverse; those that share a rank may use each
/// other.
const ORDER: [&[&str]; 11] = [
    &["message"],
    &["policy"],
    &["breaker", "settle"],
    &["settings", "secret"],
    &["telemetry", "trackfinity", "broker"],
    &["worker", "dead_letters", "history"],
    &["http"],
    &["gateway", "console", "ops"],
    &["sandbox", "fips"],
    &["cli"],
    &["lib", "main"],
];

#[test]
fn dependencies_run_one_way() {
    let rank: BTreeMap<&str, usize> = ORDER
        .iter()
        .enumerate()
        .flat_map(|(rank, modules)| modules.iter().map(move |name| (*name, rank)))
        .collect();
    let sources = Sources::read();
    let mut wrong = BTreeSet::new();
    let mut seen = 0;
    for (module, file) in &sources.0 {
        let top = module.first().map_or("lib", String::as_str);
        let own = rank.get(top).unwrap_or_else(|| panic!("{top} has no place in the order"));
        for path in paths(&file.code).into_iter().chain(paths(&file.tests)) {
            let [root, used, ..] = path.as_slice() else { continue };
            if root != "crate" {
                continue;
            }
            seen += 1;
            match rank.get(used.as_str()) {
                Some(other) if other > own => _ = wrong.insert(format!("{top} uses {used}")),
                Some(_) => {}
                None => _ = wrong.insert(format!("{top} uses {used}, which has no place in the order")),
            }
        }
    }
    assert!(seen > 20, "only {seen} uses were found: this test reads the sources wrongly");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_two_files_import_each_other() {
    let imports = Sources::read().imports();
    assert!(
        imports.len() > 200,
        "only {} imports were found: this test reads the sources wrongly",
        imports.len()
    );
    let pairs: BTreeSet<[String; 2]> = imports
        .iter()
        .filter(|(from, to)| from < to && imports.contains(&(to.clone(), from.clone())))
        .map(|(from, to)| [from.join("::"), to.join("::")])
        .collect();
    assert_eq!(pairs, BTreeSet::new(), "pairs of files that import each other");
}

/// A module's path without `crate`; the root is empty.
type Module = Vec<String>;

struct Source {
    /// What ships, without comments and without `pub use`.
    code: String,
    /// The unit tests inside the file.
    tests: String,
    /// Names that the file hands on, with their paths.
    exports: BTreeMap<String, Vec<String>>,
}

/// All files of `src`. Files with unit tests use what they test, and nothing uses them: they have
/// no code that ships.
struct Sources(BTreeMap<Module, Source>);

impl Sources {
    fn read() -> Self {
        let mut sources = Self(BTreeMap::new());
        sources.read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &Module::new());
        sources
    }

    fn read_folder(&mut self, folder: &Path, parent: &Module) {
        for entry in fs::read_dir(folder).expect("src").map(|entry| entry.expect("an entry").path()) {
            let name = entry.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
            let module = match name.as_str() {
                "lib" => Module::new(),
                _ => [parent.as_slice(), &[name]].concat(),
            };
            if entry.is_dir() {
                self.read_folder(&entry, &module);
            } else {
                let is_test = module.iter().any(|name| name == "tests");
                let text = fs::read_to_string(&entry).expect("a source");
                self.0.insert(module, Source::parse(&text, is_test));
            }
        }
    }

    /// Which file imports which.
    fn imports(&self) -> BTreeSet<(Module, Module)> {
        let mut imports = BTreeSet::new();
        for (module, file) in &self.0 {
            let exports_in_use = file.exports.iter().filter(|(name, _)| has_word(&file.code, name));
            let used = paths(&file.code).into_iter().chain(exports_in_use.map(|(_, path)| path.clone()));
            for target in used.filter_map(|path| self.resolve(module, &path)) {
                imports.insert((module.clone(), target));
            }
        }
        imports.retain(|(from, to)| from != to);
        imports
    }

    /// The file that defines what a path in this module names; `None` for another crate's.
    fn resolve(&self, module: &Module, path: &[String]) -> Option<Module> {
        let mut at = module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (at, rest) = (Module::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {}
            child => _ = self.0.get(&[at.as_slice(), &[child.to_owned()]].concat())?,
        }
        while let Some((name, after)) = rest.split_first() {
            let child = [at.as_slice(), std::slice::from_ref(name)].concat();
            if name == "super" {
                at.pop();
            } else if self.0.contains_key(&child) {
                at = child;
            } else if let Some(origin) = self.0.get(&at).and_then(|file| file.exports.get(name)) {
                let path = [origin.as_slice(), after].concat();
                return self.resolve(&at, &path);
            } else {
                break;
            }
            rest = after;
        }
        Some(at)
    }
}

impl Source {
    fn parse(text: &str, is_test: bool) -> Self {
        let text: String =
            text.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n");
        let (shipped, tests) = match text.split_once("#[cfg(test)]\nmod tests {") {
            _ if is_test => ("", text.as_str()),
            Some((shipped, tests)) => (shipped, tests),
            None => (text.as_str(), ""),
        };
        let mut code = String::new();
        let mut exports = BTreeMap::new();
        for statement in shipped.split_inclusive(';') {
            let start = statement.rfind("use ").filter(|at| {
                let line = statement[..*at].rfind('\n').map_or(0, |end| end + 1);
                statement[line..*at].starts_with("pub")
            });
            code.push_str(&statement[..start.unwrap_or(statement.len())]);
            for path in start.map(|start| paths(&statement[start..])).into_iter().flatten() {
                exports.insert(path.last().cloned().unwrap_or_default(), path);
            }
        }
        Self { code, tests: tests.to_owned(), exports }
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !is_name(c)).any(|name| name == word)
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// All paths of more than one segment in a text, those in the braces of a `use` written out; not the
/// path of a `pub(in …)`, which is no use.
fn paths(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("pub(in crate::", "pub(");
    let mut paths = Vec::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(is_name) {
        let (found, after) = path(&rest[start..]);
        rest = after;
        paths.extend(found.into_iter().filter(|path| path.len() > 1));
    }
    paths
}

/// The paths that start here, and the text after them.
fn path(text: &str) -> (Vec<Vec<String>>, &str) {
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    let first = vec![name.to_owned()];
    let Some(after) = rest.strip_prefix("::") else { return (vec![first], rest) };
    let mut tails = Vec::new();
    if let Some(group) = after.strip_prefix('{') {
        rest = group;
        loop {
            rest = rest.trim_start_matches([' ', '\n', ',']);
            if rest.is_empty() || rest.starts_with('}') {
                rest = rest.get(1..).unwrap_or_default();
                break;
            }
            let (found, after) = path(rest);
            tails.extend(found);
            // A rename, or a `*`.
            rest = &after[after.find([',', '}']).unwrap_or(after.len())..];
        }
    } else if after.starts_with(is_name) {
        (tails, rest) = path(after);
    } else {
        (tails, rest) = (vec![Vec::new()], after);
    }
    let paths = tails
        .into_iter()
        // `{self, …}` names the module itself.
        .map(|tail| first.iter().chain(tail.iter().filter(|name| *name != "self")).cloned().collect())
        .collect();
    (paths, rest)
}

#[test]
fn paths_are_read_from_uses_and_code() {
    let text = "use crate::{\n    message::{self, A as B},\n    policy,\n};\npub(in crate::x) fn f() { super::g(a) }";
    let found: Vec<String> = paths(text).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["crate::message", "crate::message::A", "crate::policy", "super::g"]);
}
