//! Publishes requests at a steady rate, each until it is confirmed, whatever the broker goes through.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::broker_line;
use crate::checker::What;
use crate::names::{EXCHANGE, REQUEST_KEY};
use crate::recorder::Recorder;
use crate::requests;

/// Longer than any fault lasts.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(25);
const TICK: Duration = Duration::from_millis(10);
/// How soon what was nacked is published again: a policy may limit the queue.
const AFTER_NACK: Duration = Duration::from_millis(200);

/// What became of the requests on their way into the broker.
#[derive(Default)]
struct Books {
    /// So many numbers were given out, from 0.
    due: u64,
    unsent: VecDeque<u64>,
    unconfirmed: BTreeSet<u64>,
}

pub struct Publisher {
    books: Arc<Mutex<Books>>,
    flow: CancellationToken,
    over: CancellationToken,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Publishes `rate` requests per second from now on, but for those that go `over_gateway`.
    pub fn start(
        urls: Vec<String>,
        seed: u64,
        rate: f64,
        recorder: Arc<Recorder>,
        over_gateway: UnboundedSender<u64>,
    ) -> Self {
        let books = Arc::<Mutex<Books>>::default();
        let (flow, over) = (CancellationToken::new(), CancellationToken::new());
        let (noted, flows, ends) = (books.clone(), flow.clone(), over.clone());
        let work = Work { urls, seed, rate, books: noted, recorder, over_gateway, flow: flows, over: ends };
        Self { books, flow, over, task: tokio::spawn(work.run()) }
    }

    /// Whether the broker has all that was to be published.
    fn is_done(&self) -> bool {
        let books = self.books();
        books.unconfirmed.is_empty() && books.unsent.is_empty()
    }

    /// Begins no new request, and waits until all are confirmed, for so long at most.
    pub async fn finish(&mut self, limit: Duration) {
        self.flow.cancel();
        let until = Instant::now() + limit;
        while !self.is_done() && Instant::now() < until {
            sleep(TICK).await;
        }
        self.over.cancel();
        if let Err(error) = (&mut self.task).await {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no panic holds the books")
    }
}

struct Work {
    urls: Vec<String>,
    seed: u64,
    rate: f64,
    books: Arc<Mutex<Books>>,
    recorder: Arc<Recorder>,
    over_gateway: UnboundedSender<u64>,
    flow: CancellationToken,
    over: CancellationToken,
}

impl Work {
    async fn run(self) {
        let clock = async {
            let begun = Instant::now();
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while !self.flow.is_cancelled() {
                ticks.tick().await;
                if self.flow.is_cancelled() {
                    break;
                }
                let due = (begun.elapsed().as_secs_f64() * self.rate) as u64;
                let mut books = self.books();
                for n in books.due..due {
                    if !requests::goes_over_gateway(self.seed, n) {
                        books.unsent.push_back(n);
                    } else if self.over_gateway.send(n).is_err() {
                        break;
                    }
                }
                books.due = due.max(books.due);
            }
        };
        let publish = async {
            while let Some(connection) = broker_line::connect(&self.urls, &self.over).await {
                // lapin may never say that RabbitMQ closed the connection meanwhile.
                let opened = timeout(CONFIRMED_WITHIN, async {
                    let channel = connection.create_channel().await?;
                    channel.confirm_select(ConfirmSelectOptions::default()).await?;
                    Ok::<_, lapin::Error>(channel)
                });
                if let Ok(Ok(channel)) = opened.await {
                    self.session(&channel).await;
                }
                if self.over.is_cancelled() {
                    break;
                }
            }
        };
        tokio::join!(clock, publish);
    }

    /// Until the line fails, or everything is done.
    async fn session(&self, channel: &Channel) {
        let again: Vec<u64> = self.books().unconfirmed.iter().copied().collect();
        let mut under_way: FuturesUnordered<_> =
            again.into_iter().map(|n| self.publish(channel, n)).collect();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = self.over.cancelled() => return,
                Some((n, confirmed)) = under_way.next(), if !under_way.is_empty() => {
                    if !confirmed {
                        return;
                    }
                    self.recorder.record(n, What::Accepted);
                    self.books().unconfirmed.remove(&n);
                }
                _ = ticks.tick() => {
                    let mut books = self.books();
                    let new: Vec<_> = books.unsent.drain(..).collect();
                    books.unconfirmed.extend(&new);
                    drop(books);
                    under_way.extend(new.into_iter().map(|n| self.publish(channel, n)));
                }
            }
        }
    }

    /// Whether it was confirmed, and reached a queue.
    async fn publish(&self, channel: &Channel, n: u64) -> (u64, bool) {
        let publish = async {
            loop {
                let (properties, body) = requests::message(self.seed, n);
                let options = BasicPublishOptions { mandatory: true, ..Default::default() };
                self.recorder.record(n, What::Sent);
                let sent =
                    channel.basic_publish(EXCHANGE.into(), REQUEST_KEY.into(), options, &body, properties);
                match sent.await?.await? {
                    Confirmation::Nack(_) => sleep(AFTER_NACK).await,
                    other => return Ok::<_, lapin::Error>(other),
                }
            }
        };
        let confirmation = timeout(CONFIRMED_WITHIN, publish).await;
        (n, matches!(confirmation, Ok(Ok(Confirmation::Ack(None)))))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no panic holds the books")
    }
}
