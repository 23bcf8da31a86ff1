//! Publishes messages whose id is not UTF-8, which client libraries cannot read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kit::raw_amqp::{MESSAGE_ID, RawAmqp, short};
use tokio::time::{sleep, timeout};

use crate::checker::What;
use crate::names::REQUESTS;
use crate::recorder::Recorder;
use crate::requests::{self, UNREADABLE_FROM};

const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
const ID: &[u8] = b"\xff\xfe";

pub struct BadIds {
    urls: Vec<String>,
    seed: u64,
    recorder: Arc<Recorder>,
    next: AtomicU64,
}

impl BadIds {
    pub fn new(urls: Vec<String>, seed: u64, recorder: Arc<Recorder>) -> Self {
        Self { urls, seed, recorder, next: AtomicU64::new(UNREADABLE_FROM) }
    }

    /// Publishes one, again until it is confirmed.
    pub async fn publish(&self) {
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        for url in self.urls.iter().cycle() {
            self.recorder.record(n, What::Sent);
            if matches!(timeout(CONFIRM_TIMEOUT, self.try_publish(url, n)).await, Ok(Ok(()))) {
                break;
            }
            sleep(BETWEEN_TRIES).await;
        }
        self.recorder.record(n, What::Accepted);
    }

    async fn try_publish(&self, url: &str, n: u64) -> std::io::Result<()> {
        let mut client = RawAmqp::connect(url).await?;
        client.publish(REQUESTS, MESSAGE_ID, &[], &short(ID), &requests::body(self.seed, n)).await
    }
}
