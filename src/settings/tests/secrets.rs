use super::*;
use crate::secret::Refreshed;

#[test]
fn a_secret_given_as_value_and_as_file_is_a_fault_that_names_both_sources() {
    let folder = Folder::new();
    let secret = path(&folder.write("key", "hunter2-file"));
    let file = folder.write("a.toml", format!("trackfinity.api_key_file = '{secret}'"));
    let fault = only_fault(std::slice::from_ref(&file), &[]);
    assert_eq!(fault.key, "trackfinity.api_key");
    assert_eq!(fault.source, format!("UNLOCKER__TRACKFINITY__API_KEY and {}", path(&file)));
    assert!(!format!("{fault:?}").contains("hunter2"));
    // Taken back by an empty string.
    let settings = load(std::slice::from_ref(&file), &[("UNLOCKER__TRACKFINITY__API_KEY", "")]).unwrap();
    assert_eq!(value(&settings.trackfinity.api_key), "hunter2-file");
    let settings = load(&[file], &[("UNLOCKER__TRACKFINITY__API_KEY_FILE", "")]).unwrap();
    assert_eq!(value(&settings.trackfinity.api_key), "hunter2-key");
}

#[test]
fn the_compiled_in_broker_url_gives_way_to_a_file_but_a_given_one_does_not() {
    let folder = Folder::new();
    let file = path(&folder.write("url", "amqp://u:hunter2@h\n"));
    let settings = load(&[], &[("UNLOCKER__BROKER__URL_FILE", &file)]).unwrap();
    assert_eq!(settings.rabbitmq.broker.uris().unwrap()[0].authority.host, "h");
    let both = [("UNLOCKER__BROKER__URL_FILE", file.as_str()), ("UNLOCKER__BROKER__URL", "amqp://h")];
    assert_eq!(only_fault(&[], &both).source, "UNLOCKER__BROKER__URL and UNLOCKER__BROKER__URL_FILE");
}

#[test]
fn a_secret_file_that_cannot_be_used_is_a_fault_of_the_file_key() {
    let folder = Folder::new();
    let bad = path(&folder.write("url", "amqp://u:hunter2@h:x"));
    let fault = only_fault(&[], &[("UNLOCKER__BROKER__URL_FILE", &bad)]);
    assert_eq!(fault.key, "broker.url_file");
    assert!(fault.wrong.contains(&bad) && fault.wrong.contains("it has a port that is not"), "{fault:?}");
    assert!(!format!("{fault:?}").contains("hunter2"));
    let fault = only_fault(&[], &[("UNLOCKER__BROKER__URL_FILE", "amqp://u:hunter2@h")]);
    assert!(!format!("{fault:?}").contains("hunter2"), "{fault:?}");
}

#[tokio::test]
async fn a_rotated_file_that_is_no_broker_url_keeps_the_last_one() {
    let folder = Folder::new();
    let file = path(&folder.write("url", "amqp://old"));
    let broker = load(&[], &[("UNLOCKER__BROKER__URL_FILE", &file)]).unwrap().rabbitmq.broker;
    folder.write("url", "half writ");
    assert_eq!(broker.url.refresh().await, Refreshed::Failed);
    assert_eq!(broker.uris().unwrap()[0].authority.host, "old");
    folder.write("url", "amqp://new");
    assert_eq!(broker.url.refresh().await, Refreshed::Changed);
    assert_eq!(broker.uris().unwrap()[0].authority.host, "new");
}

#[test]
fn the_description_has_every_setting_once_and_masks_the_secrets() {
    let folder = Folder::new();
    let key = path(&folder.write("key", "hunter2-hunter2-hunter2"));
    let settings = load(
        &[],
        &[
            ("UNLOCKER__BROKER__URL", "amqp://u:hunter2@h/v,amqps://b"),
            ("UNLOCKER__TRACKFINITY__API_USERNAME_FILE", &key),
            ("UNLOCKER__TRACKFINITY__API_USERNAME", ""),
            ("UNLOCKER__TRACKFINITY__PROXY", "http://u:hunter2@proxy:3128"),
            ("UNLOCKER__RESULTS__REPLY_TO_PREFIXES", "a,b"),
        ],
    )
    .unwrap();
    let described = settings.describe();
    let keys = described.iter().map(|(key, ..)| key).collect::<std::collections::BTreeSet<_>>();
    assert_eq!((described.len(), keys.len()), (31, 31));
    let shown = |key: &str| described.iter().find(|(name, ..)| name == key).unwrap().1.as_str();
    assert_eq!(shown("trackfinity.api_key"), "***");
    assert_eq!(shown("broker.url"), "amqp://u:***@h/v,amqps://b");
    assert_eq!(shown("trackfinity.api_username"), format!("file {key}"));
    assert_eq!(shown("trackfinity.proxy"), "http://u:***@proxy:3128");
    assert_eq!(shown("trackfinity.ca_file"), "not set");
    assert_eq!(shown("worker.rate_limit"), "not set");
    assert_eq!(shown("retry.max_delay"), "1024s");
    assert_eq!(shown("results.reply_to_prefixes"), "a,b");
    assert_eq!(settings.rabbitmq.broker.to_string(), "amqp://u:***@h/v,amqps://b");
    assert!(!format!("{settings:?} {settings:#?} {described:?}").contains("hunter2"));
}

#[test]
fn authorities_that_no_call_needs_are_a_fault() {
    let folder = Folder::new();
    let file = path(&folder.write("ca.pem", kit::Authority::new("authority").pem()));
    let given = [
        ("UNLOCKER__TRACKFINITY__BASE_URL", "http://127.0.0.1:8080"),
        ("UNLOCKER__TRACKFINITY__CA_FILE", file.as_str()),
    ];
    let fault = only_fault(&[], &given);
    assert_eq!(fault.key, "trackfinity.ca_file");
    assert!(fault.wrong.contains("begins with http://"), "{fault:?}");
}

#[test]
fn the_description_for_rabbitmq_alone_is_the_same_with_and_without_the_rest() {
    let keys = |environment: &[(&str, &str)]| {
        let (_, described) = BrokerSettings::load_described(&[], variables(environment)).unwrap();
        described.into_iter().map(|(key, ..)| key).collect::<Vec<_>>()
    };
    let expected = [
        "broker.url",
        "broker.declare",
        "broker.token_file",
        "broker.client_certificate_file",
        "broker.client_key_file",
        "broker.ca_file",
        "topology.prefix",
        "history.enabled",
        "history.max_age",
        "history.max_bytes",
        "results.require_subscriber",
        "results.reply_to_prefixes",
        "console.audit_log",
    ];
    assert_eq!(keys(&[]), expected);
    assert_eq!(keys(&NEEDED), expected);
}
