//! From the publishing of a request to its outcome, at a steady rate.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use crate::api::Api;
use crate::figures::percentile;
use crate::run::Contender;
use crate::site::{EXCHANGE, Queues, RESULTS, request};

const INTERVAL: Duration = Duration::from_millis(5);
const LASTING: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(30);

/// Milliseconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

/// 200 requests per second for ten seconds, after a warm-up of two seconds.
pub async fn measure(contender: &Contender, queues: &Queues, api: &Api) -> Latency {
    queues.purge().await;
    let process = contender.start(queues, api);
    let mut outcomes = listen(queues).await;
    let publishing = queues.amqp().channel().await;
    let count = ((WARM_UP + LASTING).as_micros() / INTERVAL.as_micros()) as usize;
    let mut ticks = tokio::time::interval(INTERVAL);
    let (mut sent, mut heard) = (HashMap::new(), HashMap::new());
    let begun = Instant::now();
    while heard.len() < count {
        tokio::select! {
            _ = ticks.tick(), if sent.len() < count => {
                let (properties, body) = request(sent.len());
                let options = BasicPublishOptions::default();
                sent.insert(format!("request-{}", sent.len()), Instant::now());
                let publish = publishing.basic_publish(EXCHANGE.into(), "request".into(), options, &body, properties);
                // Not in confirm mode: nothing to wait for.
                drop(publish.await.expect("published"));
            }
            outcome = outcomes.next() => {
                let outcome = outcome.expect("the queue lives").expect("an outcome");
                let id = outcome.properties.message_id().clone().expect("an id");
                let id = id.as_str().split('/').next().unwrap_or_default().to_owned();
                heard.insert(id, Instant::now());
            }
        }
        assert!(begun.elapsed() < LIMIT, "{}: {} of {count} outcomes", contender.name, heard.len());
    }
    process.kill9();
    let first = begun + WARM_UP;
    let counted = sent.iter().filter(|(_, at)| **at >= first);
    let mut took: Vec<f64> = counted.map(|(id, at)| (heard[id] - *at).as_secs_f64() * 1000.0).collect();
    took.sort_by(f64::total_cmp);
    Latency { p50: percentile(&took, 0.5), p99: percentile(&took, 0.99) }
}

/// How long a process takes from its start to its first outcome, if a request is waiting.
pub async fn first_outcome(contender: &Contender, queues: &Queues, api: &Api) -> Duration {
    queues.purge().await;
    let mut outcomes = listen(queues).await;
    queues.fill(0, 1).await;
    let begun = Instant::now();
    let process = contender.start(queues, api);
    let outcome = tokio::time::timeout(LIMIT, outcomes.next()).await.expect("in time");
    let took = begun.elapsed();
    assert!(outcome.is_some_and(|outcome| outcome.is_ok()));
    process.kill9();
    took
}

/// The share of one core that a process takes while there is nothing to do.
pub async fn idle_cpu(contender: &Contender, queues: &Queues, api: &Api) -> f64 {
    queues.purge().await;
    let process = contender.start(queues, api);
    let mut outcomes = listen(queues).await;
    queues.fill(0, 1).await;
    tokio::time::timeout(LIMIT, outcomes.next()).await.expect("in time");
    tokio::time::sleep(WARM_UP).await;
    let (begun, before) = (Instant::now(), process.cpu_time());
    tokio::time::sleep(LASTING * 2).await;
    let share = (process.cpu_time() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    process.kill9();
    share
}

async fn listen(queues: &Queues) -> lapin::Consumer {
    let channel = queues.amqp().channel().await;
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let none = FieldTable::default;
    let queue = channel.queue_declare("".into(), options, none()).await.expect("a queue").name().clone();
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.clone(), RESULTS.into(), "unlock.#".into(), options, none())
        .await
        .expect("bound");
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    channel.basic_consume(queue, "".into(), options, none()).await.expect("a consumer")
}
