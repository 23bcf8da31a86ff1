//! The outcome of the bare loop. It has all fields of the worker's, so that both publish the same number of bytes.

use jiff::Timestamp;
use serde::Serialize;

#[derive(Serialize)]
struct Outcome<'a> {
    status: &'a str,
    request_id: &'a str,
    request: Identifiers<'a>,
    attempts: u32,
    http_status: u16,
    reason: Option<&'a str>,
    detail: Option<&'a str>,
    replays: u32,
    first_received_at: String,
    finished_at: String,
}

#[derive(Serialize)]
struct Identifiers<'a> {
    customer_id: &'a str,
}

/// As JSON.
pub fn unlocked(request_id: &str, customer_id: &str, received: Timestamp, finished: Timestamp) -> Vec<u8> {
    let outcome = Outcome {
        status: "unlocked",
        request_id,
        request: Identifiers { customer_id },
        attempts: 1,
        http_status: 200,
        reason: None,
        detail: None,
        replays: 0,
        first_received_at: format!("{received:.3}"),
        finished_at: format!("{finished:.3}"),
    };
    serde_json::to_vec(&outcome).expect("JSON")
}
