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

pub(super) fn has_section(keys: &[Key], section: &str) -> bool {
    keys.iter().any(|key| key.name.split('.').next() == Some(section))
}

/// The section whose name is nearly `section`, if that is not a section itself.
pub(super) fn nearest_section<'a>(keys: &'a [Key], section: &str) -> Option<&'a str> {
    if section.len() > 100 || has_section(keys, section) {
        return None;
    }
    let names = keys.iter().filter_map(|key| key.name.split('.').next());
    let distances = names.map(|name| (strsim::levenshtein(&section.to_lowercase(), name), name));
    let close = distances.min_by_key(|(distance, _)| *distance);
    close.filter(|(distance, name)| *distance <= 2 && 2 * distance < name.len()).map(|(_, name)| name)
}

/// The key that a variable means whose name, after `UNLOCKER_`, lacks an underscore somewhere.
pub(super) fn of_variable(keys: &[Key], rest: &str) -> Option<String> {
    let joined = |name: &str| name.replace('.', "_").replace("__", "_").to_ascii_uppercase();
    keys.iter().flat_map(Key::names).find(|name| joined(name) == joined(rest))
}

/// The key that someone who wrote `name`, perhaps as a variable, most likely meant.
pub(super) fn nearest(keys: &[Key], name: &str) -> Option<String> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name).replace("__", ".").replace('-', "_").to_lowercase();
    let leaf = format!(".{}", name.rsplit_once('.').map_or(name.as_str(), |(_, leaf)| leaf));
    let names: Vec<String> = keys.iter().flat_map(Key::names).collect();
    // Names have at most 32 characters. Comparing them with a huge one would only take time.
    let compared = names.iter().filter(|_| name.len() <= 100);
    let distances = compared.map(|key| (strsim::levenshtein(&name, key), key));
    let close = distances.min_by_key(|(distance, _)| *distance).filter(|(distance, _)| *distance <= 3);
    close.map(|(_, key)| key).or_else(|| names.iter().find(|key| key.ends_with(&leaf))).cloned()
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
        let keys = ["trackfinity.api_key", "broker.url", "topology.prefix", "worker.concurrency"];
        let keys = keys.map(|name| Key { name, example: "", is_secret: false });
        let found = |name: &str| nearest(&keys, name);
        assert_eq!(found("trackfinity.apikey").unwrap(), "trackfinity.api_key");
        assert_eq!(found("worker.concurency").unwrap(), "worker.concurrency");
        assert_eq!(found("workers.concurrency").unwrap(), "worker.concurrency");
        assert_eq!(found("rabbitmq.url").unwrap(), "broker.url");
        assert_eq!(found("retry.concurrency").unwrap(), "worker.concurrency");
        assert_eq!(found("topology-prefix").unwrap(), "topology.prefix");
        assert_eq!(found("nothing.alike_at_all"), None);
        assert_eq!(found(&"x".repeat(101)), None);
    }
}
