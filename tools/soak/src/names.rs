//! The topology's names.

pub const EXCHANGE: &str = "trackfinity.unlock";
pub const REQUEST_KEY: &str = "request";
pub const REQUESTS: &str = "trackfinity.unlock.requests";
pub const UNDELIVERABLE: &str = "trackfinity.unlock.undeliverable";
pub const RESULTS: &str = "trackfinity.unlock.results";
pub const DEAD: &str = "trackfinity.unlock.dead";

/// Where a request may wait.
pub fn waiting_queues() -> Vec<String> {
    let retry = (0..=10).map(|tier| format!("{EXCHANGE}.retry.{}s", 1 << tier));
    [REQUESTS, UNDELIVERABLE].map(str::to_owned).into_iter().chain(retry).collect()
}
