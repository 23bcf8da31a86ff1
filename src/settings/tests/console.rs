use super::*;

fn load(files: &[PathBuf], environment: &[(&str, &str)]) -> Result<ConsoleSettings, Faults> {
    ConsoleSettings::load(files, variables(environment))
}

fn keys(environment: &[(&str, &str)]) -> Vec<String> {
    match load(&[], environment) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(|fault| fault.key.clone()).collect(),
    }
}

#[test]
fn the_console_reads_nothing_of_trackfinity_and_the_worker() {
    let settings = load(
        &[],
        &[
            ("UNLOCKER__TRACKFINITY__API_KEY", "two\nlines"),
            ("UNLOCKER__TRACKFINITY__API_USERNAME_FILE", "/nonexistent"),
            ("UNLOCKER__WORKER__CONCURRENCY", "0"),
            ("UNLOCKER__GATEWAY__LISTEN", "nowhere"),
        ],
    )
    .unwrap();
    assert_eq!(settings.console.listen.to_string(), "127.0.0.1:8090");
    assert_eq!(settings.ops.listen.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:9466"));
    assert!(settings.console.viewer_token.is_none() && settings.console.operator_token.is_none());
    let described = settings.describe();
    let shown =
        |key: &str| described.iter().find(|(name, ..)| name == key).map(|(_, value, _)| value.as_str());
    assert_eq!(shown("ops.listen"), Some("127.0.0.1:9466"));
    assert_eq!(shown("trackfinity.api_key"), None);
}

#[test]
fn its_keys_are_read_from_their_variables() {
    let folder = Folder::new();
    let token = path(&folder.write("token", "t0ken-0123456789\n"));
    let environment = [
        ("UNLOCKER__CONSOLE__LISTEN", "[::]:8090"),
        ("UNLOCKER__CONSOLE__VIEWER_TOKEN_FILE", token.as_str()),
        ("UNLOCKER__CONSOLE__OPERATOR_TOKEN", "op-0123456789abcd"),
        ("UNLOCKER__CONSOLE__METRICS_URL", "https://grafana.example.com/d/x"),
        ("UNLOCKER__OPS__LISTEN", "0.0.0.0:1"),
    ];
    let settings = load(&[], &environment).unwrap();
    assert_eq!(settings.console.listen.to_string(), "[::]:8090");
    assert_eq!(value(settings.console.viewer_token.as_ref().unwrap()), "t0ken-0123456789");
    assert_eq!(value(settings.console.operator_token.as_ref().unwrap()), "op-0123456789abcd");
    assert_eq!(settings.console.metrics_url.as_deref(), Some("https://grafana.example.com/d/x"));
    assert_eq!(settings.ops.listen.unwrap().to_string(), "0.0.0.0:1");
    assert_eq!(settings.secrets().len(), 1);
    assert!(!format!("{settings:?} {:?}", settings.describe()).contains("t0ken"));
}

#[test]
fn its_limits_are_kept() {
    for (variable, bad) in [
        ("UNLOCKER__CONSOLE__LISTEN", "127.0.0.1"),
        ("UNLOCKER__CONSOLE__LISTEN", "127.0.0.1:9466"),
        ("UNLOCKER__CONSOLE__LISTEN", ""),
        ("UNLOCKER__CONSOLE__VIEWER_TOKEN", "a b"),
        ("UNLOCKER__CONSOLE__METRICS_URL", "grafana"),
        ("UNLOCKER__CONSOLE__TRACE_URL", "https://jaeger.example.com"),
        ("UNLOCKER__CONSOLE__ALLOWED_HOSTS", "*"),
    ] {
        let faults = load(&[], &[(variable, bad)]).unwrap_err();
        let found: Vec<_> = faults.iter().map(|fault| keys::variable(&fault.key)).collect();
        assert_eq!(found, [variable], "{faults}");
    }
}

#[test]
fn the_names_of_its_section_before_are_answered_with_those_of_today() {
    let faults = load(&[], &[("UNLOCKER__ADMIN__LISTEN", "127.0.0.1:1")]).unwrap_err();
    assert!(faults.to_string().contains("did you mean UNLOCKER__CONSOLE__LISTEN?"), "{faults}");
    let (_folder, files) = toml("[admin]\noperator_token_file = \"/x\"\n");
    let faults = load(&files, &[]).unwrap_err().to_string();
    assert!(faults.contains("did you mean console.operator_token_file?"), "{faults}");
}

#[test]
fn a_console_that_others_reach_needs_both_tokens() {
    let listen = |address| ("UNLOCKER__CONSOLE__LISTEN", address);
    let viewer = ("UNLOCKER__CONSOLE__VIEWER_TOKEN", "viewer-0123456789");
    let operator = ("UNLOCKER__CONSOLE__OPERATOR_TOKEN", "operator-0123456789");
    assert_eq!(keys(&[listen("0.0.0.0:1")]), ["console.viewer_token", "console.operator_token"]);
    assert_eq!(keys(&[listen("[::]:1"), viewer]), ["console.operator_token"]);
    assert_eq!(keys(&[listen("[::ffff:10.0.0.1]:1"), operator]), ["console.viewer_token"]);
    assert!(keys(&[listen("10.0.0.1:1"), viewer, operator]).is_empty());
    let same = ("UNLOCKER__CONSOLE__OPERATOR_TOKEN", "viewer-0123456789");
    assert_eq!(keys(&[listen("127.0.0.1:1"), viewer, same]), ["console.operator_token"]);
    for loopback in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert!(keys(&[listen(loopback)]).is_empty(), "{loopback}");
    }
}

#[test]
fn a_token_that_could_be_guessed_is_refused_without_being_shown() {
    let faults = load(&[], &[("UNLOCKER__CONSOLE__VIEWER_TOKEN", "hunter2-hunter2")]).unwrap_err();
    let fault = faults.iter().next().unwrap();
    assert_eq!(fault.wrong, "contains a value that cannot be used: it has fewer than 16 characters");
    assert!(fault.remedy.contains("openssl rand -hex 32") && !format!("{fault:?}").contains("hunter2"));
}

#[test]
fn an_audit_log_must_be_in_a_directory() {
    let folder = Folder::new();
    let (missing, directory) = (path(&folder.0.join("no/audit.jsonl")), path(&folder.0));
    for (file, wrong) in
        [(&missing, "is in a directory that does not exist"), (&directory, "is a directory, not a file")]
    {
        let audit_log = ("UNLOCKER__CONSOLE__AUDIT_LOG", file.as_str());
        let faults = load(&[], &[audit_log]).unwrap_err();
        assert_eq!(faults.iter().next().unwrap().wrong, format!("{file} {wrong}"));
        assert!(super::load(&[], &[audit_log]).is_ok(), "the worker does not read it");
    }
    let good = path(&folder.0.join("audit.jsonl"));
    assert!(load(&[], &[("UNLOCKER__CONSOLE__AUDIT_LOG", &good)]).is_ok());
}
