use proptest::prelude::*;

use super::*;

/// Clients whose only secret is this one.
fn only(secret: &str) -> (Folder, Clients) {
    let folder = Folder::new(&[("shop", secret)]);
    let clients = folder.open().unwrap();
    (folder, clients)
}

fn verify(clients: &Clients, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<Client, Denied> {
    match clients.identify(peer(), headers)? {
        Identified::Signed(signed) => signed.verify(body, now),
        Identified::Client(client) => panic!("{client:?} without a look at the body"),
    }
}

/// From the tests of the official libraries: Rust; Python, JavaScript and Go.
#[test]
fn the_official_test_vectors_hold() {
    for (secret, id, timestamp, body, signature) in [
        (
            SIGNING_SECRET,
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
        (
            OTHER_SIGNING_SECRET,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
    ] {
        let (_folder, clients) = only(secret);
        let timestamp_text = timestamp.to_string();
        let head = |signature: &str| {
            headers(&[
                ("webhook-id", id),
                ("webhook-timestamp", &timestamp_text),
                ("webhook-signature", signature),
            ])
        };
        let verify = |signature: &str| {
            verify(&clients, &head(signature), body.as_bytes(), Timestamp::from_secs(timestamp))
        };
        assert_eq!(verify(signature).unwrap().name(), "shop");
        let among_others = format!(
            "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v2,{signature} v1a,hnO3f9T8Ytu9 {signature} nonsense"
        );
        assert!(verify(&among_others).is_ok());
        let encoded = signature.strip_prefix("v1,").unwrap();
        for wrong in [
            "v1,",
            "v1",
            ",",
            &signature[..8],
            encoded,
            &format!("v1a,{encoded}"),
            &format!("V1,{encoded}"),
            &format!("v1, {encoded}"),
            signature.trim_end_matches('='),
            "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v1,Mm7xgUVICxZfQ3bgf0h0Dof65L/IFx+PnZvnDWPCX6Q=",
        ] {
            assert!(verify(wrong).is_err(), "{wrong}");
        }
    }
}

#[test]
fn the_example_of_the_page_prints_what_the_page_says() {
    let page = include_str!("../../../../docs/http.md");
    let (_, after) = page.split_once("```sh\nsecret=").unwrap();
    let (script, after) = after.split_once("```").unwrap();
    let (_, printed) = after.split_once("This prints `").unwrap();
    let output =
        std::process::Command::new("sh").args(["-ec", &format!("secret={script}")]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && printed.starts_with(&format!("{}`.", text.trim_end())), "{text}");
}

#[test]
fn each_secret_of_each_client_is_valid() {
    let folder = Folder::new(&[
        ("mail", &format!("{TOKEN}\n")),
        ("shop", &format!("{SIGNING_SECRET}\n{OTHER_TOKEN}\n{OTHER_SIGNING_SECRET}\n")),
    ]);
    let clients = folder.open().unwrap();
    for secret in [SIGNING_SECRET, OTHER_SIGNING_SECRET] {
        let head = signed(secret, "evt_1", &NOW.to_string(), b"{}");
        assert_eq!(client(&clients, &head, b"{}"), Ok("shop".to_owned()));
        assert!(client(&clients, &head, b"{} ").is_err());
    }
}

#[test]
fn a_request_is_signed_within_five_minutes_of_now() {
    let (_folder, clients) = only(SIGNING_SECRET);
    for (offset, fits) in [(-301, false), (-300, true), (0, true), (300, true), (301, false)] {
        let timestamp = NOW.saturating_add_signed(offset).to_string();
        let head = signed(SIGNING_SECRET, "evt_1", &timestamp, b"{}");
        assert_eq!(verify(&clients, &head, b"{}", now()).is_ok(), fits, "{offset}");
    }
    let zeros = format!("000{NOW}");
    assert!(verify(&clients, &signed(SIGNING_SECRET, "evt_1", &zeros, b""), b"", now()).is_ok());
    let now_text = NOW.to_string();
    for timestamp in ["0", "18446744073709551615", "99999999999999999999999", &format!("{now_text}000")] {
        assert!(verify(&clients, &signed(SIGNING_SECRET, "evt_1", timestamp, b""), b"", now()).is_err());
    }
    for timestamp in [format!("+{now_text}"), format!("{now_text}.0"), format!("-{now_text}"), "now".into()] {
        let head = signed(SIGNING_SECRET, "evt_1", &timestamp, b"");
        assert_eq!(clients.identify(peer(), &head).unwrap_err(), Denied::Unauthorized, "{timestamp}");
    }
}

#[test]
fn all_three_headers_must_be_there_exactly_once() {
    let (_folder, clients) = only(SIGNING_SECRET);
    let complete = signed(SIGNING_SECRET, "evt_1", &NOW.to_string(), b"{}");
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let mut missing = complete.clone();
        let value = missing.remove(name).unwrap();
        assert!(client(&clients, &missing, b"{}").is_err(), "without {name}");
        let mut twice = complete.clone();
        twice.append(HeaderName::from_static(name), value);
        assert!(client(&clients, &twice, b"{}").is_err(), "{name} twice");
        let mut empty = complete.clone();
        empty.insert(HeaderName::from_static(name), HeaderValue::from_static(""));
        assert!(client(&clients, &empty, b"{}").is_err(), "{name} empty");
    }
    for id in [&b"evt\t1"[..], "evt_\u{e4}".as_bytes(), b"\xff"] {
        let mut head = complete.clone();
        head.insert("webhook-id", HeaderValue::from_bytes(id).unwrap());
        assert!(clients.identify(peer(), &head).is_err(), "{id:?}");
    }
}

#[test]
fn the_id_is_known_before_the_body() {
    let (_folder, clients) = only(SIGNING_SECRET);
    let head = signed(SIGNING_SECRET, "evt.1 of/2", &NOW.to_string(), b"{}");
    let Ok(Identified::Signed(signed)) = clients.identify(peer(), &head) else { panic!("not signed") };
    assert_eq!(signed.id(), "evt.1 of/2");
    assert!(!format!("{signed:?}").contains("C2FVsBQI"));
}

fn flipped(text: &[u8], bit: usize) -> Vec<u8> {
    let mut text = text.to_vec();
    let bit = bit % (text.len() * 8);
    text[bit / 8] ^= 1 << (bit % 8);
    text
}

#[test]
fn what_is_signed_verifies_and_any_bit_that_changes_is_noticed() {
    let (_folder, clients) = only(SIGNING_SECRET);
    proptest!(|(
        id in "[!-~]([ -~]{0,60}[!-~])?",
        offset in -300_i64..=300,
        body in proptest::collection::vec(any::<u8>(), 1..200),
        bit in any::<usize>(),
    )| {
        let head = signed(SIGNING_SECRET, &id, &NOW.saturating_add_signed(offset).to_string(), &body);
        prop_assert!(verify(&clients, &head, &body, now()).is_ok());
        prop_assert!(verify(&clients, &head, &flipped(&body, bit), now()).is_err());
        prop_assert!(verify(&clients, &head, b"", now()).is_err());
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            let changed = flipped(head[name].as_bytes(), bit);
            // What is no header at all never arrives.
            if let Ok(value) = HeaderValue::from_bytes(&changed) {
                let mut head = head.clone();
                head.insert(name, value);
                prop_assert!(verify(&clients, &head, &body, now()).is_err(), "{} {:?}", name, changed);
            }
        }
    });
}
