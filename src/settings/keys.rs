//! What is known about a key, besides its type, and how a misspelt key is found.

use std::iter;

/// What the name of every variable starts with.
pub(super) const PREFIX: &str = "UNLOCKER__";
/// What the name of a variable starts with whose author has overlooked an underscore.
pub(super) const SHORT_PREFIX: &str = "UNLOCKER_";

/// A key of the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// `section.key`
    pub(super) name: &'static str,
    /// A value to show to someone who has to set it.
    pub(super) example: &'static str,
    /// Whether it may also be given as `section.key_file`, a path.
    pub(super) is_secret: bool,
}

impl Key {
    /// A path to show to someone who has to set `section.key_file`.
    pub(super) fn file_example(&self) -> String {
        let leaf = self.name.rsplit('.').next().unwrap_or_default();
        format!("\"/run/secrets/unlocker/{}\"", leaf.replace('_', "-"))
    }

    fn names(&self) -> impl Iterator<Item = String> + use<> {
        iter::once(self.name.to_owned()).chain(self.is_secret.then(|| format!("{}_file", self.name)))
    }
}

/// The key that has `name`, or whose secret file has it.
pub(super) fn find<'a>(keys: &'a [Key], name: &str) -> Option<&'a Key> {
    keys.iter().find(|key| key.names().any(|known| known == name))
}

/// The section of `section.key`.
pub(super) fn section(name: &str) -> &str {
    name.split_once('.').map_or(name, |(section, _)| section)
}

pub(super) fn has_section(keys: &[Key], name: &str) -> bool {
    keys.iter().any(|key| section(key.name) == name)
}

/// The section whose name is nearly `name`, if that is not a section itself.
pub(super) fn nearest_section<'a>(keys: &'a [Key], name: &str) -> Option<&'a str> {
    let sections = keys.iter().map(|key| section(key.name));
    let (distance, nearest) = most_similar(&name.to_lowercase(), sections)?;
    (distance <= 2 && 2 * distance < nearest.len() && !has_section(keys, name)).then_some(nearest)
}

/// The variable that is meant by one whose name begins with `UNLOCKER_` and lacks an underscore.
pub(super) fn nearest_variable(keys: &[Key], name: &str) -> Option<String> {
    let joined = |name: &str| name.replace('.', "_").replace("__", "_").to_ascii_uppercase();
    let mut variables = keys.iter().flat_map(Key::names).map(|key| variable(&key));
    variables.find(|known| joined(known) == joined(name))
}

/// The key that someone who wrote `name`, perhaps as a variable, most likely meant.
pub(super) fn nearest(keys: &[Key], name: &str) -> Option<String> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name).replace("__", ".").replace('-', "_").to_lowercase();
    // The name of the section in earlier versions.
    let name = name.strip_prefix("admin.").map_or(name.clone(), |key| format!("console.{key}"));
    let leaf = format!(".{}", name.rsplit_once('.').map_or(name.as_str(), |(_, leaf)| leaf));
    let names: Vec<String> = keys.iter().flat_map(Key::names).collect();
    // A path belongs there.
    let of_file = format!("{name}_file");
    if names.contains(&of_file) {
        return Some(of_file);
    }
    let close = most_similar(&name, &names).filter(|(distance, _)| *distance <= 3);
    close.map(|(_, key)| key).or_else(|| names.iter().find(|key| key.ends_with(&leaf))).cloned()
}

/// The most similar of the known names, and how many characters differ.
fn most_similar<K: AsRef<str>>(name: &str, known: impl IntoIterator<Item = K>) -> Option<(usize, K)> {
    // Known names have at most 32 characters. Comparing them with a huge one would only take time.
    let compared = known.into_iter().filter(|_| name.len() <= 100);
    compared
        .map(|known| (strsim::levenshtein(name, known.as_ref()), known))
        .min_by_key(|(distance, _)| *distance)
}

/// The environment variable of a key.
pub(super) fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.replace('.', "__").to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_another_section_and_a_missing_underscore_find_the_key() {
        let keys = [
            "trackfinity.api_key",
            "broker.url",
            "topology.prefix",
            "worker.concurrency",
            "ops.listen",
            "console.listen",
            "broker.client_certificate_file",
            "broker.client_key_file",
        ];
        let keys = keys.map(|name| Key { name, example: "", is_secret: false });
        let found = |name: &str| nearest(&keys, name);
        assert_eq!(found("trackfinity.apikey").unwrap(), "trackfinity.api_key");
        assert_eq!(found("worker.concurency").unwrap(), "worker.concurrency");
        assert_eq!(found("workers.concurrency").unwrap(), "worker.concurrency");
        assert_eq!(found("rabbitmq.url").unwrap(), "broker.url");
        assert_eq!(found("retry.concurrency").unwrap(), "worker.concurrency");
        assert_eq!(found("broker.client_key").unwrap(), "broker.client_key_file");
        assert_eq!(found("topology-prefix").unwrap(), "topology.prefix");
        assert_eq!(found("UNLOCKER__CONSOLE__LISTEN").unwrap(), "console.listen");
        assert_eq!(found("nothing.alike_at_all"), None);
        assert_eq!(found(&"x".repeat(101)), None);
    }
}
