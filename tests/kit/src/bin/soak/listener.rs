//! Takes all outcomes out of a durable queue of its own, and comes back after each fault.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use futures_util::StreamExt;
use kit::{AMQPValue, Amqp, FieldTable};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker_line;
use crate::names::RESULTS;
use crate::requests;

const QUEUE: &str = "soak.outcomes";
const PREFETCH: u16 = 500;

#[derive(Clone, Debug)]
pub struct Outcome {
    pub status: String,
    pub reason: Option<String>,
    pub finished_at: SystemTime,
    body: Vec<u8>,
}

#[derive(Default)]
pub struct Heard {
    /// By the request's number, as they came.
    pub outcomes: BTreeMap<u64, Vec<Outcome>>,
    /// Outcomes of nothing that was ever published, or not to be read.
    pub strange: Vec<String>,
    /// The same message delivered to this listener again, after its own connection was lost.
    pub delivered_again: u64,
}

pub struct Listener {
    heard: Arc<Mutex<Heard>>,
    over: CancellationToken,
    task: JoinHandle<()>,
}

impl Listener {
    /// Declares its queue before it returns: from then on no outcome passes by.
    pub async fn start(url: String) -> Self {
        declare(&url).await;
        let heard = Arc::<Mutex<Heard>>::default();
        let over = CancellationToken::new();
        let (noted, stop) = (heard.clone(), over.clone());
        let task = tokio::spawn(async move {
            while let Some(connection) = broker_line::connect(&url, &stop).await {
                tokio::select! {
                    () = stop.cancelled() => {}
                    ended = listen(&connection, &noted) => drop(ended),
                }
            }
        });
        Self { heard, over, task }
    }

    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no panic holds it")
    }

    /// Requests that have an outcome.
    pub fn finished(&self) -> u64 {
        self.heard().outcomes.len() as u64
    }

    /// Outcomes not taken yet.
    pub async fn waiting(amqp: &Amqp) -> u32 {
        amqp.ready_count(QUEUE).await
    }

    pub async fn finish(&mut self) {
        self.over.cancel();
        if let Err(error) = (&mut self.task).await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

async fn declare(url: &str) {
    let amqp = Amqp::connect(url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // Each fault gives what was not acknowledged back, which counts as a delivery.
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1_000_000_000));
    amqp.declare_queue(QUEUE, arguments).await;
    let channel = amqp.channel().await;
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    let bound = channel.queue_bind(QUEUE.into(), RESULTS.into(), "unlock.#".into(), options, none).await;
    bound.expect("the results exchange can be bound to");
    amqp.close().await;
}

async fn listen(connection: &lapin::Connection, heard: &Mutex<Heard>) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = channel.basic_consume(QUEUE.into(), "".into(), options, none).await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        note(&delivery, &mut heard.lock().expect("no panic holds it"));
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

fn note(delivery: &Delivery, heard: &mut Heard) {
    let Some((n, outcome)) = read(&delivery.data) else {
        heard.strange.push(String::from_utf8_lossy(&delivery.data).into_owned());
        return;
    };
    let outcomes = heard.outcomes.entry(n).or_default();
    if delivery.redelivered && outcomes.iter().any(|known| known.body == outcome.body) {
        heard.delivered_again += 1;
    } else {
        outcomes.push(outcome);
    }
}

fn read(body: &[u8]) -> Option<(u64, Outcome)> {
    let json: Value = serde_json::from_slice(body).ok()?;
    let n = requests::number(json["request_id"].as_str()?)?;
    let outcome = Outcome {
        status: json["status"].as_str()?.to_owned(),
        reason: json["reason"].as_str().map(str::to_owned),
        finished_at: humantime::parse_rfc3339(json["finished_at"].as_str()?).ok()?,
        body: body.to_vec(),
    };
    Some((n, outcome))
}
