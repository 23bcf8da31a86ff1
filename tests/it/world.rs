//! A worker between a RabbitMQ and a simulated Trackfinity.

use std::{collections::BTreeMap, time::Duration};

use kit::{
    AMQPValue, Amqp, Answer, Call, Context, Inbox, Message, Process, Program, Properties, Trackfinity,
};
use serde_json::Value;

pub const EXCHANGE: &str = "trackfinity.unlock";
pub const REQUESTS: &str = "trackfinity.unlock.requests";
pub const UNDELIVERABLE: &str = "trackfinity.unlock.undeliverable";
pub const RESULTS: &str = "trackfinity.unlock.results";
pub const DEAD: &str = "trackfinity.unlock.dead";
pub const REQUEST: &str = "request";

/// Long enough for a busy machine; what the tests wait for takes a fraction of it.
pub const SOON: Duration = Duration::from_secs(30);

pub struct World {
    pub ctx: Context,
    pub trackfinity: Trackfinity,
    pub amqp: Amqp,
    /// Everything published to the results exchange.
    pub outcomes: Inbox,
    pub worker: Process,
}

/// The program, with all settings from environment variables.
pub fn unlocker(amqp_url: &str, base_url: &str) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker"))
        .env("UNLOCKER__BROKER__URL", amqp_url)
        .env("UNLOCKER__TRACKFINITY__BASE_URL", base_url)
        .env("UNLOCKER__TRACKFINITY__API_KEY", "the-key")
        .env("UNLOCKER__TRACKFINITY__API_USERNAME", "the-user")
        .env("UNLOCKER__OPS__LISTEN", "")
}

/// The address in the line that logs this event.
pub async fn logged_address(process: &Process, event: &str) -> String {
    let mark = format!(r#""event":"{event}""#);
    let line = process.wait_for_line(|line| line.contains(&mark), SOON).await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    line["address"].as_str().expect("an address").to_owned()
}

impl World {
    /// A world whose worker has the usual settings.
    pub async fn start(ctx: Context, answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(ctx, &[], answer).await
    }

    /// A world whose worker has these settings: their variables' names without `UNLOCKER__`.
    pub async fn start_with(
        ctx: Context,
        settings: &[(&str, &str)],
        answer: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let trackfinity = Trackfinity::start(answer);
        let worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), settings).await;
        let amqp = ctx.amqp().await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        Self { ctx, trackfinity, amqp, outcomes, worker }
    }

    pub async fn publish(&self, properties: Properties, body: impl AsRef<[u8]>) {
        self.amqp.publish(EXCHANGE, REQUEST, properties, body.as_ref()).await;
    }

    /// Publishes a request for a customer; its message id is the customer id.
    pub async fn unlock(&self, customer: &str) {
        self.publish(id(customer), format!(r#"{{"customer_id":"{customer}"}}"#)).await;
    }

    /// The next outcome, as JSON.
    pub async fn outcome(&self) -> Value {
        self.outcomes.next(SOON).await.json()
    }

    /// Waits for `count` outcomes in all; returns them by request id.
    pub async fn outcomes(&self, count: usize) -> BTreeMap<String, Value> {
        let messages = self.outcomes.wait_count(count, SOON).await;
        messages.iter().map(|message| (text(&message.json()["request_id"]), message.json())).collect()
    }

    /// Removes the dead letters from their queue, and returns them.
    pub async fn dead_letters(&self) -> Vec<Message> {
        self.amqp.drain(DEAD).await
    }

    /// Stops the worker, and asserts that it leaves no request in the queue.
    pub async fn stop(&self) {
        self.worker.signal(kit::Signal::TERM);
        let status = self.worker.wait_exit(SOON).await;
        assert!(status.success(), "the worker ended with {status}");
        assert_eq!(self.amqp.ready_count(REQUESTS).await, 0, "requests remain in the queue");
    }
}

/// Starts a worker and waits until it consumes.
pub async fn start_worker(
    ctx: &Context,
    amqp_url: &str,
    base_url: &str,
    settings: &[(&str, &str)],
) -> Process {
    let mut program = unlocker(amqp_url, base_url).arg("run");
    for (name, value) in settings {
        program = program.env(format!("UNLOCKER__{name}"), value);
    }
    let worker = ctx.start(&program);
    worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
    worker
}

/// A header's text or number, as text.
pub fn header(message: &Message, name: &str) -> Option<String> {
    match message.header(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

pub fn id(message_id: &str) -> Properties {
    Properties::default().with_message_id(message_id.into())
}

/// `count` requests, whose ids count up from 0.
pub fn requests(count: usize) -> impl Iterator<Item = (Properties, Vec<u8>)> {
    (0..count).map(|n| (id(&n.to_string()), format!(r#"{{"customer_id":{n}}}"#).into_bytes()))
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string")).to_owned()
}

/// A directory for secrets, removed with the test.
pub struct Secrets(std::path::PathBuf);

impl Secrets {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("unlocker-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    /// Writes a file as Kubernetes does: it is replaced, not changed.
    pub fn write(&self, name: &str, value: &str) -> std::path::PathBuf {
        let (file, new) = (self.0.join(name), self.0.join("new"));
        std::fs::write(&new, value).expect("written");
        std::fs::rename(&new, &file).expect("replaced");
        file
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
