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
        ("UNLOCKER__BROKER__URL", "http://h"),
        ("UNLOCKER__BROKER__URL", " "),
        ("UNLOCKER__TRACKFINITY__API_KEY", ""),
        ("UNLOCKER__TRACKFINITY__API_KEY", "two\nlines"),
        ("UNLOCKER__TRACKFINITY__API_USERNAME", "ümlaut"),
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
    {
        let (key, bad) = ("results.reply_to_prefixes", "a,,b");
        let (list, commas) = ("[\"replies.\", \"answers.\"]", "replies.,answers.");
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
fn all_requests_are_logged_or_those_that_fail() {
    let variable = "UNLOCKER__LOG__REQUESTS";
    for (text, expected) in [("all", RequestLog::All), ("failures", RequestLog::Failures)] {
        assert_eq!(load(&[], &[(variable, text)]).unwrap().log.requests, expected, "{text}");
    }
    let fault = only_fault(&[], &[(variable, "none")]);
    assert_eq!(fault.wrong, "\"none\" is neither \"all\" nor \"failures\"");
}
