use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn two_clients() -> (Folder, Clients) {
    let folder = Folder::new(&[
        ("mail", &format!("{OTHER_TOKEN}\n{THIRD_TOKEN}\n# rate=2\n")),
        ("shop", &format!("{TOKEN}\n{SIGNING_SECRET}\n")),
    ]);
    let clients = folder.open().unwrap();
    (folder, clients)
}

#[test]
fn without_a_directory_everybody_is_local() {
    let clients = Clients::local();
    assert_eq!(names(&clients), ["local"]);
    for head in [HeaderMap::new(), bearer("wrong"), signed(SIGNING_SECRET, "evt_1", "1", b"")] {
        let Ok(Identified::Client(client)) = clients.identify(peer(), &head) else { panic!("denied") };
        assert!(client.is_local() && client.allow(1_000_000).is_ok());
    }
}

#[test]
fn each_token_belongs_to_its_client() {
    let (_folder, clients) = two_clients();
    assert_eq!(names(&clients), ["mail", "shop"]);
    for (token, name) in [(TOKEN, "shop"), (OTHER_TOKEN, "mail"), (THIRD_TOKEN, "mail")] {
        for scheme in ["Bearer ", "bearer ", "BEARER  "] {
            let head = headers(&[("authorization", &format!("{scheme}{token}"))]);
            let Ok(Identified::Client(client)) = clients.identify(peer(), &head) else { panic!("denied") };
            assert_eq!((client.name(), client.is_local()), (name, false), "{scheme}");
        }
    }
}

#[test]
fn what_is_not_exactly_one_right_token_is_denied() {
    let (_folder, clients) = two_clients();
    let denied = |head: &HeaderMap| clients.identify(peer(), head).unwrap_err();
    assert_eq!(denied(&HeaderMap::new()), Denied::Unauthorized);
    for wrong in [
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        &format!("Basic {TOKEN}"),
        &format!("Bearer {}", &TOKEN[1..]),
        &format!("Bearer {TOKEN}0"),
    ] {
        assert_eq!(denied(&headers(&[("authorization", wrong)])), Denied::Unauthorized, "{wrong}");
    }
    let right = format!("Bearer {TOKEN}");
    let twice = headers(&[("authorization", &right), ("authorization", &right)]);
    assert_eq!(denied(&twice), Denied::Unauthorized);
    assert!(denied(&bearer(SIGNING_SECRET)).to_string().contains("no valid credentials"));
}

#[test]
fn a_bearer_token_decides_if_there_is_one_and_else_the_signature() {
    let (_folder, clients) = two_clients();
    let mut head = signed(SIGNING_SECRET, "evt_1", &NOW.to_string(), b"{}");
    let mut with = |authorization: &str| {
        head.insert("authorization", authorization.parse().unwrap());
        client(&clients, &head, b"{}")
    };
    assert_eq!(with(&format!("Bearer {OTHER_TOKEN}")), Ok("mail".to_owned()));
    assert_eq!(with(&format!("Bearer {OTHER_TOKEN}0")), Err(Denied::Unauthorized));
    assert_eq!(with("Basic dXNlcjpwYXNz"), Ok("shop".to_owned()), "for a proxy before the gateway");
}

#[test]
fn clients_have_their_own_rates() {
    let (_folder, clients) = two_clients();
    let with_token = |token| match clients.identify(peer(), &bearer(token)).unwrap() {
        Identified::Client(client) => client,
        Identified::Signed(_) => panic!("not signed"),
    };
    assert!(with_token(TOKEN).allow(1000).is_ok());
    assert!(with_token(OTHER_TOKEN).allow(2).is_ok());
    let wait = with_token(THIRD_TOKEN).allow(1).unwrap_err();
    assert!(wait <= Duration::from_millis(500), "{wait:?}");
}

#[test]
fn after_too_many_wrong_credentials_only_right_ones_pass() {
    let (_folder, clients) = two_clients();
    let stale = signed(SIGNING_SECRET, "evt_1", "1", b"");
    let forged = signed(OTHER_SIGNING_SECRET, "evt_1", &NOW.to_string(), b"");
    let wrong = [bearer("wrong"), stale, forged, headers(&[("authorization", "Basic")])];
    for n in 0..10 {
        assert_eq!(client(&clients, &wrong[n % wrong.len()], b""), Err(Denied::Unauthorized), "{n}");
    }
    for wrong in &wrong {
        let Err(Denied::TooManyFailures(wait)) = client(&clients, wrong, b"") else { panic!("{wrong:?}") };
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
    }
    assert_eq!(has(&clients, TOKEN), Some("shop".to_owned()));
    let right = signed(SIGNING_SECRET, "evt_1", &NOW.to_string(), b"{}");
    assert_eq!(client(&clients, &right, b"{}"), Ok("shop".to_owned()));
    assert_eq!(client(&clients, &HeaderMap::new(), b""), Err(Denied::Unauthorized), "nothing is not wrong");
    let elsewhere = clients.identify([192, 0, 2, 2].into(), &bearer("wrong"));
    assert_eq!(elsewhere.unwrap_err(), Denied::Unauthorized);
}

#[test]
fn missing_credentials_never_count() {
    let (_folder, clients) = two_clients();
    let only_an_id = headers(&[("webhook-id", "evt_1"), ("webhook-timestamp", "1")]);
    for head in [HeaderMap::new(), only_an_id] {
        assert!((0..100).all(|_| client(&clients, &head, b"") == Err(Denied::Unauthorized)));
    }
    assert_eq!(client(&clients, &bearer("wrong"), b""), Err(Denied::Unauthorized));
}

#[test]
fn any_header_is_denied_without_a_panic() {
    let (_folder, clients) = two_clients();
    proptest!(|(
        values in proptest::collection::vec(
            (
                prop::sample::select(vec![
                    "authorization", "webhook-id", "webhook-timestamp", "webhook-signature",
                ]),
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..100),
                    "[Bb]earer +[ -~]{0,50}".prop_map(String::into_bytes),
                    "(v1a?,[A-Za-z0-9+/=]{0,44} ?){0,5}".prop_map(String::into_bytes),
                    "[0-9]{1,30}".prop_map(String::into_bytes),
                ],
            ),
            0..8,
        ),
        body in proptest::collection::vec(any::<u8>(), 0..50),
    )| {
        let mut head = HeaderMap::new();
        for (name, value) in values {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                head.append(name, value);
            }
        }
        prop_assert!(client(&clients, &head, &body).is_err());
    });
}
