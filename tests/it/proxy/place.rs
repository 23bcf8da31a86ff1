//! A Trackfinity with TLS, a worker, and what both say.

use kit::{Answer, Certificate, Context, Inbox, Process, Program, ProxyRules, Tinyproxy, Trackfinity};
use serde_json::Value;

use crate::world::{DEAD, EXCHANGE, REQUEST, RESULTS, SOON, Secrets, requests, unlocker};

pub const OPEN: ProxyRules = ProxyRules { login: None, target_port: None };
pub const WITH_LOGIN: ProxyRules = ProxyRules { login: Some(("worker", "pass-word")), target_port: None };

/// A Trackfinity over TLS whose authority only `trackfinity.ca_file` names.
pub struct Place {
    pub ctx: Context,
    pub trackfinity: Trackfinity,
    pub secrets: Secrets,
    pub ca_file: std::path::PathBuf,
}

impl Place {
    pub fn new(ctx: &Context) -> Self {
        let certificate = Certificate::issued();
        let trackfinity = Trackfinity::start_tls(&certificate, |_| Answer::unlocked());
        let secrets = Secrets::new();
        let ca_file = secrets.write("ca.pem", certificate.authority_pem());
        Self { ctx: ctx.clone(), trackfinity, secrets, ca_file }
    }

    pub fn program(&self, command: &str) -> Program {
        unlocker(self.ctx.amqp_url(), &self.trackfinity.url())
            .arg(command)
            .env("UNLOCKER__TRACKFINITY__CA_FILE", &self.ca_file)
            .env("UNLOCKER__PAUSE__PROBE_DELAY", "50ms")
            .env("UNLOCKER__PAUSE__PROBE_MAX_DELAY", "200ms")
    }

    pub fn worker(&self) -> Program {
        self.program("run")
    }

    pub async fn start(&self, worker: Program) -> (Process, Inbox) {
        let worker = self.ctx.start(&worker);
        worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
        let outcomes = self.ctx.amqp().await.consume_into(RESULTS, "unlock.#").await;
        (worker, outcomes)
    }

    pub async fn publish(&self, count: usize) {
        self.ctx.amqp().await.publish_all(EXCHANGE, REQUEST, requests(count)).await;
    }

    pub async fn assert_no_dead_letter(&self) {
        assert_eq!(self.ctx.amqp().await.ready_count(DEAD).await, 0);
    }

    /// Lets a worker serve one request. Returns its log.
    pub async fn serve_one(&self, worker: &Program) -> Vec<String> {
        let (worker, outcomes) = self.start(worker.clone()).await;
        self.publish(1).await;
        assert_eq!(outcomes.next(SOON).await.json()["status"], "unlocked");
        worker.signal(kit::Signal::TERM);
        assert!(worker.wait_exit(SOON).await.success());
        worker.stderr()
    }
}

pub fn proxy_url(proxy: &Tinyproxy, login: &str) -> String {
    format!("http://{login}{}", proxy.address())
}

pub async fn readyz(listen: &str) -> Result<(u16, Value), String> {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
    let reply =
        client.get(format!("http://{listen}/readyz")).send().await.map_err(|error| error.to_string())?;
    let status = reply.status().as_u16();
    let body = reply.text().await.map_err(|error| error.to_string())?;
    Ok((status, serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?))
}

/// Waits until a worker that pauses with this status says these words.
pub async fn paused(listen: &str, status: u16, words: &[&str]) {
    kit::eventually(&format!("paused, with {words:?}"), SOON, async || {
        let (seen, body) = readyz(listen).await?;
        let said = body.to_string();
        let is_paused = seen != 200 || !body["paused"].is_null();
        match seen == status && is_paused && words.iter().all(|word| said.contains(word)) {
            true => Ok(()),
            false => Err(format!("{seen} {said}")),
        }
    })
    .await;
}

/// `check` as one document, without RabbitMQ's checks.
pub async fn check(ctx: &Context, program: Program) -> Value {
    let check = ctx.start(&program.arg("--json"));
    check.wait_exit(SOON).await;
    serde_json::from_str(&check.stdout().join("")).expect("JSON")
}

pub fn find<'a>(document: &'a Value, name: &str) -> &'a Value {
    let checks = document["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {document:#}"))
}
