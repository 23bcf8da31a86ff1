//! A gateway in front of a RabbitMQ, with or without a worker.

use kit::{Answer, Context, Process, Program};
use serde_json::Value;

use crate::{
    console::http::{Request, Response},
    world::{SOON, World, logged_address},
};

/// A gateway, and a worker that consumes what it publishes.
pub struct Front {
    pub world: World,
    pub gateway: Gateway,
}

/// A running gateway.
pub struct Gateway {
    pub process: Process,
    /// Where it takes requests.
    pub address: String,
    /// Where it serves health and metrics.
    pub ops: String,
}

impl Front {
    /// A gateway for this machine alone; Trackfinity unlocks everything.
    pub async fn start(ctx: Context) -> Self {
        Self::start_with(ctx, &[], |_| Answer::unlocked()).await
    }

    pub async fn start_with(
        ctx: Context,
        settings: &[(&str, &str)],
        answer: impl Fn(&kit::Call) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let world = World::start(ctx, answer).await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), settings).await;
        Self { world, gateway }
    }

    /// Sends a request as JSON.
    pub async fn unlock(&self, body: &str) -> Response {
        self.gateway.post(json(body)).await
    }
}

impl Gateway {
    /// Starts a gateway with these settings (their variables' names without `UNLOCKER__`), and waits until
    /// it is ready and receives outcomes.
    pub async fn start(ctx: &Context, amqp_url: &str, settings: &[(&str, &str)]) -> Self {
        let gateway = Self::begin(ctx, amqp_url, settings).await;
        gateway.process.wait_for_line(|line| line.contains(r#""event":"replies_received""#), SOON).await;
        gateway.wait_ready(200).await;
        gateway
    }

    /// Starts a gateway, and waits until it listens. OpenTelemetry's variables keep their names.
    pub async fn begin(ctx: &Context, amqp_url: &str, settings: &[(&str, &str)]) -> Self {
        let mut program = Program::new(env!("CARGO_BIN_EXE_unlocker"))
            .env("UNLOCKER__GATEWAY__LISTEN", "127.0.0.1:0")
            .env("UNLOCKER__OPS__LISTEN", "127.0.0.1:0")
            .arg("gateway");
        if !settings.iter().any(|(name, _)| *name == "BROKER__URL_FILE") {
            program = program.env("UNLOCKER__BROKER__URL", amqp_url);
        }
        for (name, value) in settings {
            program = match name.starts_with("OTEL_") {
                true => program.env(name, value),
                false => program.env(format!("UNLOCKER__{name}"), value),
            };
        }
        let process = ctx.start(&program);
        let address = logged_address(&process, "started").await;
        let ops = logged_address(&process, "ops_served").await;
        Self { process, address, ops }
    }

    pub async fn post(&self, request: Request) -> Response {
        request.send(&self.address).await
    }

    /// Waits until `/readyz` answers with this status.
    pub async fn wait_ready(&self, status: u16) -> Response {
        kit::eventually("readiness", SOON, async || {
            let answer = Request::new("GET", "/readyz").send(&self.ops).await;
            if answer.status == status {
                Ok(answer)
            } else {
                Err(format!("{} {}", answer.status, answer.body))
            }
        })
        .await
    }

    /// How many lines of its log have this event.
    pub fn events(&self, event: &str) -> usize {
        let mark = format!(r#""event":"{event}""#);
        self.process.stderr().iter().filter(|line| line.contains(&mark)).count()
    }

    /// Waits until this many requests wait for their outcome.
    pub async fn wait_waiters(&self, count: usize) {
        kit::eventually("waiters", SOON, async || match self.metric("unlocker_gateway_waiters").await {
            Some(waiters) if waiters == count as f64 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// The value of a metric's only line that begins like this.
    pub async fn metric(&self, line: &str) -> Option<f64> {
        let text = Request::new("GET", "/metrics").send(&self.ops).await.body;
        let found = text.lines().find_map(|known| known.strip_prefix(line));
        found.map(|value| value.trim().parse().expect("a number"))
    }
}

/// A request as JSON.
pub fn json(body: &str) -> Request {
    Request::new("POST", "/v1/unlocks").body("application/json", body)
}

/// What is in a problem: its status, code, and whether the request was taken.
pub fn problem(response: &Response) -> (u16, String, Option<String>) {
    assert_eq!(response.headers["content-type"], "application/problem+json", "{response:?}");
    let body: Value = serde_json::from_str(&response.body).expect("JSON");
    assert_eq!(body["status"], response.status, "{body}");
    assert!(body["detail"].as_str().is_some_and(|detail| detail.ends_with('.')), "{body}");
    let taken = body["taken"].as_str().map(str::to_owned);
    (response.status, body["code"].as_str().expect("a code").to_owned(), taken)
}
