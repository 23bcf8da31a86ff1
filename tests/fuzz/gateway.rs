//! Requests over HTTP, from their heads to their answers, through the gateway's own handler. Without a
//! RabbitMQ, so a good request is answered 503.

use std::{collections::BTreeMap, io, time::Duration};

use axum::{
    body::{self, Body},
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::stream;
use hmac::{Hmac, Mac};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::Value;
use sha2::Sha256;
use trackfinity_unlocker::{
    gateway::{Clients, Gateway},
    http::{Handler, Peer, Slot},
    message::Timestamp,
    settings::GatewaySettings,
    telemetry::GatewayTelemetry,
};

use super::{
    Bytes, Checked, fuzz, like, maybe_changed,
    requests::{any_body, any_content_type, gzip, json_like},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const SLOW_TOKEN: &str = "fedcba9876543210fedcba9876543210";
const SIGNING_KEY: [u8; 32] = [7; 32];
/// No answer needs longer: there is no RabbitMQ to wait for.
const LIMIT: Duration = Duration::from_secs(10);

/// Who sends a request.
#[derive(Clone, Debug)]
enum Sender {
    /// To a gateway that asks for no credentials.
    Local,
    Stranger,
    Guesser(String),
    Shop,
    /// A client whose rate is used up.
    Slow,
    /// A sender of webhooks, whose clock is wrong by these seconds.
    Signer(i64),
}

#[derive(Debug)]
struct Input {
    sender: Sender,
    method: String,
    target: String,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
    /// The largest piece in which the body comes, and whether it breaks off.
    piece: usize,
    breaks_off: bool,
}

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

fn signature(id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&SIGNING_KEY).expect("a key");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

impl Input {
    /// The request; `None` if HTTP cannot carry it.
    fn request(&self) -> Option<Request> {
        let mut request = Request::new(self.body());
        *request.method_mut() = Method::from_bytes(self.method.as_bytes()).ok()?;
        *request.uri_mut() = self.target.parse::<Uri>().ok()?;
        let headers = request.headers_mut();
        for (name, Bytes(value)) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(value).ok()?);
        }
        let mut set = |name: &'static str, value: String| {
            headers.insert(name, HeaderValue::from_str(&value).expect("a value"));
        };
        match &self.sender {
            Sender::Local | Sender::Stranger => {}
            Sender::Guesser(value) => set("authorization", value.clone()),
            Sender::Shop => set("authorization", format!("Bearer {TOKEN}")),
            Sender::Slow => set("authorization", format!("Bearer {SLOW_TOKEN}")),
            Sender::Signer(seconds) => {
                let now = i64::try_from(Timestamp::now().as_secs()).expect("a number");
                let timestamp = (now + seconds).to_string();
                set("webhook-signature", signature("w-1", &timestamp, &self.body.0));
                set("webhook-timestamp", timestamp);
                set("webhook-id", "w-1".to_owned());
            }
        }
        Some(request)
    }

    fn body(&self) -> Body {
        let mut pieces: Vec<_> =
            self.body.0.chunks(self.piece).map(|piece| Ok(body::Bytes::copy_from_slice(piece))).collect();
        if self.breaks_off {
            pieces.push(Err(io::Error::other("broken off")));
        }
        Body::from_stream(stream::iter(pieces))
    }
}

/// The headers that an answer with this status has.
fn required_header(status: StatusCode) -> Option<HeaderName> {
    match status.as_u16() {
        401 => Some(header::WWW_AUTHENTICATE),
        405 => Some(header::ALLOW),
        415 => Some(HeaderName::from_static("accept-post")),
        429 | 503 | 504 => Some(header::RETRY_AFTER),
        _ => None,
    }
}

fn check_problem(problem: &Value, status: Option<u16>) -> Checked {
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    prop_assert!(!text("code").is_empty() && !text("title").is_empty(), "{problem}");
    prop_assert!(text("detail").ends_with('.') && text("detail").len() < 1000, "{problem}");
    let shown = problem["status"].as_u64().unwrap_or_default();
    prop_assert!(
        (400..600).contains(&shown) && status.is_none_or(|status| shown == u64::from(status)),
        "{problem}"
    );
    prop_assert!(!matches!(shown, 500 | 504), "{problem}");
    prop_assert_eq!(shown == 503, problem["taken"] == "no" && shown != 429, "{}", problem);
    Ok(())
}

async fn check_answer(input: &Input, answer: Response) -> Checked {
    let (head, body) = answer.into_parts();
    let body = body::to_bytes(body, usize::MAX).await.expect("a body");
    let text = String::from_utf8_lossy(&body);
    prop_assert!(!text.contains(TOKEN) && !text.contains(SLOW_TOKEN), "{text}");
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if head.status == StatusCode::OK {
        if input.target.contains("openapi.json") {
            prop_assert!(matches!(input.method.as_str(), "GET" | "HEAD"));
            return Ok(());
        }
        prop_assert_eq!((input.method.as_str(), content_type), ("POST", Some("application/x-ndjson")));
        for line in text.lines() {
            let result: Value = serde_json::from_str(line).expect("JSON");
            prop_assert_eq!(&result["status"], "rejected", "{}", line);
            check_problem(&result["problem"], None)?;
        }
        return Ok(());
    }
    prop_assert!(
        head.status.is_client_error() || head.status == StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        head.status
    );
    prop_assert_eq!(content_type, Some("application/problem+json"));
    let required = required_header(head.status);
    prop_assert!(required.as_ref().is_none_or(|name| head.headers.contains_key(name)), "{required:?}");
    // Of an answer to HEAD, the server leaves out the body.
    check_problem(&serde_json::from_slice(&body).expect("JSON"), Some(head.status.as_u16()))
}

/// A gateway's handler. `clients`: a directory, or none.
fn handler(clients: Option<&str>) -> impl Handler + use<> {
    let mut environment = vec![
        ("UNLOCKER__GATEWAY__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ("UNLOCKER__OPS__LISTEN".to_owned(), String::new()),
    ];
    environment.extend(clients.map(|path| ("UNLOCKER__GATEWAY__CLIENTS_DIR".to_owned(), path.to_owned())));
    let settings = GatewaySettings::load(&[], environment).unwrap_or_else(|faults| panic!("{faults}"));
    let telemetry = GatewayTelemetry::from_environment().expect("telemetry");
    Gateway::new(&settings, telemetry).expect("a gateway").handler()
}

#[test]
fn any_request_over_http_is_answered_and_each_refusal_says_why() {
    let clients = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: String| std::fs::write(clients.path().join(name), text).expect("written");
    write("shop", format!("{TOKEN}\nwhsec_{}\n", STANDARD.encode(SIGNING_KEY)));
    write("slow", format!("# rate=0.001\n{SLOW_TOKEN}\n"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let (open, guarded) = (handler(None), handler(clients.path().to_str()));
    let (peer, slot) = (Peer(([192, 0, 2, 1], 4711).into()), Slot::detached());
    let seen = std::cell::RefCell::new(BTreeMap::<u16, u64>::new());
    fuzz("gateway", any_input(), |input| {
        let Some(request) = input.request() else { return Ok(()) };
        let handler = if matches!(input.sender, Sender::Local) { &open } else { &guarded };
        runtime.block_on(async {
            let answer = tokio::time::timeout(LIMIT, handler.answer(request, peer, &slot)).await;
            let answer = answer.expect("an answer in time");
            *seen.borrow_mut().entry(answer.status().as_u16()).or_default() += 1;
            check_answer(&input, answer).await
        })
    });
    println!("gateway: answers by status: {:?}", seen.borrow());
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
    let directory = tempfile::tempdir().expect("a directory");
    let mark = prop::bool::weighted(0.1).prop_map(|mark| if mark { "\u{feff}" } else { "" });
    fuzz("clients", (mark, vec(any_line(), 0..6)), |(mark, lines)| {
        let content = [mark.as_bytes(), &lines.join(&b'\n')].concat();
        std::fs::write(directory.path().join("shop"), &content).expect("written");
        match Clients::open(directory.path()) {
            Ok(clients) => {
                let names = clients.names();
                prop_assert!(matches!(names.as_slice(), [name] if &**name == "shop"), "{names:?}");
                prop_assert!(std::str::from_utf8(&content).is_ok());
            }
            Err(error) => {
                prop_assert!(
                    !error.faults.is_empty()
                        && error.faults.len() <= content.split(|byte| *byte == b'\n').count()
                );
                let said = error.to_string();
                for line in content.split(|byte| *byte == b'\n').filter(|line| line.len() >= 24) {
                    let line = String::from_utf8_lossy(line);
                    prop_assert!(!said.contains(line.trim_end()), "{said}");
                }
                for fault in error.faults {
                    prop_assert!(!fault.wrong.is_empty() && !fault.remedy.is_empty());
                    prop_assert!(fault.line.is_none_or(|line| (1..=content.len() + 1).contains(&line)));
                }
            }
        }
        Ok(())
    });
}
