mod any_input;
mod console;
mod faults;
mod login;
mod secrets;
mod values;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use secrecy::ExposeSecret;

use super::*;
use crate::secret::Secret;

const COMPILED_IN: &str = "config/default.toml (compiled in)";
const NEEDED: [(&str, &str); 3] = [
    ("UNLOCKER__TRACKFINITY__BASE_URL", "https://yourcompany.trackfinity.com"),
    ("UNLOCKER__TRACKFINITY__API_KEY", "hunter2-key"),
    ("UNLOCKER__TRACKFINITY__API_USERNAME", "hunter2-name"),
];

/// A directory that is gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("unlocker-settings-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// With what is required, and `more` on top.
fn load(files: &[PathBuf], more: &[(&str, &str)]) -> Result<Settings, Faults> {
    Settings::load(files, variables(&NEEDED).into_iter().chain(variables(more)))
}

fn faults(files: &[PathBuf], more: &[(&str, &str)]) -> Vec<Fault> {
    load(files, more).unwrap_err().iter().cloned().collect()
}

fn only_fault(files: &[PathBuf], more: &[(&str, &str)]) -> Fault {
    let mut faults = faults(files, more);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    faults.remove(0)
}

fn toml(text: &str) -> (Folder, Vec<PathBuf>) {
    let folder = Folder::new();
    let path = folder.write("unlocker.toml", text);
    (folder, vec![path])
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn at_most(number: u16) -> Concurrency {
    Concurrency::Fixed(number.try_into().unwrap())
}

fn value(secret: &Secret) -> String {
    secret.current().expose_secret().to_owned()
}

/// All keys but those of secret files and of the gateway.
fn all_keys() -> Vec<String> {
    let worker = load(&[], &[]).unwrap().describe();
    let console = ConsoleSettings::load(&[], []).unwrap().describe();
    let own = console.into_iter().filter(|(key, ..)| key.starts_with("console."));
    worker.into_iter().chain(own).map(|(key, ..)| key).collect()
}

#[test]
fn the_defaults_are_the_contracts() {
    let settings = load(&[], &[]).unwrap();
    assert_eq!(settings.trackfinity.timeout, Duration::from_secs(10));
    assert_eq!(settings.trackfinity.connect_timeout, Duration::from_secs(3));
    assert_eq!(value(&settings.rabbitmq.broker.url), "amqp://guest:guest@127.0.0.1:5672/%2f");
    assert!(settings.rabbitmq.broker.declare);
    assert_eq!(settings.rabbitmq.topology_prefix.as_str(), "trackfinity.unlock");
    assert_eq!(settings.worker.concurrency, at_most(64));
    assert_eq!(settings.worker.rate_limit, None);
    assert_eq!(settings.worker.drain_timeout, Duration::from_secs(25));
    assert_eq!(settings.retry.max_attempts, 12);
    assert_eq!(settings.retry.max_delay, Duration::from_secs(1024));
    assert_eq!(settings.retry.give_up_after, Duration::from_secs(24 * 3600));
    assert_eq!(settings.pause.after_failures, 10);
    assert_eq!(settings.pause.probe_delay, Duration::from_secs(1));
    assert_eq!(settings.pause.probe_max_delay, Duration::from_secs(30));
    assert_eq!(settings.log.requests, RequestLog::All);
    assert!(!settings.rabbitmq.results.require_subscriber);
    assert!(settings.rabbitmq.results.reply_to_prefixes.is_empty());
    assert_eq!(settings.ops.listen, Some("127.0.0.1:9464".parse().unwrap()));
    // allow_http is off.
    let fault = only_fault(&[], &[("UNLOCKER__TRACKFINITY__BASE_URL", "http://example.com")]);
    assert!(fault.wrong.contains("clear text"), "{fault:?}");
}

#[test]
fn the_default_file_names_every_key() {
    let text = include_str!("../../config/default.toml");
    for name in all_keys() {
        let (_, leaf) = name.split_once('.').unwrap();
        assert!(text.contains(&format!("{leaf} = ")), "{name}");
    }
}

#[test]
fn the_production_example_is_valid_except_for_its_files() {
    let example = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config/production.example.toml"));
    let faults = Settings::load(std::slice::from_ref(&example), []).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    let files = ["trackfinity.api_key_file", "trackfinity.api_username_file", "broker.url_file"];
    assert_eq!(keys, files, "{faults}");
    let faults = ConsoleSettings::load(&[example], []).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    let files = ["broker.url_file", "console.viewer_token_file", "console.operator_token_file"];
    assert_eq!(keys, files, "{faults}");
}

#[test]
fn every_key_is_read_from_its_variable() {
    let settings = load(
        &[],
        &[
            ("UNLOCKER__TRACKFINITY__BASE_URL", "http://10.0.0.1/x"),
            ("UNLOCKER__TRACKFINITY__ALLOW_HTTP", "true"),
            ("UNLOCKER__TRACKFINITY__TIMEOUT", "250ms"),
            ("UNLOCKER__TRACKFINITY__CONNECT_TIMEOUT", "100ms"),
            ("UNLOCKER__BROKER__URL", "amqps://a,amqps://b"),
            ("UNLOCKER__BROKER__DECLARE", "false"),
            ("UNLOCKER__TOPOLOGY__PREFIX", "staging:unlock"),
            ("UNLOCKER__WORKER__CONCURRENCY", "2000"),
            ("UNLOCKER__WORKER__RATE_LIMIT", "0.5"),
            ("UNLOCKER__WORKER__DRAIN_TIMEOUT", "0s"),
            ("UNLOCKER__RETRY__MAX_ATTEMPTS", "1"),
            ("UNLOCKER__RETRY__MAX_DELAY", "1s"),
            ("UNLOCKER__RETRY__GIVE_UP_AFTER", "7d"),
            ("UNLOCKER__PAUSE__AFTER_FAILURES", "3"),
            ("UNLOCKER__PAUSE__PROBE_DELAY", "2s"),
            ("UNLOCKER__PAUSE__PROBE_MAX_DELAY", "2s"),
            ("UNLOCKER__RESULTS__REQUIRE_SUBSCRIBER", "true"),
            ("UNLOCKER__RESULTS__REPLY_TO_PREFIXES", "replies., answers."),
            ("UNLOCKER__OPS__LISTEN", ""),
        ],
    )
    .unwrap();
    assert_eq!(
        settings.trackfinity.base_url.endpoint("api/customer/unlock").as_str(),
        "http://10.0.0.1/x/api/customer/unlock"
    );
    assert_eq!(value(&settings.trackfinity.api_key), "hunter2-key");
    assert_eq!(value(&settings.trackfinity.api_username), "hunter2-name");
    assert_eq!(settings.trackfinity.timeout, Duration::from_millis(250));
    assert_eq!(settings.trackfinity.connect_timeout, Duration::from_millis(100));
    assert_eq!(settings.rabbitmq.broker.uris().unwrap().len(), 2);
    assert!(!settings.rabbitmq.broker.declare);
    assert_eq!(settings.rabbitmq.topology_prefix.as_str(), "staging:unlock");
    assert_eq!(settings.worker.concurrency, at_most(2000));
    let rate_limit = settings.worker.rate_limit.unwrap();
    assert_eq!((rate_limit.per_second(), rate_limit.interval()), (0.5, Duration::from_secs(2)));
    assert_eq!(settings.worker.drain_timeout, Duration::ZERO);
    assert_eq!(settings.retry.max_attempts, 1);
    assert_eq!(settings.retry.max_delay, Duration::from_secs(1));
    assert_eq!(settings.retry.give_up_after, Duration::from_secs(7 * 86_400));
    assert_eq!(settings.pause.after_failures, 3);
    assert_eq!(settings.pause.probe_delay, settings.pause.probe_max_delay);
    assert!(settings.rabbitmq.results.require_subscriber);
    assert_eq!(settings.rabbitmq.results.reply_to_prefixes, ["replies.", "answers."]);
    assert_eq!(settings.ops.listen, None);
    assert_eq!(settings.secrets().len(), 0);
}

#[test]
fn a_later_file_wins_over_an_earlier_one_and_the_environment_over_both() {
    let folder = Folder::new();
    let first =
        folder.write("1.toml", "worker = { concurrency = 1, rate_limit = 2 }\nretry.max_attempts = 3");
    let second = folder.write("2.toml", "[worker]\nconcurrency = 10\nrate_limit = 20");
    let settings =
        load(&[first.clone(), second.clone()], &[("UNLOCKER__WORKER__CONCURRENCY", "100")]).unwrap();
    assert_eq!(settings.worker.concurrency, at_most(100));
    assert_eq!(settings.worker.rate_limit.unwrap().per_second(), 20.0);
    assert_eq!(settings.retry.max_attempts, 3);
    let source = |key: &str| settings.describe().into_iter().find(|(name, ..)| name == key).unwrap().2;
    assert_eq!(source("worker.concurrency"), "UNLOCKER__WORKER__CONCURRENCY");
    assert_eq!(source("worker.rate_limit"), path(&second));
    assert_eq!(source("retry.max_attempts"), path(&first));
    assert_eq!(source("retry.max_delay"), COMPILED_IN);
}

#[test]
fn commands_that_only_need_the_broker_do_without_trackfinity() {
    let settings = BrokerSettings::load(&[], []).unwrap();
    assert_eq!(settings.topology_prefix.as_str(), "trackfinity.unlock");
    // The worker's own file serves an operator's machine that has not got its secrets.
    let example = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config/production.example.toml"));
    let here = variables(&[("UNLOCKER__BROKER__URL_FILE", ""), ("UNLOCKER__BROKER__URL", "amqp://h")]);
    let settings = BrokerSettings::load(&[example], here).unwrap();
    assert_eq!(settings.broker.uris().unwrap()[0].authority.host, "h");
    let wrong = variables(&[("UNLOCKER__WORKER__CONCURRENCY", "0"), ("UNLOCKER__BROKER__URL", "h")]);
    let faults = BrokerSettings::load(&[], wrong).unwrap_err();
    assert_eq!(
        faults.iter().map(|fault| fault.key.as_str()).collect::<Vec<_>>(),
        ["broker.url", "worker.concurrency"]
    );
    let worker = load(&[], &[("UNLOCKER__TOPOLOGY__PREFIX", "p")]).unwrap();
    assert_eq!(worker.rabbitmq.topology_prefix.as_str(), "p");
}
