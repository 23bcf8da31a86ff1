//! Polls for outcomes, `GET /v1/unlocks/{id}?since=…` of the gateway.

use std::time::Duration;

use kit::{Process, Program, Signal};
use reqwest::{Client, StatusCode};
use tokio::time::Instant;
use trackfinity_unlocker::message::Timestamp;

use crate::arguments::Options;
use crate::figures::{Spread, percentile};
use crate::report::Report;
use crate::site::{Filled, Site, number};

const LIMIT: Duration = Duration::from_secs(60);
const POLLS: usize = 200;
const MAX_MS: f64 = 50.0;

/// A running gateway with the history on.
struct Gateway {
    process: Process,
    address: String,
    client: Client,
}

impl Gateway {
    async fn start(site: &Site) -> Self {
        let process = Program::new(env!("CARGO_BIN_EXE_unlocker"))
            .arg("gateway")
            .env("UNLOCKER__BROKER__URL", site.amqp_url())
            .env("UNLOCKER__GATEWAY__LISTEN", "127.0.0.1:0")
            .env("UNLOCKER__OPS__LISTEN", "127.0.0.1:0")
            .env("UNLOCKER__HISTORY__ENABLED", "true")
            .start();
        let line = process.wait_for_line(|line| line.contains(r#""event":"started""#), LIMIT).await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let address = line["address"].as_str().expect("an address").to_owned();
        let client = Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
        Self { process, address, client }
    }

    /// Milliseconds until the answer, which must have this text.
    async fn poll(&self, request_id: &str, since: Timestamp, expected: &str) -> f64 {
        let id = request_id.replace('/', "%2F");
        let url = format!("http://{}/v1/unlocks/{id}?since={since}", self.address);
        let begun = Instant::now();
        let answer = self.client.get(url).send().await.expect("an answer");
        let (status, body) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status == StatusCode::OK && body.contains(expected), "{request_id}: {status} {body}");
        begun.elapsed().as_secs_f64() * 1000.0
    }
}

pub async fn all(report: &mut Report, options: &Options, site: &Site, filled: &Filled) {
    println!("\nthe gateway's polls, {} outcomes, one after the other", filled.outcomes);
    let gateway = Gateway::start(site).await;
    let asked = Timestamp::now();
    site.publish_one("local/the-latest", options).await;
    let first = gateway.poll("local/the-latest", asked, "unlocked").await;
    report.one("first poll of a gateway", "ms", first);
    report.one("RSS after the first poll", "MiB", mib(gateway.process.rss()));
    polls(report, &gateway, "finished", |_| ("local/the-latest".to_owned(), asked), r#""status""#).await;
    polls(report, &gateway, "pending", |n| (format!("local/none-{n}"), Timestamp::now()), "pending").await;
    let recent = |n: usize| (number(filled.last_hour_from + n), filled.last_hour);
    polls(report, &gateway, "of the last hour", recent, r#""status""#).await;
    let older = gateway.poll(&number(0), filled.begun, r#""status""#).await;
    report.one("first poll for an old one", "ms", older);
    let old = |n: usize| (number(n * filled.outcomes / POLLS / 2), filled.begun);
    polls(report, &gateway, "old ones", old, r#""status""#).await;
    let pending = |n: usize| (format!("local/none-{n}"), filled.begun);
    polls(report, &gateway, "pending for long", pending, "pending").await;
    report.one("peak RSS of the gateway", "MiB", mib(gateway.process.peak_rss()));
    gateway.process.signal(Signal::TERM);
    let status = gateway.process.wait_exit(LIMIT).await;
    assert!(status.success(), "{status}");
}

async fn polls(
    report: &mut Report,
    gateway: &Gateway,
    name: &str,
    poll: impl Fn(usize) -> (String, Timestamp),
    expected: &str,
) {
    let mut took = Vec::new();
    for n in 0..POLLS {
        let (request_id, since) = poll(n);
        took.push(gateway.poll(&request_id, since, expected).await);
    }
    took.sort_by(f64::total_cmp);
    let p99 = percentile(&took, 0.99);
    report.figure(&format!("{name}: a poll"), "ms", Spread::of(took));
    report.bounds.at_most(format!("{name}: p99 of a poll, ms"), p99, MAX_MS);
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
