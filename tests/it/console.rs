//! The console: who may do what, and that it is done.

mod access;
mod api;
mod browser;
mod changes;
mod faults;
mod forms;
pub mod http;
mod masks;
mod mend;
mod openapi;
mod overview;
mod replicas;
mod search;
mod size;

use std::path::PathBuf;

use kit::{AMQPValue, Answer, Call, Context, FieldTable, Process, Program, Properties};
use serde_json::Value;
use trackfinity_unlocker::broker::stream::{Start, Stream};

use self::http::{Browser, Request, Response};
use crate::world::{DEAD, RESULTS, SOON, World, id, logged_address};

pub const VIEWER: &str = "viewer-token-0123456789";
pub const OPERATOR: &str = "operator-token-0123456789";
/// What a page may show only after an operator asked for it.
const SECRETS: [&str; 4] = ["customer_id", "<script>alert(1)</script>", "no such customer", "their-header"];

/// A console, its audit log, and a worker.
pub struct Page {
    pub world: World,
    pub console: Console,
    pub address: String,
    audit: PathBuf,
}

/// A running console.
pub struct Console {
    pub process: Process,
    /// Where it serves its pages.
    pub address: String,
    /// Where it serves health and metrics.
    pub ops: String,
}

impl Console {
    /// Starts a console with these settings (their variables' names without `UNLOCKER__`), and waits until it
    /// listens.
    pub async fn start(ctx: &Context, amqp_url: &str, settings: &[(&str, &str)]) -> Self {
        let mut program = Program::new(env!("CARGO_BIN_EXE_unlocker"))
            .env("UNLOCKER__BROKER__URL", amqp_url)
            .env("UNLOCKER__CONSOLE__LISTEN", "127.0.0.1:0")
            .env("UNLOCKER__OPS__LISTEN", "127.0.0.1:0")
            .arg("console");
        for (name, value) in settings {
            program = program.env(format!("UNLOCKER__{name}"), value);
        }
        let process = ctx.start(&program);
        let address = logged_address(&process, "started").await;
        let ops = logged_address(&process, "ops_served").await;
        Self { process, address, ops }
    }
}

impl Page {
    pub async fn start(ctx: Context) -> Self {
        Self::start_with(ctx, &[("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN", OPERATOR)])
            .await
    }

    /// A console with these settings, besides its address and its audit log.
    pub async fn start_with(ctx: Context, settings: &[(&str, &str)]) -> Self {
        Self::start_beside(ctx, &[], settings).await
    }

    /// With the history, and with the tokens.
    pub async fn start_with_history(ctx: Context, more: &[(&str, &str)]) -> Self {
        let on = ("HISTORY__ENABLED", "true");
        let tokens = [("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN", OPERATOR), on];
        Self::start_beside(ctx, &[on], &[&tokens, more].concat()).await
    }

    async fn start_beside(ctx: Context, worker_settings: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        let audit = std::env::temp_dir().join(format!("unlocker-audit-{}.jsonl", uuid::Uuid::now_v7()));
        let path = audit.to_str().expect("a path in UTF-8").to_owned();
        let mut all = vec![("CONSOLE__AUDIT_LOG", path.as_str())];
        all.extend(settings);
        let answer = |call: &Call| match call.field("customer_id").is_some_and(|id| id == "no") {
            true => Answer::json(404, r#"{"error":"no such customer"}"#),
            false => Answer::unlocked(),
        };
        let world = World::start_with(ctx, worker_settings, answer).await;
        let console = Console::start(&world.ctx, world.ctx.amqp_url(), &all).await;
        let address = console.address.clone();
        Self { world, console, address, audit }
    }

    pub async fn publish_dead_letters(&self, count: usize) {
        self.publish_dead_letters_beside(0, count).await;
    }

    /// As [`publish_dead_letters`](Self::publish_dead_letters), while there are `others`, or soon will be.
    pub async fn publish_dead_letters_beside(&self, others: usize, count: usize) {
        self.world.amqp.publish_all(DEAD, "", (0..count).map(dead_letter)).await;
        let there = async || self.world.amqp.ready_count(DEAD).await as usize == others + count;
        kit::eventually("the dead letters", SOON, there).await;
    }

    pub async fn get(&self, path: &str) -> Response {
        Request::new("GET", path).send(&self.address).await
    }

    /// A browser in which a user has logged in.
    pub async fn logged_in(&self, token: &str) -> Browser {
        let mut browser = Browser::new(&self.address);
        let response = browser.log_in("Anna", token).await;
        assert_eq!(response.status, 303, "{}", response.body);
        browser
    }

    /// The events of all consoles so far.
    async fn console_events(&self) -> Vec<String> {
        let stream = Stream::new(self.world.amqp.connection(), "trackfinity.unlock.console");
        let last = stream.last_entries().await.expect("the last entries").last().map(|entry| entry.offset);
        let mut reader = stream.read(Start::First, &[]).await.expect("the stream");
        let mut events = Vec::new();
        while last.is_some_and(|last| events.len() as u64 <= last) {
            let entry = reader.next(SOON).await.expect("an entry");
            events.push(String::from_utf8(entry.delivery.data).expect("JSON"));
        }
        events
    }

    /// The audit log so far.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.audit).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    pub async fn api(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> Response {
        let request = Request::new(method, path).header("authorization", &format!("Bearer {token}"));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        request.send(&self.address).await
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // It may never have been written.
        std::fs::remove_file(&self.audit).ok();
    }
}

/// A dead letter of customer `c-N` as a worker publishes it, with hostile content.
pub fn dead_letter(n: usize) -> (Properties, Vec<u8>) {
    let mut headers = FieldTable::default();
    let text = |value: String| AMQPValue::LongString(value.into());
    let (status, reason) = if n % 3 == 2 { ("abandoned", "timeout") } else { ("refused", "http_404") };
    for (name, value) in [
        ("unlocker-status", status.to_owned()),
        ("unlocker-reason", reason.to_owned()),
        ("unlocker-detail", "Trackfinity answered 404: no such customer".to_owned()),
        ("unlocker-response", r#"{"error":"no such customer"}"#.to_owned()),
        ("unlocker-request-id", format!("r-{n}")),
        ("unlocker-first-received-at", "2026-11-01T08:00:00.000Z".to_owned()),
        ("unlocker-dead-at", format!("2026-11-01T09:{:02}:{:02}.000Z", n / 60 % 60, n % 60)),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        ("their-header", "<script>alert(1)</script>".to_owned()),
    ] {
        headers.insert(name.into(), text(value));
    }
    headers.insert("unlocker-attempts".into(), AMQPValue::LongLongInt(1));
    headers.insert("unlocker-http-status".into(), AMQPValue::LongLongInt(404));
    let properties = id(&format!("r-{n}")).with_content_type("application/json".into()).with_headers(headers);
    (properties, format!(r#"{{"customer_id":"c-{n}","note":"<script>alert(1)</script>"}}"#).into_bytes())
}
