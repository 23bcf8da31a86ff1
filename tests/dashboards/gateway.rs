//! A gateway's metrics.

use kit::{Answer, Trackfinity};

/// As `/metrics` has them.
const METRICS: &str = "\
# HELP unlocker_gateway_requests_total HTTP requests by client and status.
# TYPE unlocker_gateway_requests_total counter
unlocker_gateway_requests_total{client=\"shop\",code=\"202\"} 95
unlocker_gateway_requests_total{client=\"shop\",code=\"503\"} 5
# HELP unlocker_gateway_request_duration_seconds From a request to its answer.
# TYPE unlocker_gateway_request_duration_seconds histogram
unlocker_gateway_request_duration_seconds_bucket{le=\"1\"} 99
unlocker_gateway_request_duration_seconds_bucket{le=\"+Inf\"} 100
unlocker_gateway_request_duration_seconds_sum 9.5
unlocker_gateway_request_duration_seconds_count 100
# HELP unlocker_gateway_confirm_seconds From a publish to its confirm.
# TYPE unlocker_gateway_confirm_seconds histogram
unlocker_gateway_confirm_seconds_bucket{le=\"1\"} 99
unlocker_gateway_confirm_seconds_bucket{le=\"+Inf\"} 100
unlocker_gateway_confirm_seconds_sum 5.5
unlocker_gateway_confirm_seconds_count 100
# HELP unlocker_gateway_waiters Requests that wait for their outcome.
# TYPE unlocker_gateway_waiters gauge
unlocker_gateway_waiters 0
# HELP unlocker_gateway_connections HTTP connections.
# TYPE unlocker_gateway_connections gauge
unlocker_gateway_connections 1
# HELP unlocker_gateway_ready 1 while requests can be published.
# TYPE unlocker_gateway_ready gauge
unlocker_gateway_ready 1
";

/// Serves the metrics.
pub struct Gateway {
    pub ops: String,
    _server: Trackfinity,
}

impl Gateway {
    pub fn start() -> Self {
        let server =
            Trackfinity::start(|_| Answer::status(200).header("content-type", "text/plain").body(METRICS));
        Self { ops: server.address().to_string(), _server: server }
    }

    pub async fn metrics(&self) -> String {
        crate::get(&format!("http://{}/metrics", self.ops)).await.expect("metrics")
    }
}
