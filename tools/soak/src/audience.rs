//! Who listens for outcomes: a healthy listener, one whose queue is full for spells, and one whose queue does not
//! answer for spells.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kit::{AMQPValue, Amqp, FieldTable};
use lapin::ExchangeKind;
use lapin::options::{BasicPublishOptions, ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::broker_line;
use crate::listener::Listener;
use crate::names::DEAD;
use crate::recorder::Recorder;

/// Messages that the queue which is full for spells takes: more than come while its listener connects anew.
const MAX_LENGTH: u16 = 2_000;
const FILL_TIMEOUT: Duration = Duration::from_secs(10);
const READABLE: &str = "soak.dead.readable";
const HEALTHY: &str = "soak.outcomes";

pub struct Audience {
    pub healthy: Listener,
    full: Listener,
    stuck: Listener,
    urls: Vec<String>,
}

impl Audience {
    pub async fn start(urls: &[String], recorder: &Arc<Recorder>) -> Self {
        let amqp = Amqp::connect(&urls[0]).await;
        let integer = |value| AMQPValue::LongLongInt(value);
        let text = |value: &str| AMQPValue::LongString(value.into());
        // Each fault gives what was not acknowledged back, which counts as a delivery.
        let quorum = table(&[("x-queue-type", text("quorum")), ("x-delivery-limit", integer(1_000_000_000))]);
        // In a cluster a classic queue is away with its node, and what comes meanwhile never reaches it.
        let kind = if urls.len() > 1 { "quorum" } else { "classic" };
        let limited = table(&[
            ("x-queue-type", text(kind)),
            ("x-max-length", integer(MAX_LENGTH.into())),
            ("x-overflow", text("reject-publish")),
        ]);
        let start = async |queue, arguments, recorder| {
            Listener::start(&amqp, urls.to_vec(), queue, arguments, recorder).await
        };
        let audience = Self {
            healthy: start(HEALTHY, quorum.clone(), Some(recorder.clone())).await,
            full: start("soak.full", limited, None).await,
            stuck: start("soak.stuck", quorum, None).await,
            urls: urls.to_vec(),
        };
        bind_dead_letters(&amqp).await;
        audience
    }

    fn all(&self) -> [&Listener; 3] {
        [&self.healthy, &self.full, &self.stuck]
    }

    /// From now on one listener's queue refuses outcomes.
    pub async fn fill(&self) {
        self.full.listen(false);
        let fill = async {
            let connection = broker_line::connect(&self.urls, &CancellationToken::new()).await?;
            let channel = connection.create_channel().await.ok()?;
            for _ in 0..MAX_LENGTH {
                let options = BasicPublishOptions::default();
                let properties = kit::Properties::default();
                channel
                    .basic_publish("".into(), self.full.queue().into(), options, b"", properties)
                    .await
                    .ok()?;
            }
            connection.close(200, "done".into()).await.ok()
        };
        // If it does not get full, it refuses nothing.
        drop(timeout(FILL_TIMEOUT, fill).await);
    }

    /// Ends [`Audience::fill`].
    pub fn make_room(&self) {
        self.full.listen(true);
    }

    /// One listener's queue does not answer, until it is resumed.
    pub async fn suspend(&self, broker: &Broker, suspended: bool) -> Result<(), String> {
        // RabbitMQ's name of the queue's process: the virtual host, percent-encoded, and the queue.
        let process = format!("'%2F_{}'", self.stuck.queue());
        let call = if suspended { "suspend" } else { "resume" };
        for node in broker.nodes() {
            node.rabbitmqctl(&["eval", &format!("sys:{call}({process}).")]).await?;
        }
        Ok(())
    }

    /// Messages not taken yet.
    pub async fn waiting(&self, amqp: &Amqp) -> u64 {
        let mut waiting = 0;
        for listener in self.all() {
            waiting += u64::from(listener.waiting(amqp).await);
        }
        waiting
    }

    /// By the other listeners' queues, what the healthy one has heard and they have not.
    pub fn missed(&self, heard: &HashSet<u64>) -> Vec<(&'static str, Vec<u64>)> {
        let missed = |listener: &Listener| {
            let mut missed: Vec<_> = heard.difference(&listener.heard().requests).copied().collect();
            missed.sort_unstable();
            (listener.queue(), missed)
        };
        [&self.full, &self.stuck].map(missed).into()
    }

    pub async fn finish(&mut self) {
        for listener in [&mut self.healthy, &mut self.full, &mut self.stuck] {
            listener.finish().await;
        }
    }
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

/// Copies of dead letters come into the healthy listener's queue, too: its order shows whether each stood before its
/// outcome. Only of those that a client library can read: the others have one reason that readable ones never have.
async fn bind_dead_letters(amqp: &Amqp) {
    let channel = amqp.channel().await;
    let (options, none) =
        (ExchangeDeclareOptions { durable: true, ..Default::default() }, FieldTable::default());
    let declared =
        channel.exchange_declare(READABLE.into(), ExchangeKind::Headers, options, none.clone()).await;
    declared.expect("an exchange can be declared");
    let bound = channel
        .exchange_bind(READABLE.into(), DEAD.into(), "".into(), ExchangeBindOptions::default(), none)
        .await;
    bound.expect("the exchange of dead letters can be bound to");
    let readable = [
        &[("unlocker-status", "refused")][..],
        &[("unlocker-status", "abandoned")],
        &[("unlocker-status", "invalid"), ("unlocker-reason", "malformed")],
        &[("unlocker-status", "invalid"), ("unlocker-reason", "no_identifier")],
    ];
    for headers in readable {
        let all = [("x-match", "all")].iter().chain(headers);
        let entries: Vec<_> = all.map(|&(name, value)| (name, AMQPValue::LongString(value.into()))).collect();
        let (options, arguments) = (QueueBindOptions::default(), table(&entries));
        let bound = channel.queue_bind(HEALTHY.into(), READABLE.into(), "".into(), options, arguments).await;
        bound.expect("an exchange can be bound to");
    }
}
