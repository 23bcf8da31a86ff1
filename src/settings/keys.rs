//! Every key there is: its name, its environment variable, an example.

/// A key of the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// `section.key`
    pub(super) name: &'static str,
    /// A value to show to somebody who has to set it.
    pub(super) example: &'static str,
}

/// All keys, in the order in which faults and descriptions list them.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key("trackfinity.base_url", "\"https://yourcompany.trackfinity.com\""),
    key("trackfinity.allow_http", "false"),
    key("trackfinity.api_key", "the key from Trackfinity's admin pages"),
    key("trackfinity.api_key_file", "\"/run/secrets/trackfinity/api-key\""),
    key("trackfinity.api_username", "the key's user name"),
    key("trackfinity.api_username_file", "\"/run/secrets/trackfinity/api-username\""),
    key("trackfinity.timeout", "\"10s\""),
    key("trackfinity.connect_timeout", "\"3s\""),
    key("broker.url", "\"amqps://USER:PASSWORD@rabbitmq.example.com/VHOST\""),
    key("broker.url_file", "\"/run/secrets/rabbitmq/url\""),
    key("broker.declare", "true"),
    key("topology.prefix", "\"trackfinity.unlock\""),
    key("worker.concurrency", "64"),
    key("worker.rate_limit", "20"),
    key("worker.drain_timeout", "\"25s\""),
    key("retry.max_attempts", "12"),
    key("retry.max_delay", "\"1024s\""),
    key("retry.give_up_after", "\"24h\""),
    key("pause.after_failures", "10"),
    key("pause.probe_delay", "\"1s\""),
    key("pause.probe_max_delay", "\"30s\""),
    key("results.require_subscriber", "false"),
    key("results.reply_to_prefixes", "[\"replies.\"]"),
    key("ops.listen", "\"127.0.0.1:9464\""),
    key("admin.listen", "\"127.0.0.1:8090\""),
    key("admin.allowed_hosts", "[\"unlocker.example.com\"]"),
    key("admin.trace_url", "\"https://jaeger.example.com/trace/{trace_id}\""),
    key("admin.audit_log", "\"/var/log/unlocker/audit.jsonl\""),
    key("admin.viewer_token", "the output of `openssl rand -hex 32`"),
    key("admin.viewer_token_file", "\"/run/secrets/unlocker/viewer-token\""),
    key("admin.operator_token", "the output of `openssl rand -hex 32`"),
    key("admin.operator_token_file", "\"/run/secrets/unlocker/operator-token\""),
];

const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

impl Key {
    pub(super) fn section(self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(section, _)| section)
    }

    fn leaf(self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, leaf)| leaf)
    }

    pub(super) fn variable(self) -> String {
        variable(self.name)
    }
}

/// The environment variable of a key.
pub(super) fn variable(name: &str) -> String {
    format!("UNLOCKER__{}", name.replace('.', "__").to_ascii_uppercase())
}

pub(super) fn find(name: &str) -> Option<Key> {
    KEYS.iter().copied().find(|key| key.name == name)
}

/// The key that somebody who wrote `name` most likely meant.
pub(super) fn nearest(name: &str) -> Option<Key> {
    // A key is at most 32 characters long; comparing a huge name would only cost time.
    if name.len() > 100 {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    let leaf = name.rsplit_once('.').map_or(name.as_str(), |(_, leaf)| leaf);
    let by_distance = KEYS.iter().map(|key| (strsim::levenshtein(&name, key.name), key));
    let close = by_distance.min_by_key(|(distance, _)| *distance).filter(|(distance, _)| *distance <= 3);
    let same_leaf = || KEYS.iter().find(|key| key.leaf() == leaf);
    close.map(|(_, key)| key).or_else(same_leaf).copied()
}

/// The section that somebody who wrote `name` most likely meant.
pub(super) fn nearest_section(name: &str) -> Option<&'static str> {
    if name.len() > 100 {
        return None;
    }
    let name = name.to_lowercase();
    let by_distance = KEYS.iter().map(|key| (strsim::levenshtein(&name, key.section()), key.section()));
    by_distance
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, section)| section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_another_section_and_a_missing_underscore_find_the_key() {
        let found = |name| nearest(name).map(|key| key.name);
        assert_eq!(found("trackfinity.apikey"), Some("trackfinity.api_key"));
        assert_eq!(found("worker.concurency"), Some("worker.concurrency"));
        assert_eq!(found("rabbitmq.url"), Some("broker.url"));
        assert_eq!(found("retry.concurrency"), Some("worker.concurrency"));
        assert_eq!(found("topology-prefix"), Some("topology.prefix"));
        assert_eq!(found("nothing.alike_at_all"), None);
        assert_eq!(nearest_section("works"), Some("worker"));
    }
}
