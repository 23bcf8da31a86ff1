use super::*;

#[test]
fn limits_are_kept() {
    for (variable, bad) in [
        ("UNLOCKER__TRACKFINITY__TIMEOUT", "0s"),
        ("UNLOCKER__TRACKFINITY__TIMEOUT", "16m"),
        ("UNLOCKER__TRACKFINITY__TIMEOUT", "10"),
        ("UNLOCKER__TRACKFINITY__TIMEOUT", "-1s"),
        ("UNLOCKER__TRACKFINITY__CONNECT_TIMEOUT", "0s"),
        ("UNLOCKER__TRACKFINITY__CONNECT_TIMEOUT", ""),
        ("UNLOCKER__TRACKFINITY__ALLOW_HTTP", "yes"),
        ("UNLOCKER__BROKER__DECLARE", ""),
        ("UNLOCKER__TOPOLOGY__PREFIX", ""),
        ("UNLOCKER__TOPOLOGY__PREFIX", "amq.unlock"),
        ("UNLOCKER__TOPOLOGY__PREFIX", "a b"),
        ("UNLOCKER__TOPOLOGY__PREFIX", "ünlock"),
        ("UNLOCKER__TOPOLOGY__PREFIX", &"x".repeat(201)),
        ("UNLOCKER__WORKER__CONCURRENCY", "0"),
        ("UNLOCKER__WORKER__CONCURRENCY", "2001"),
        ("UNLOCKER__WORKER__CONCURRENCY", "-1"),
        ("UNLOCKER__WORKER__CONCURRENCY", "6.5"),
        ("UNLOCKER__WORKER__CONCURRENCY", "Auto"),
        ("UNLOCKER__WORKER__CONCURRENCY", "99999999999999999999"),
        ("UNLOCKER__WORKER__RATE_LIMIT", "0"),
        ("UNLOCKER__WORKER__RATE_LIMIT", "NaN"),
        ("UNLOCKER__WORKER__RATE_LIMIT", "inf"),
        ("UNLOCKER__WORKER__RATE_LIMIT", "1e-300"),
        ("UNLOCKER__WORKER__DRAIN_TIMEOUT", "2h"),
        ("UNLOCKER__RETRY__MAX_ATTEMPTS", "0"),
        ("UNLOCKER__RETRY__MAX_ATTEMPTS", "4294967296"),
        ("UNLOCKER__RETRY__MAX_DELAY", "999ms"),
        ("UNLOCKER__RETRY__MAX_DELAY", "1025s"),
        ("UNLOCKER__RETRY__GIVE_UP_AFTER", "0s"),
        ("UNLOCKER__RETRY__GIVE_UP_AFTER", "3000years"),
        ("UNLOCKER__PAUSE__AFTER_FAILURES", "0"),
        ("UNLOCKER__PAUSE__PROBE_DELAY", "0s"),
        ("UNLOCKER__PAUSE__PROBE_MAX_DELAY", "999ms"),
        ("UNLOCKER__RESULTS__REPLY_TO_PREFIXES", "a,,b"),
        ("UNLOCKER__RESULTS__REPLY_TO_PREFIXES", "a,"),
        ("UNLOCKER__OPS__LISTEN", "localhost:9464"),
        ("UNLOCKER__ADMIN__LISTEN", "127.0.0.1"),
        ("UNLOCKER__ADMIN__LISTEN", "127.0.0.1:9464"),
        ("UNLOCKER__BROKER__URL", "http://h"),
        ("UNLOCKER__BROKER__URL", " "),
        ("UNLOCKER__TRACKFINITY__API_KEY", ""),
        ("UNLOCKER__TRACKFINITY__API_KEY", "two\nlines"),
        ("UNLOCKER__TRACKFINITY__API_USERNAME", "ümlaut"),
        ("UNLOCKER__ADMIN__VIEWER_TOKEN", "a b"),
    ] {
        let fault = only_fault(&[], &[(variable, bad)]);
        assert_eq!(
            (fault.source.as_str(), keys::variable(&fault.key).as_str()),
            (variable, variable),
            "{bad}"
        );
        assert!(fault.remedy.contains(variable), "{fault:?}");
    }
}

#[test]
fn the_example_of_a_list_fits_its_source() {
    for (key, bad, list, commas) in [
        ("results.reply_to_prefixes", "a,,b", "[\"replies.\", \"answers.\"]", "replies.,answers."),
        (
            "admin.allowed_hosts",
            "*",
            "[\"unlocker.example.com\", \"10.0.0.7:8090\"]",
            "unlocker.example.com,10.0.0.7:8090",
        ),
    ] {
        let variable = keys::variable(key);
        let remedy = only_fault(&[], &[(&variable, bad)]).remedy;
        assert_eq!(remedy, format!("set {variable}, e.g. to {commas}"));
        assert!(load(&[], &[(&variable, commas)]).is_ok(), "{commas}");
        let (_folder, files) = toml(&format!("{key} = 5"));
        assert_eq!(only_fault(&files, &[]).remedy, format!("set {key}, e.g. {list}, or {variable}"));
        let (_folder, files) = toml(&format!("{key} = {list}"));
        assert!(load(&files, &[]).is_ok(), "{list}");
    }
}

#[test]
fn concurrency_is_a_number_or_auto() {
    let variable = "UNLOCKER__WORKER__CONCURRENCY";
    for (text, expected) in [("1", at_most(1)), (" 2000 ", at_most(2000)), ("auto", Concurrency::Auto)] {
        assert_eq!(load(&[], &[(variable, text)]).unwrap().worker.concurrency, expected, "{text}");
    }
    let (_folder, files) = toml("worker.concurrency = \"auto\"");
    let settings = load(&files, &[]).unwrap();
    assert_eq!(settings.worker.concurrency, Concurrency::Auto);
    let described = settings.describe().into_iter().find(|(key, ..)| key == "worker.concurrency");
    assert_eq!(described.unwrap().1, "auto");
    let allowed = "neither \"auto\" nor a whole number from 1 to 2000";
    for (raw, shown) in [
        ("2001", "\"2001\" is"),
        ("-1", "\"-1\" is"),
        ("\"fast\"", "\"fast\" is"),
        ("6.5", "\"6.5\" is"),
        ("64.0", "\"64.0\" is"),
        ("true", "\"true\" is"),
    ] {
        let (_folder, files) = toml(&format!("worker.concurrency = {raw}"));
        let fault = only_fault(&files, &[]);
        assert_eq!(fault.wrong, format!("{shown} {allowed}"));
    }
}

#[test]
fn a_fraction_is_no_whole_number() {
    for key in ["retry.max_attempts", "pause.after_failures"] {
        let (_folder, files) = toml(&format!("{key} = 12.0"));
        let fault = only_fault(&files, &[]);
        assert_eq!(
            (fault.key.as_str(), fault.wrong.as_str()),
            (key, "\"12.0\" is not a whole number from 1 to 4294967295")
        );
    }
    let (_folder, files) = toml("worker.rate_limit = 20.0");
    assert_eq!(load(&files, &[]).unwrap().worker.rate_limit.unwrap().per_second(), 20.0);
}

#[test]
fn the_base_url_takes_a_path_and_refuses_what_would_leak_or_get_lost() {
    let parse = |text: &str| match BaseUrl::parse(text) {
        Ok(url) if url.exposes_key() => Err("exposes the key".to_owned()),
        parsed => parsed,
    };
    let unlock = |text: &str| parse(text).map(|url| url.endpoint("api/customer/unlock").to_string());
    assert_eq!(unlock("https://h").unwrap(), "https://h/api/customer/unlock");
    assert_eq!(unlock("https://h:8443/").unwrap(), "https://h:8443/api/customer/unlock");
    assert_eq!(unlock("https://h/a/b").unwrap(), "https://h/a/b/api/customer/unlock");
    assert_eq!(unlock("https://h/a/b/").unwrap(), "https://h/a/b/api/customer/unlock");
    let url = BaseUrl::parse("https://h/a").unwrap();
    assert_eq!(url.endpoint("api/service/ping").as_str(), "https://h/a/api/service/ping");
    assert_eq!(url.as_url().as_str(), "https://h/a/");
    for loopback in [
        "http://127.0.0.1:80",
        "http://127.9.9.9",
        "http://[::1]:9",
        "http://localhost",
        "http://a.localhost",
    ] {
        assert!(unlock(loopback).is_ok(), "{loopback}");
    }
    for bad in [
        "",
        "h",
        "ftp://h",
        "http://h",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "https://h?",
        "https://h/#",
        "https://h/ a",
        "https:///",
        "https://u@h",
    ] {
        assert!(unlock(bad).is_err(), "{bad}");
    }
    assert!(!unlock("https://u:hunter2@h").unwrap_err().contains("hunter2"));
    assert!(!unlock("https://h?key=hunter2").unwrap_err().contains("hunter2"));
    assert!(
        load(
            &[],
            &[("UNLOCKER__TRACKFINITY__BASE_URL", "http://h"), ("UNLOCKER__TRACKFINITY__ALLOW_HTTP", "true")]
        )
        .is_ok()
    );
}

#[test]
fn an_admin_page_that_others_reach_needs_both_tokens() {
    let keys = |more: &[(&str, &str)]| match load(&[], more) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(|fault| fault.key.clone()).collect(),
    };
    let listen = |address| ("UNLOCKER__ADMIN__LISTEN", address);
    let viewer = ("UNLOCKER__ADMIN__VIEWER_TOKEN", "viewer-0123456789");
    let operator = ("UNLOCKER__ADMIN__OPERATOR_TOKEN", "operator-0123456789");
    assert_eq!(keys(&[listen("0.0.0.0:1")]), ["admin.viewer_token", "admin.operator_token"]);
    assert_eq!(keys(&[listen("[::]:1"), viewer]), ["admin.operator_token"]);
    assert_eq!(keys(&[listen("[::ffff:10.0.0.1]:1"), operator]), ["admin.viewer_token"]);
    assert!(keys(&[listen("10.0.0.1:1"), viewer, operator]).is_empty());
    let same = ("UNLOCKER__ADMIN__OPERATOR_TOKEN", "viewer-0123456789");
    assert_eq!(keys(&[listen("127.0.0.1:1"), viewer, same]), ["admin.operator_token"]);
    for loopback in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", ""] {
        assert!(keys(&[listen(loopback)]).is_empty(), "{loopback}");
    }
}

#[test]
fn a_token_that_could_be_guessed_is_refused_without_being_shown() {
    let fault = only_fault(&[], &[("UNLOCKER__ADMIN__VIEWER_TOKEN", "hunter2-hunter2")]);
    assert_eq!(fault.wrong, "contains a value that cannot be used: it has fewer than 16 characters");
    assert!(fault.remedy.contains("openssl rand -hex 32") && !format!("{fault:?}").contains("hunter2"));
}

#[test]
fn a_base_url_without_the_api_s_path_is_suggested() {
    for (given, base) in [
        ("https://h/api", "https://h"),
        ("https://h/x/api/", "https://h/x"),
        ("https://h/api/customer/unlock", "https://h"),
        ("https://h/api/service/ping", "https://h"),
    ] {
        let fault = only_fault(&[], &[("UNLOCKER__TRACKFINITY__BASE_URL", given)]);
        let wrong = format!("contains the API's path, which the program appends: write \"{base}\"");
        assert_eq!(fault.wrong, wrong, "{given}");
    }
    for given in ["https://h/api/trackfinity", "https://api.h", "https://h/my-api"] {
        assert!(load(&[], &[("UNLOCKER__TRACKFINITY__BASE_URL", given)]).is_ok(), "{given}");
    }
}

#[test]
fn an_audit_log_of_the_page_must_be_in_a_directory() {
    let folder = Folder::new();
    let listen = ("UNLOCKER__ADMIN__LISTEN", "127.0.0.1:1");
    let (missing, directory) = (path(&folder.0.join("no/audit.jsonl")), path(&folder.0));
    for (file, wrong) in
        [(&missing, "is in a directory that does not exist"), (&directory, "is a directory, not a file")]
    {
        let audit_log = ("UNLOCKER__ADMIN__AUDIT_LOG", file.as_str());
        assert_eq!(only_fault(&[], &[listen, audit_log]).wrong, format!("{file} {wrong}"));
        assert!(load(&[], &[audit_log]).is_ok(), "the page is off");
    }
    let good = path(&folder.0.join("audit.jsonl"));
    assert!(load(&[], &[listen, ("UNLOCKER__ADMIN__AUDIT_LOG", &good)]).is_ok());
}

#[test]
fn all_requests_are_logged_or_those_that_fail() {
    let variable = "UNLOCKER__LOG__REQUESTS";
    for (text, expected) in [("all", RequestLog::All), ("failures", RequestLog::Failures)] {
        assert_eq!(load(&[], &[(variable, text)]).unwrap().log.requests, expected, "{text}");
    }
    let fault = only_fault(&[], &[(variable, "none")]);
    assert_eq!(fault.wrong, "\"none\" is neither \"all\" nor \"failures\"");
}
