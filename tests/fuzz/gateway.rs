//! Requests over HTTP, from their heads to their answers, through the gateway's own handler. Without a
//! RabbitMQ, so a good request is answered 503.

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    fuzz, like, maybe_changed,
    requests::{any_body, any_content_type, json_like},
    targets::{
        Bytes, clients,
        gateway::{Input, Sender, check, seen},
        gzip,
    },
};

fn any_sender() -> impl Strategy<Value = Sender> {
    prop_oneof![
        8 => Just(Sender::Local),
        4 => Just(Sender::Shop),
        1 => Just(Sender::Slow),
        1 => Just(Sender::Stranger),
        1 => like("(Bearer |bearer  ?|Basic )?[!-~]{0,40}").prop_map(Sender::Guesser),
        4 => (-400..400_i64).prop_map(Sender::Signer),
    ]
}

fn any_method() -> impl Strategy<Value = String> {
    let known = ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"];
    prop_oneof![
        12 => Just("POST".to_owned()),
        3 => select(known.to_vec()).prop_map(str::to_owned),
        1 => like("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}"),
    ]
}

fn any_target() -> impl Strategy<Value = String> {
    let known = [
        "/openapi.json",
        "/",
        "*",
        "a:443",
        "http://a/v1/unlocks",
        "/v1/unlocks/",
        "/v1//unlocks",
        "/v1/unlocks?a=b",
    ];
    prop_oneof![
        12 => Just("/v1/unlocks".to_owned()),
        2 => select(known.to_vec()).prop_map(str::to_owned),
        2 => like("/v1/unlocks/[!-~]{1,30}"),
        1 => like("/[!-~]{0,40}"),
        1 => (1..16_000_usize).prop_map(|length| format!("/v1/unlocks/{}", "%2F".repeat(length / 3))),
    ]
}

fn any_header() -> impl Strategy<Value = (String, Bytes)> {
    let named = |name: &'static str, text: BoxedStrategy<String>| {
        maybe_changed(text.prop_map(String::into_bytes))
            .prop_map(move |value| (name.to_owned(), Bytes(value)))
    };
    let key = prop_oneof![like("[!-~]{1,20}"), like("\"[ -~]{0,20}\""), like("k{150,260}"), like("k[0-9]")];
    let wait = prop_oneof![
        like("wait ?= ?\"?-?[0-9]{1,12}\"?"),
        like("[a-z]{1,6}(=[a-z0-9\"]{0,6})?([,;] ?wait=[0-9]{0,3})?")
    ];
    let moment = select(vec!["2036-11-23T09:00:00Z", "2016-11-23T09:00:00+01:00", "soon", ""]);
    let trace = like("0[01]-[0-9a-f]{32}-[0-9a-f]{16}-0[01]");
    let long = (1..9000_usize).prop_map(|length| "x".repeat(length));
    prop_oneof![
        3 => named("idempotency-key", key.boxed()),
        1 => named("webhook-id", like("[ -~]{0,20}").boxed()),
        2 => named("prefer", wait.boxed()),
        1 => named("x-correlation-id", prop_oneof![like("[ -~]{0,20}"), like("c{250,260}")].boxed()),
        1 => named("traceparent", trace.boxed()),
        1 => named("tracestate", like("[a-z]=[ -~]{0,20}").boxed()),
        1 => named("ce-id", like("\\PC{0,20}").boxed()),
        1 => named("ce-expirytime", moment.prop_map(str::to_owned).boxed()),
        1 => (like("ce-[a-z]{0,4}|[a-z-]{1,20}"), long).prop_map(|(name, value)| (name, Bytes(value.into_bytes()))),
        1 => named("content-encoding", select(vec!["gzip", "br", "identity", "gzip, gzip", ""]).prop_map(str::to_owned).boxed()),
        1 => named("content-length", like("-?[0-9]{0,25}").boxed()),
        1 => (like("[a-z-]{1,12}"), vec(any::<u8>(), 0..20)).prop_map(|(name, value)| (name, Bytes(value))),
    ]
}

/// A content type, and a body that may fit.
fn any_content() -> impl Strategy<Value = (Vec<(String, Bytes)>, Bytes)> {
    let content_type = |text: String| ("content-type".to_owned(), Bytes(text.into_bytes()));
    let one = (any_content_type(), any_body(), option::weighted(0.1, Just(())));
    let one = one.prop_map(move |(given, Bytes(body), packed)| {
        let mut headers: Vec<_> = given.map(content_type).into_iter().collect();
        if packed.is_none() {
            return (headers, Bytes(body));
        }
        headers.push(("content-encoding".to_owned(), Bytes(b"gzip".to_vec())));
        (headers, Bytes(gzip(&body)))
    });
    let lines = prop_oneof![4 => vec(json_like(), 0..8), 1 => (990..1010_usize).prop_map(|lines| vec!["{}".to_owned(); lines])];
    let batch = maybe_changed(lines.prop_map(|lines| lines.join("\n").into_bytes()));
    let batch =
        batch.prop_map(move |body| (vec![content_type("application/x-ndjson".to_owned())], Bytes(body)));
    let good =
        (0..99_u8).prop_map(|id| (Vec::new(), Bytes(format!("{{\"customer_id\":{id}}}").into_bytes())));
    prop_oneof![4 => one, 2 => good, 1 => batch]
}

fn any_input() -> impl Strategy<Value = Input> {
    let head = (any_sender(), any_method(), any_target(), vec(any_header(), 0..5));
    let pieces = (prop_oneof![Just(usize::MAX), 1..100_usize], prop::bool::weighted(0.05));
    (head, any_content(), pieces).prop_map(|(head, (content, body), (piece, breaks_off))| {
        let (sender, method, target, mut headers) = head;
        headers.extend(content);
        Input { sender, method, target, headers, body, piece, breaks_off }
    })
}

#[test]
fn any_request_over_http_is_answered_and_each_refusal_says_why() {
    fuzz("gateway", any_input(), |input| check(&input));
    println!("gateway: answers by status: {:?}", seen());
}

fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let secret = prop_oneof![vec(any::<u8>(), 24..65), vec(any::<u8>(), 0..80)];
    let rate = prop_oneof![like("-?[0-9]{0,8}(\\.[0-9]{0,4})?(e-?[0-9]{1,3})?"), like("[a-zA-Z]{0,8}")];
    let line = prop_oneof![
        3 => like("[!-~]{32,70}").prop_map(String::into_bytes),
        2 => secret.prop_map(|secret| format!("whsec_{}", STANDARD.encode(secret)).into_bytes()),
        1 => (like("# ?(rate|RATE) ?= ?"), rate).prop_map(|(name, rate)| (name + &rate).into_bytes()),
        1 => like("#[ -~]{0,20}").prop_map(String::into_bytes),
        1 => like("(wh(pk|sk)_)?[ -~]{0,40}").prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..20),
    ];
    (maybe_changed(line), select(vec!["", "\r", " \t"]))
        .prop_map(|(line, end)| [&line, end.as_bytes()].concat())
}

#[test]
fn any_file_of_a_client_is_read_or_its_faults_are_named_without_a_secret() {
    let mark = prop::bool::weighted(0.1).prop_map(|mark| if mark { "\u{feff}" } else { "" });
    fuzz("clients", (mark, vec(any_line(), 0..6)), |(mark, lines)| {
        clients::check_bytes(&[mark.as_bytes(), &lines.join(&b'\n')].concat())
    });
}
