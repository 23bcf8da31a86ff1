//! The one-way order of dependencies between the modules.

use std::{collections::BTreeMap, fs, path::Path};

/// A later module may use an earlier one, never the reverse; those that share a rank may use each
/// other.
const ORDER: [&[&str]; 11] = [
    &["message"],
    &["policy"],
    &["breaker", "settle"],
    &["settings", "secret"],
    &["telemetry", "trackfinity", "broker"],
    &["worker", "dead_letters"],
    &["ops"],
    &["admin"],
    &["sandbox"],
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
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (module, text) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let own = rank.get(module.as_str()).unwrap_or_else(|| panic!("{module} has no place in the order"));
        for used in used_modules(&text) {
            seen += 1;
            match rank.get(used.as_str()) {
                Some(other) if other > own => wrong.push(format!("{module} uses {used}")),
                Some(_) => {}
                None => wrong.push(format!("{module} uses {used}, which has no place in the order")),
            }
        }
    }
    assert!(seen > 20, "only {seen} uses were found: this test reads the sources wrongly");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every source file, with the top-level module it belongs to.
fn sources(directory: &Path) -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(directory).expect("src").map(|entry| entry.expect("an entry").path()) {
        let module = entry.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        if entry.is_dir() {
            let below = sources_below(&entry).into_iter().map(|text| (module.clone(), text));
            sources.extend(below);
        } else {
            sources.push((module, fs::read_to_string(&entry).expect("a source")));
        }
    }
    sources
}

fn sources_below(directory: &Path) -> Vec<String> {
    sources(directory).into_iter().map(|(_, text)| text).collect()
}

/// The first segments after `crate::`, in paths and in braces.
fn used_modules(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => used.extend(group_members(group)),
            None => used.extend(identifier(rest)),
        }
    }
    used
}

/// The first segments of a use group's members, up to its closing brace.
fn group_members(group: &str) -> Vec<String> {
    let mut members = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                members.extend(identifier(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.extend(identifier(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    members
}

fn identifier(text: &str) -> Option<String> {
    let name: String = text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

#[test]
fn uses_are_read_from_paths_and_groups() {
    let text = "use crate::{\n    message::{A, B},\n    policy,\n};\nfn f() { crate::pause::g() }";
    assert_eq!(used_modules(text), ["message", "policy", "pause"]);
}
