//! Takes all outcomes out of a durable queue of its own, and comes back after each fault.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use kit::{Amqp, FieldTable};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::broker_line;
use crate::checker::{Outcome, What};
use crate::names::{DEAD, RESULTS};
use crate::recorder::Recorder;
use crate::requests;

const PREFETCH: u16 = 500;
/// After this long without a message it connects anew: a node that restarts may answer nothing, and a queue may have
/// forgotten its consumer.
const STALLED_AFTER: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct Heard {
    /// Requests whose outcome it has got.
    pub requests: HashSet<u64>,
    /// Outcomes that are not as the contract has them, or of no request of the soak's.
    pub strange: Vec<String>,
    /// The same message delivered to this listener again, after its own connection was lost.
    pub delivered_again: usize,
}

pub struct Listener {
    queue: &'static str,
    heard: Arc<Mutex<Heard>>,
    listening: watch::Sender<bool>,
    over: CancellationToken,
    task: JoinHandle<()>,
}

impl Listener {
    /// Declares its queue before it returns: from then on no outcome passes by. With a `recorder` it records what it
    /// hears.
    pub async fn start(
        amqp: &Amqp,
        urls: Vec<String>,
        queue: &'static str,
        arguments: FieldTable,
        recorder: Option<Arc<Recorder>>,
    ) -> Self {
        amqp.declare_queue(queue, arguments).await;
        amqp.bind(queue, RESULTS, "unlock.#").await;
        let heard = Arc::<Mutex<Heard>>::default();
        let over = CancellationToken::new();
        let (listening, listens) = watch::channel(true);
        let work = Work { urls, queue, heard: heard.clone(), recorder, listens, over: over.clone() };
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
    urls: Vec<String>,
    queue: &'static str,
    heard: Arc<Mutex<Heard>>,
    recorder: Option<Arc<Recorder>>,
    listens: watch::Receiver<bool>,
    over: CancellationToken,
}

impl Work {
    async fn run(mut self) {
        let over = self.over.clone();
        // Where it is dropped half-way, what was noted and not acknowledged comes again.
        over.run_until_cancelled(async {
            while self.listens.wait_for(|listens| *listens).await.is_ok() {
                let Some(connection) = broker_line::connect(&self.urls, &self.over).await else { return };
                let mut listens = self.listens.clone();
                tokio::select! {
                    _ = listens.wait_for(|listens| !*listens) => {}
                    _ended = self.listen(&connection) => {}
                }
                drop(timeout(STALLED_AFTER, connection.close(200, "done".into())).await);
            }
        })
        .await;
    }

    /// Until the connection ends or no more messages come; the result says nothing.
    async fn listen(&self, connection: &lapin::Connection) -> Option<()> {
        let consume = async {
            let channel = connection.create_channel().await?;
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            channel.basic_consume(self.queue.into(), "".into(), options, none).await
        };
        let mut consumer = timeout(STALLED_AFTER, consume).await.ok()?.ok()?;
        while let Ok(Some(Ok(delivery))) = timeout(STALLED_AFTER, consumer.next()).await {
            self.note(&delivery);
            // Where RabbitMQ closes the connection meanwhile, lapin may never say that it was written.
            timeout(STALLED_AFTER, delivery.ack(BasicAckOptions::default())).await.ok()?.ok()?;
        }
        None
    }

    fn note(&self, delivery: &Delivery) {
        match delivery.exchange.as_str() {
            RESULTS => self.note_outcome(delivery),
            DEAD => {
                if let (Some(recorder), Some((n, status))) = (&self.recorder, dead_letter(delivery)) {
                    recorder.record(n, What::DeadLetter(status));
                }
            }
            // It filled the queue.
            _ => {}
        }
    }

    fn note_outcome(&self, delivery: &Delivery) {
        let mut heard = self.heard.lock().expect("no panic holds it");
        let message_id = delivery.properties.message_id().as_ref().map(|id| id.as_str());
        let Some((n, outcome)) = read(message_id, &delivery.data) else {
            heard.strange.push(String::from_utf8_lossy(&delivery.data).into_owned());
            return;
        };
        heard.requests.insert(n);
        let Some(recorder) = &self.recorder else { return };
        if delivery.redelivered && recorder.has_heard(n, outcome.digest) {
            heard.delivered_again += 1;
        } else {
            recorder.record(n, What::Heard(Box::new(outcome)));
        }
    }
}

fn dead_letter(delivery: &Delivery) -> Option<(u64, String)> {
    let id = delivery.properties.message_id().as_ref()?;
    let status = delivery.properties.headers().as_ref()?.inner().get("unlocker-status")?;
    let status = status.as_long_string()?;
    Some((requests::number(id.as_str())?, status.to_string()))
}

/// The request's number and its outcome.
pub fn read(message_id: Option<&str>, body: &[u8]) -> Option<(u64, Outcome)> {
    let outcome = Outcome::read(message_id, body)?;
    // What cannot be read is given an id, and known by its customer.
    let customer = || {
        let request: Value = serde_json::from_str(outcome.request.as_deref()?).ok()?;
        requests::number(request["customer_id"].as_str()?)
    };
    let n = requests::number(&outcome.request_id).or_else(customer)?;
    Some((n, outcome))
}
