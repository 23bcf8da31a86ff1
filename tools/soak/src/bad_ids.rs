//! Publishes messages whose id is not UTF-8, which client libraries cannot read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use kit::raw_amqp::{MESSAGE_ID, RawAmqp, short};
use tokio::time::{sleep, timeout};

use crate::names::REQUESTS;
use crate::requests::{self, UNREADABLE_FROM};

const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
const ID: &[u8] = b"\xff\xfe";

pub struct BadIds {
    url: String,
    seed: u64,
    /// Those that are confirmed, and how often each was published again for want of a confirm.
    confirmed: Mutex<BTreeMap<u64, u32>>,
}

impl BadIds {
    pub fn new(url: String, seed: u64) -> Self {
        Self { url, seed, confirmed: Mutex::default() }
    }

    /// Publishes one, again until it is confirmed.
    pub async fn publish(&self) {
        let n = UNREADABLE_FROM + self.confirmed().len() as u64;
        let mut repeats = 0;
        while !matches!(timeout(CONFIRM_TIMEOUT, self.try_publish(n)).await, Ok(Ok(()))) {
            repeats += 1;
            sleep(BETWEEN_TRIES).await;
        }
        self.confirmed().insert(n, repeats);
    }

    async fn try_publish(&self, n: u64) -> std::io::Result<()> {
        let (_, body) = requests::message(self.seed, n);
        let mut client = RawAmqp::connect(&self.url).await?;
        client.publish(REQUESTS, MESSAGE_ID, &[], &short(ID), &body).await
    }

    pub fn confirmed(&self) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        self.confirmed.lock().expect("no panic holds them")
    }
}
