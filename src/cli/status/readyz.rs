//! Asks workers for their health, at `/readyz`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::cli::failure::Failure;

/// How long a worker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What one worker says.
#[derive(Debug, Serialize)]
pub(super) struct WorkerReport {
    /// Where it was asked.
    ops: String,
    #[serde(flatten)]
    health: Option<Health>,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The answer of `/readyz`.
#[derive(Debug, Deserialize, Serialize)]
struct Health {
    /// `ready` or `not_ready`.
    status: String,
    paused: Option<Pause>,
    /// Why it is not ready: for programs, and for people.
    code: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    refused_outcomes: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Pause {
    cause: String,
    reason: String,
    since: String,
    next_probe_in_s: Option<u64>,
}

impl fmt::Display for WorkerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.health {
            None => f.write_str("unknown")?,
            Some(Health { paused: Some(pause), .. }) => {
                write!(f, "yes, since {}: {} ({})", pause.since, pause.reason, pause.cause)?;
                match pause.next_probe_in_s {
                    Some(seconds) => write!(f, "; next probe in {seconds} s")?,
                    None => f.write_str("; a probe is running")?,
                }
            }
            Some(Health { reason: Some(reason), code, .. }) if code.as_deref() == Some("endpoint_fault") => {
                write!(f, "yes: {reason}")?;
            }
            Some(Health { reason: Some(reason), .. }) => write!(f, "no, but not ready: {reason}")?,
            Some(Health { status, .. }) => write!(f, "no, {status}")?,
        }
        write!(f, "  [{}]", self.ops)
    }
}

/// Accepts the address of the health endpoints, with or without `/readyz`.
pub(super) fn ops_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; write for example http://10.0.0.7:9464"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => url.join("/readyz").map_err(|error| error.to_string()),
        _ => Err("is not an http:// or https:// address, such as http://10.0.0.7:9464".to_owned()),
    }
}

/// Asks all workers at once. Adds those that do not answer to `unseen`.
pub(super) async fn ask(urls: Vec<Url>, unseen: &mut Vec<String>) -> Result<Vec<WorkerReport>, Failure> {
    if urls.is_empty() {
        return Ok(Vec::new());
    }
    let client =
        reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().map_err(anyhow::Error::from)?;
    let asked = futures_util::future::join_all(urls.into_iter().map(async |url| {
        let answer = async {
            let response = client.get(url.clone()).send().await.map_err(|error| error_text(&error))?;
            let body = response.text().await.map_err(|error| error_text(&error))?;
            serde_json::from_str(&body).map_err(|error| format!("it is no worker's /readyz: {error}"))
        };
        let (health, error) = match answer.await {
            Ok(health) => (Some(health), None),
            Err(error) => (None, Some(error)),
        };
        WorkerReport { ops: url.origin().ascii_serialization(), health, error }
    }));
    let reports = asked.await;
    for report in &reports {
        unseen.extend(report.error.as_ref().map(|error| format!("the worker at {}: {error}", report.ops)));
    }
    Ok(reports)
}

/// The innermost cause: the others only repeat the address.
fn error_text(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
