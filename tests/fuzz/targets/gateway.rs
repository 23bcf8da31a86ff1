//! Requests over HTTP, from their heads to their answers, through the gateway's own handler. Without a
//! RabbitMQ, so a good request is answered 503.

use std::{cell::RefCell, collections::BTreeMap, io, time::Duration};

use axum::{
    body::{self, Body},
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{future::BoxFuture, stream};
use proptest::prelude::*;
use serde_json::Value;
use trackfinity_unlocker::{
    gateway::Gateway,
    http::{Handler, Peer, Slot},
    message::Timestamp,
    settings::GatewaySettings,
    telemetry::GatewayTelemetry,
};

use super::{
    Bytes, Checked,
    signatures::{SIGNING_KEY, signature},
    text::Text,
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const SLOW_TOKEN: &str = "fedcba9876543210fedcba9876543210";
/// No answer needs longer: there is no RabbitMQ to wait for.
const LIMIT: Duration = Duration::from_secs(10);

/// Who sends a request.
#[derive(Clone, Debug)]
pub enum Sender {
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
pub struct Input {
    pub sender: Sender,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, Bytes)>,
    pub body: Bytes,
    /// The largest piece in which the body comes, and whether it breaks off.
    pub piece: usize,
    pub breaks_off: bool,
}

impl Input {
    /// The lines of the head are headers, except those that begin with a colon.
    fn from_text(text: &Text<'_>) -> Self {
        let mut input = Self {
            sender: Sender::Local,
            method: "POST".to_owned(),
            target: "/v1/unlocks".to_owned(),
            headers: Vec::new(),
            body: Bytes(text.body.to_vec()),
            piece: usize::MAX,
            breaks_off: false,
        };
        for (name, value) in text.lines() {
            let [] = name else {
                input.headers.push((String::from_utf8_lossy(name).into_owned(), Bytes(value.to_vec())));
                continue;
            };
            let value = String::from_utf8_lossy(value);
            match value.split_once(": ").unwrap_or((&*value, "")) {
                ("method", method) => input.method = method.to_owned(),
                ("target", target) => input.target = target.to_owned(),
                ("piece", size) => input.piece = size.parse().unwrap_or(usize::MAX).max(1),
                ("breaks off", _) => input.breaks_off = true,
                ("stranger", _) => input.sender = Sender::Stranger,
                ("guesser", guess) => input.sender = Sender::Guesser(guess.to_owned()),
                ("shop", _) => input.sender = Sender::Shop,
                ("slow", _) => input.sender = Sender::Slow,
                ("signer", seconds) => {
                    input.sender = Sender::Signer(seconds.parse::<i32>().unwrap_or(0).into())
                }
                _ => {}
            }
        }
        input
    }

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
            let value = HeaderValue::from_str(&value).ok()?;
            headers.insert(name, value);
            Some(())
        };
        match &self.sender {
            Sender::Local | Sender::Stranger => {}
            Sender::Guesser(value) => set("authorization", value.clone())?,
            Sender::Shop => set("authorization", format!("Bearer {TOKEN}"))?,
            Sender::Slow => set("authorization", format!("Bearer {SLOW_TOKEN}"))?,
            Sender::Signer(seconds) => {
                let now = i64::try_from(Timestamp::now().as_secs()).expect("a number");
                let timestamp = (now + seconds).to_string();
                let signature = signature(b"w-1", timestamp.as_bytes(), &self.body.0);
                set("webhook-signature", format!("v1,{signature}"))?;
                set("webhook-timestamp", timestamp)?;
                set("webhook-id", "w-1".to_owned())?;
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

/// One gateway that asks for no credentials, and one that does.
struct Gateways {
    runtime: tokio::runtime::Runtime,
    open: Answer,
    guarded: Answer,
    seen: RefCell<BTreeMap<u16, u64>>,
}

type Answer = Box<dyn Fn(Request) -> BoxFuture<'static, Response>>;

thread_local! {
    static GATEWAYS: Gateways = Gateways::new();
}

impl Gateways {
    fn new() -> Self {
        let clients = tempfile::tempdir().expect("a directory");
        let write =
            |name: &str, text: String| std::fs::write(clients.path().join(name), text).expect("written");
        write("shop", format!("{TOKEN}\nwhsec_{}\n", STANDARD.encode(SIGNING_KEY)));
        write("slow", format!("# rate=0.001\n{SLOW_TOKEN}\n"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let entered = runtime.enter();
        let (open, guarded) = (answer(None), answer(clients.path().to_str()));
        drop(entered);
        Self { runtime, open, guarded, seen: RefCell::default() }
    }
}

/// What answers the requests to a gateway. `clients`: a directory, or none.
fn answer(clients: Option<&str>) -> Answer {
    let mut environment = vec![
        ("UNLOCKER__GATEWAY__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ("UNLOCKER__OPS__LISTEN".to_owned(), String::new()),
    ];
    environment.extend(clients.map(|path| ("UNLOCKER__GATEWAY__CLIENTS_DIR".to_owned(), path.to_owned())));
    let settings = GatewaySettings::load(&[], environment).unwrap_or_else(|faults| panic!("{faults}"));
    let telemetry = GatewayTelemetry::from_environment().expect("telemetry");
    let handler = Gateway::new(&settings, telemetry).expect("a gateway").handler();
    let peer = Peer(([192, 0, 2, 1], 4711).into());
    Box::new(move |request| {
        let handler = handler.clone();
        Box::pin(async move { handler.answer(request, peer, &Slot::detached()).await })
    })
}

pub fn check_bytes(bytes: &[u8]) -> Checked {
    check(&Input::from_text(&Text::parse(bytes)))
}

pub fn check(input: &Input) -> Checked {
    let Some(request) = input.request() else { return Ok(()) };
    GATEWAYS.with(|gateways| {
        let answer = if matches!(input.sender, Sender::Local) { &gateways.open } else { &gateways.guarded };
        gateways.runtime.block_on(async {
            let answer = tokio::time::timeout(LIMIT, answer(request)).await.expect("an answer in time");
            *gateways.seen.borrow_mut().entry(answer.status().as_u16()).or_default() += 1;
            check_answer(input, answer).await
        })
    })
}

/// How many answers had which status.
pub fn seen() -> BTreeMap<u16, u64> {
    GATEWAYS.with(|gateways| gateways.seen.borrow().clone())
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
