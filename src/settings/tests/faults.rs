use super::*;

#[test]
fn all_faults_are_reported_at_once_each_with_its_source() {
    let (folder, files) =
        toml("colour = 1\n[worker]\nconcurrency = 0\nrate_limit = -1.5\n[retry]\nmax_delay = 10\n");
    let gone = folder.0.join("gone.toml");
    let broken = folder.write("broken.toml", "[worker\n");
    let all = [files[0].clone(), gone.clone(), broken.clone()];
    let environment =
        variables(&[("UNLOCKER__PAUSE__PROBE_DELAY", "soon"), ("UNLOCKER__OPS__LISTEN", ":9464")]);
    let faults = Settings::load(&all, environment).unwrap_err();
    let found: Vec<_> = faults.iter().map(|fault| (fault.key.as_str(), fault.source.clone())).collect();
    assert_eq!(
        found,
        [
            ("colour", path(&files[0])),
            ("--config", path(&gone)),
            ("--config", path(&broken)),
            ("worker.concurrency", path(&files[0])),
            ("worker.rate_limit", path(&files[0])),
            ("retry.max_delay", path(&files[0])),
            ("pause.probe_delay", "UNLOCKER__PAUSE__PROBE_DELAY".into()),
            ("ops.listen", "UNLOCKER__OPS__LISTEN".into()),
        ],
        "{faults}"
    );
    let text = faults.to_string();
    assert!(text.starts_with("the settings have 8 faults:\n  1. colour ("), "{text}");
    assert!(text.contains("line 1, column"), "{text}");
    assert!(text.contains("10 has no unit"), "{text}");
    // What is missing may be in a file that could not be read.
    assert!(!text.contains("is required"), "{text}");
}

#[test]
fn a_missing_required_key_says_how_to_set_it() {
    let faults = Settings::load(&[], []).unwrap_err();
    let expected = "the settings have 3 faults:
  1. trackfinity.base_url (not set anywhere)
     is required
     fix: set trackfinity.base_url, e.g. \"https://yourcompany.trackfinity.com\", or UNLOCKER__TRACKFINITY__BASE_URL
  2. trackfinity.api_key (not set anywhere)
     is required
     fix: set trackfinity.api_key, e.g. the key from Trackfinity's admin pages, or trackfinity.api_key_file (a path), or UNLOCKER__TRACKFINITY__API_KEY
  3. trackfinity.api_username (not set anywhere)
     is required
     fix: set trackfinity.api_username, e.g. the key's user name, or trackfinity.api_username_file (a path), or UNLOCKER__TRACKFINITY__API_USERNAME";
    assert_eq!(faults.to_string(), expected);
}

#[test]
fn an_unknown_key_is_named_with_its_source_and_a_suggestion() {
    let (_folder, files) = toml("[trackfinity]\napikey = 'hunter2'\n[workers]\nconcurrency = 3\n");
    let faults =
        faults(&files, &[("UNLOCKER__BROKER_URL", "hunter2"), ("UNLOCKER__worker__concurrency", "2")]);
    let found: Vec<_> = faults
        .iter()
        .map(|fault| (fault.key.as_str(), fault.source.as_str(), fault.remedy.as_str()))
        .collect();
    let file = path(&files[0]);
    assert_eq!(
        found,
        [
            ("trackfinity.apikey", file.as_str(), "did you mean trackfinity.api_key? Else remove it"),
            ("workers", &file, "did you mean [worker]? Else remove it"),
            (
                "UNLOCKER__worker__concurrency",
                "UNLOCKER__worker__concurrency",
                "did you mean UNLOCKER__WORKER__CONCURRENCY? Else remove it"
            ),
            ("broker_url", "UNLOCKER__BROKER_URL", "did you mean UNLOCKER__BROKER__URL? Else remove it"),
        ]
    );
    assert!(!format!("{faults:?}").contains("hunter2"));
}

#[test]
fn a_name_in_quotes_with_a_dot_is_not_a_key() {
    for (text, key) in [
        ("\"worker.concurrency\" = 1", "\"worker.concurrency\""),
        ("[worker]\n'rate.limit' = 1", "worker.\"rate.limit\""),
        ("['worker.x']\nconcurrency = 1", "\"worker.x\".concurrency"),
    ] {
        let (_folder, files) = toml(text);
        let fault = only_fault(&files, &[]);
        assert_eq!((fault.key.as_str(), fault.wrong.as_str()), (key, "is not a known key"), "{text}");
        assert!(fault.remedy.starts_with("did you mean worker."), "{fault:?}");
    }
}

#[test]
fn variables_of_others_do_not_matter() {
    let others = [
        ("UNLOCKER_TEST_AMQP_URL", "amqp://x"),
        ("UNLOCKER_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
        ("unlocker__worker__concurrency", "0"),
    ];
    assert_eq!(load(&[], &others).unwrap().worker.concurrency, at_most(64));
}

#[test]
fn a_variable_that_lacks_an_underscore_is_a_fault() {
    for (name, meant) in [
        ("UNLOCKER_WORKER_CONCURRENCY", "UNLOCKER__WORKER__CONCURRENCY"),
        ("UNLOCKER_WORKER__CONCURRENCY", "UNLOCKER__WORKER__CONCURRENCY"),
        ("UNLOCKER_TRACKFINITY_API_KEY_FILE", "UNLOCKER__TRACKFINITY__API_KEY_FILE"),
    ] {
        let fault = only_fault(&[], &[(name, "hunter2")]);
        assert_eq!((fault.key.as_str(), fault.wrong.as_str()), (name, "is not read"));
        assert_eq!(fault.remedy, format!("write {meant}, with two underscores"));
    }
}

#[test]
fn a_misspelt_section_is_one_fault_however_many_keys_it_has() {
    let (_folder, files) =
        toml("[trackfinitty]\ntimeout = '1s'\nconnect_timeout = '1s'\n[nope]\na = 1\nb = 2\n");
    let found: Vec<_> = faults(&files, &[]).into_iter().map(|fault| (fault.key, fault.remedy)).collect();
    let unknown = "remove it; config/default.toml has all keys";
    let expected = [
        ("nope.a", unknown),
        ("nope.b", unknown),
        ("trackfinitty", "did you mean [trackfinity]? Else remove it"),
    ];
    assert_eq!(found, expected.map(|(key, remedy)| (key.to_owned(), remedy.to_owned())));
}

#[test]
fn a_remedy_between_two_keys_names_the_value_that_helps() {
    let fault = only_fault(&[], &[("UNLOCKER__PAUSE__PROBE_DELAY", "60s")]);
    assert_eq!(
        (fault.key.as_str(), fault.wrong.as_str()),
        ("pause.probe_max_delay", "30s is shorter than pause.probe_delay, 1m")
    );
    assert!(fault.remedy.starts_with("set pause.probe_max_delay (UNLOCKER__PAUSE__"), "{fault:?}");
    assert!(fault.remedy.contains("to at least \"1m\", or pause.probe_delay to less"), "{fault:?}");
}

#[test]
fn a_variable_that_is_not_utf8_is_a_fault_of_its_key() {
    let fault = only_fault(&[], &[("UNLOCKER__BROKER__URL", "amqp://u:hunter2\u{fffd}@h")]);
    assert_eq!((fault.key.as_str(), fault.wrong.as_str()), ("broker.url", "is not valid UTF-8"));
    assert!(!format!("{fault:?}").contains("hunter2"));
    let (_folder, files) = toml("results.reply_to_prefixes = ['\u{fffd}']");
    assert_eq!(load(&files, &[]).unwrap().rabbitmq.results.reply_to_prefixes, ["\u{fffd}"]);
}

#[test]
fn values_of_the_wrong_shape_are_faults() {
    let text = "worker = 'hunter2'\nbroker.declare = [1]\nops.listen = { a = 1 }\n\
                trackfinity = { api_key = 12345678, timeout = 2020-01-01 }\nretry.max_attempts = 1.5\n\
                results.reply_to_prefixes = ['a', 3]\npause = []\n\"a[99999999999]\" = 1\n";
    let (_folder, files) = toml(text);
    let faults = Settings::load(&files, variables(&[NEEDED[0], NEEDED[2]])).unwrap_err();
    let found: Vec<_> = faults.iter().map(|fault| (fault.key.as_str(), fault.wrong.as_str())).collect();
    assert_eq!(
        found,
        [
            ("\"a[99999999999]\"", "is not a known key"),
            ("ops.listen.a", "is not a known key"),
            ("pause", "is the name of a section"),
            ("worker", "is the name of a section"),
            ("trackfinity.api_key", "is not a string: write it in quotes"),
            (
                "trackfinity.timeout",
                "\"2020-01-01\" is not a duration such as \"10s\": invalid character at 4"
            ),
            ("broker.declare", "is a list, not a single value"),
            ("retry.max_attempts", "\"1.5\" is not a whole number from 1 to 4294967295"),
            ("results.reply_to_prefixes", "contains an item that is not a string, is empty, or has a comma"),
        ],
        "{faults}"
    );
    assert!(!faults.to_string().contains("12345678") && !faults.to_string().contains("hunter2"));
}

#[test]
fn a_fault_between_two_keys_does_not_wait_for_other_faults() {
    let base_url = ("UNLOCKER__TRACKFINITY__BASE_URL", "http://example.com");
    let pause = [("UNLOCKER__PAUSE__PROBE_DELAY", "31s"), ("UNLOCKER__PAUSE__AFTER_FAILURES", "0")];
    let faults = Settings::load(&[], variables(&[base_url, pause[0], pause[1]])).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    let expected = [
        "trackfinity.api_key",
        "trackfinity.api_username",
        "trackfinity.base_url",
        "pause.after_failures",
        "pause.probe_max_delay",
    ];
    assert_eq!(keys, expected, "{faults}");
}

#[test]
fn what_only_looks_like_a_value_is_a_fault() {
    for (text, key, wrong) in [
        ("topology.prefix = 5", "topology.prefix", "is not a string: write it in quotes"),
        ("results.reply_to_prefixes = 5", "results.reply_to_prefixes", "is not a list of strings"),
        ("retry.max_delay = ['1s']", "retry.max_delay", "is a list, not a single value"),
        ("worker.concurrency.max = 5", "worker.concurrency.max", "is not a known key"),
    ] {
        let (_folder, files) = toml(text);
        let fault = only_fault(&files, &[]);
        assert_eq!((fault.key.as_str(), fault.wrong.as_str()), (key, wrong), "{text}");
    }
    for list in ["['a,b']", "['']", "['a', '']"] {
        let (_folder, files) = toml(&format!("results.reply_to_prefixes = {list}"));
        let wrong = "contains an item that is not a string, is empty, or has a comma";
        assert_eq!(only_fault(&files, &[]).wrong, wrong, "{list}");
    }
}

#[test]
fn a_section_without_keys_sets_nothing_but_must_exist() {
    for text in ["[worker]\n", "worker = {}\n"] {
        let (_folder, files) = toml(text);
        assert_eq!(load(&files, &[]).unwrap().worker.concurrency, at_most(64), "{text}");
    }
    for (text, key, wrong) in [
        ("[workers]", "workers", "is not a known section"),
        ("[nope]", "nope", "is not a known key"),
        ("[trackfinity.foo]", "trackfinity.foo", "is not a known key"),
        ("[worker.concurrency]", "worker.concurrency", "is the name of a key, not of a section"),
    ] {
        let (_folder, files) = toml(text);
        let fault = only_fault(&files, &[]);
        assert_eq!((fault.key.as_str(), fault.wrong.as_str()), (key, wrong), "{text}");
        assert_eq!(fault.source, path(&files[0]), "{text}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_a_fault_with_its_line_but_without_its_text() {
    let (_folder, files) = toml("[trackfinity]\napi_key = \"hunter2\n");
    let fault = only_fault(&files, &[]);
    assert_eq!((fault.key.as_str(), fault.source), ("--config", path(&files[0])));
    assert_eq!(fault.wrong, "is not TOML: invalid basic string, expected `\"` (at line 2, column 19)");
    assert_eq!(fault.remedy, "correct line 2");
    for text in ["", "# ü\n\n  ", "\u{feff}"] {
        let (_folder, files) = toml(&format!("{text}= 'hunter2'\n"));
        let fault = only_fault(&files, &[]);
        let place = if text.contains('ü') { "(at line 3, column 3)" } else { "(at line 1, column 1)" };
        assert!(fault.wrong.ends_with(place) && !fault.wrong.contains("hunter2"), "{}", fault.wrong);
    }
    let (_folder, files) = toml("worker.concurrency = 99999999999999999999");
    assert_eq!(only_fault(&files, &[]).wrong, "contains a number that is too large");
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let folder = Folder::new();
    let binary = folder.write("binary", [0xff, 0xfe]);
    let huge = folder.write("huge", "#".repeat(1024 * 1024 + 1));
    let faults = faults(&[folder.0.clone(), binary, huge], &[]);
    assert!(faults.iter().all(|fault| fault.remedy.starts_with("give the path of a readable")), "{faults:?}");
    let wrongs: Vec<_> = faults.into_iter().map(|fault| fault.wrong).collect();
    assert!(wrongs[0].starts_with("cannot be read: Is a directory"), "{wrongs:?}");
    assert_eq!(wrongs[1], "cannot be read: it is not valid UTF-8");
    assert_eq!(wrongs[2], "cannot be read: it is larger than 1 MiB");
}
