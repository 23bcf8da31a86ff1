//! Takes all outcomes out of a durable queue of its own, and comes back after each fault.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use futures_util::StreamExt;
use kit::{Amqp, FieldTable};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker_line;
use crate::names::{DEAD, RESULTS};
use crate::requests;

const PREFETCH: u16 = 500;

#[derive(Clone, Debug)]
pub struct Outcome {
    pub status: String,
    pub reason: Option<String>,
    pub finished_at: SystemTime,
    pub heard_at: SystemTime,
    pub body: Vec<u8>,
}

#[derive(Default)]
pub struct Heard {
    /// By the request's number, as they came.
    pub outcomes: BTreeMap<u64, Vec<Outcome>>,
    /// Copies of dead letters that came so far, where the queue gets them: requests and statuses.
    pub dead_letters: BTreeSet<(u64, String)>,
    /// Outcomes that came before their dead letters did.
    pub too_soon: Vec<u64>,
    /// Outcomes of nothing that was ever published, or not to be read.
    pub strange: Vec<String>,
    /// The same message delivered to this listener again, after its own connection was lost.
    pub delivered_again: u64,
}

pub struct Listener {
    queue: &'static str,
    heard: Arc<Mutex<Heard>>,
    listening: watch::Sender<bool>,
    over: CancellationToken,
    task: JoinHandle<()>,
}

impl Listener {
    /// Declares its queue before it returns: from then on no outcome passes by.
    pub async fn start(amqp: &Amqp, url: String, queue: &'static str, arguments: FieldTable) -> Self {
        amqp.declare_queue(queue, arguments).await;
        amqp.bind(queue, RESULTS, "unlock.#").await;
        let heard = Arc::<Mutex<Heard>>::default();
        let over = CancellationToken::new();
        let (listening, listens) = watch::channel(true);
        let work = Work { url, queue, heard: heard.clone(), listens, over: over.clone() };
        Self { queue, heard, listening, over, task: tokio::spawn(work.run()) }
    }

    /// Whether it takes what is in its queue.
    pub fn listen(&self, listens: bool) {
        self.listening.send_replace(listens);
    }

    pub fn queue(&self) -> &'static str {
        self.queue
    }

    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no panic holds it")
    }

    /// Requests that have an outcome.
    pub fn finished(&self) -> u64 {
        self.heard().outcomes.len() as u64
    }

    /// Messages not taken yet.
    pub async fn waiting(&self, amqp: &Amqp) -> u32 {
        amqp.ready_count(self.queue).await
    }

    pub async fn finish(&mut self) {
        self.over.cancel();
        if let Err(error) = (&mut self.task).await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

struct Work {
    url: String,
    queue: &'static str,
    heard: Arc<Mutex<Heard>>,
    listens: watch::Receiver<bool>,
    over: CancellationToken,
}

impl Work {
    async fn run(mut self) {
        let over = self.over.clone();
        // Where it is dropped half-way, what was noted and not acknowledged comes again.
        over.run_until_cancelled(async {
            while self.listens.wait_for(|listens| *listens).await.is_ok() {
                let Some(connection) = broker_line::connect(&self.url, &self.over).await else { return };
                let mut listens = self.listens.clone();
                tokio::select! {
                    _ = listens.wait_for(|listens| !*listens) => {}
                    ended = self.listen(&connection) => drop(ended),
                }
                drop(connection.close(200, "done".into()).await);
            }
        })
        .await;
    }

    async fn listen(&self, connection: &lapin::Connection) -> lapin::Result<()> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = channel.basic_consume(self.queue.into(), "".into(), options, none).await?;
        while let Some(delivery) = consumer.next().await {
            let delivery = delivery?;
            note(&delivery, &mut self.heard.lock().expect("no panic holds it"));
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }
}

fn note(delivery: &Delivery, heard: &mut Heard) {
    match delivery.exchange.as_str() {
        RESULTS => note_outcome(delivery, heard),
        DEAD => heard.dead_letters.extend(dead_letter(delivery)),
        // It filled the queue.
        _ => {}
    }
}

fn dead_letter(delivery: &Delivery) -> Option<(u64, String)> {
    let id = delivery.properties.message_id().as_ref()?;
    let status = delivery.properties.headers().as_ref()?.inner().get("unlocker-status")?;
    let status = status.as_long_string()?;
    Some((requests::number(id.as_str())?, status.to_string()))
}

fn note_outcome(delivery: &Delivery, heard: &mut Heard) {
    let Some((n, outcome)) = read(&delivery.data) else {
        heard.strange.push(String::from_utf8_lossy(&delivery.data).into_owned());
        return;
    };
    let outcomes = heard.outcomes.entry(n).or_default();
    if delivery.redelivered && outcomes.iter().any(|known| known.body == outcome.body) {
        heard.delivered_again += 1;
        return;
    }
    // Dead letters that cannot be read do not come here.
    let has_dead_letter = outcome.status != "unlocked" && n < requests::UNREADABLE_FROM;
    if has_dead_letter && !heard.dead_letters.contains(&(n, outcome.status.clone())) {
        heard.too_soon.push(n);
    }
    outcomes.push(outcome);
}

/// The request's number and its outcome.
pub fn read(body: &[u8]) -> Option<(u64, Outcome)> {
    let json: Value = serde_json::from_slice(body).ok()?;
    // What cannot be read is given an id, and known by its customer.
    let customer = json["request"]["customer_id"].as_str().and_then(requests::number);
    let n = requests::number(json["request_id"].as_str()?).or(customer)?;
    let outcome = Outcome {
        status: json["status"].as_str()?.to_owned(),
        reason: json["reason"].as_str().map(str::to_owned),
        finished_at: humantime::parse_rfc3339(json["finished_at"].as_str()?).ok()?,
        heard_at: SystemTime::now(),
        body: body.to_vec(),
    };
    Some((n, outcome))
}
