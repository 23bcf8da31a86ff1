//! Asks the console for its overview now and then.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::journal::Journal;

const ASKED_EVERY: Duration = Duration::from_secs(2);
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// What the console's overview is made of; the last one needs the history.
const PATHS: [&str; 4] = ["/", "/api/v1/summary", "/api/v1/queues", "/api/v1/outcomes"];

pub struct ConsoleClient {
    base: String,
    client: Client,
    paths: &'static [&'static str],
    journal: Arc<Journal>,
}

impl ConsoleClient {
    pub fn new(address: &str, has_history: bool, journal: Arc<Journal>) -> Self {
        let client = Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWERS_WITHIN).build();
        let client = client.expect("a client without options that fail");
        let paths = if has_history { &PATHS[..] } else { &PATHS[..3] };
        Self { base: format!("http://{address}"), client, paths, journal }
    }

    /// Asks for ever. A console that is hurt need not answer; when it does, it is with what was asked for, or with the
    /// reason why it cannot.
    pub async fn ask(&self) {
        for path in self.paths.iter().cycle() {
            sleep(ASKED_EVERY).await;
            let Ok(response) = self.client.get(format!("{}{path}", self.base)).send().await else { continue };
            let status = response.status();
            let excused = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::CONFLICT];
            if !status.is_success() && !excused.contains(&status) {
                let said = response.text().await.unwrap_or_default();
                self.journal.complain(format!("the console answered {path} with {status}: {said}"));
            }
        }
    }

    /// Whether it counts so many dead letters, once all is healed; it has some time to come back.
    pub async fn counts(&self, dead_letters: usize) {
        let until = Instant::now() + ANSWERS_WITHIN;
        loop {
            let counted = self.count().await;
            if counted == Ok(dead_letters) {
                return;
            }
            if Instant::now() >= until {
                let said = format!("{dead_letters} dead letters are there, and the console says {counted:?}");
                return self.journal.complain(said);
            }
            sleep(ASKED_EVERY).await;
        }
    }

    async fn count(&self) -> Result<usize, String> {
        let asked = self.client.get(format!("{}/api/v1/summary", self.base)).send().await;
        let text = asked.map_err(|error| error.to_string())?.text().await.unwrap_or_default();
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        json["count"].as_u64().and_then(|count| usize::try_from(count).ok()).ok_or(text)
    }
}
