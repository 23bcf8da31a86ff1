//! Several workers on one queue.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kit::{Answer, Context, Process, Trackfinity};

use crate::world::{EXCHANGE, REQUEST, REQUESTS, RESULTS, SOON, requests, start_worker, text};

const REQUEST_COUNT: usize = 2_000;

/// Starts `count` workers, each with its own Trackfinity, to tell them apart.
async fn start(ctx: &Context, count: usize) -> Vec<(Process, Trackfinity)> {
    let mut workers = Vec::new();
    for _ in 0..count {
        let trackfinity = Trackfinity::start(|_| Answer::unlocked().after(Duration::from_millis(20)));
        trackfinity.record(false);
        let settings = [("WORKER__CONCURRENCY", "16")];
        let worker = start_worker(ctx, ctx.amqp_url(), &trackfinity.url(), &settings).await;
        workers.push((worker, trackfinity));
    }
    workers
}

async fn share_the_work(ctx: Context, count: usize) {
    let workers = start(&ctx, count).await;
    let amqp = ctx.amqp().await;
    let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
    amqp.publish_all(EXCHANGE, REQUEST, requests(REQUEST_COUNT)).await;
    outcomes.wait_count(REQUEST_COUNT, Duration::from_secs(60)).await;
    let shares: Vec<_> = workers.iter().map(|(_, trackfinity)| trackfinity.count()).collect();
    eprintln!("{count} workers: {shares:?}");
    assert_eq!(shares.iter().sum::<u64>(), REQUEST_COUNT as u64, "each request is called for once");
    let fair = REQUEST_COUNT as u64 / count as u64;
    assert!(shares.iter().all(|share| *share > fair / 2), "{shares:?}");
    for (worker, _) in &workers {
        worker.signal(kit::Signal::TERM);
        assert!(worker.wait_exit(SOON).await.success());
    }
    assert_eq!(outcomes.len(), REQUEST_COUNT, "each request has one outcome");
}

#[test]
fn two_workers_share_the_work() {
    kit::run_within(Duration::from_secs(120), async |ctx| share_the_work(ctx, 2).await);
}

#[test]
fn four_workers_share_the_work() {
    kit::run_within(Duration::from_secs(120), async |ctx| share_the_work(ctx, 4).await);
}

#[test]
fn losing_one_worker_of_four_loses_nothing() {
    kit::run_within(Duration::from_secs(120), async |ctx| {
        let workers = start(&ctx, 4).await;
        let amqp = ctx.amqp().await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        let publishing = ctx.amqp().await;
        let lose = async {
            outcomes.wait_count(REQUEST_COUNT / 4, Duration::from_secs(60)).await;
            workers[0].0.kill9();
            workers[0].0.wait_exit(SOON).await;
        };
        tokio::join!(publishing.publish_all(EXCHANGE, REQUEST, requests(REQUEST_COUNT)), lose);
        kit::eventually("every request has an outcome", Duration::from_secs(60), async || {
            let ended: BTreeSet<_> =
                outcomes.all().iter().map(|outcome| text(&outcome.json()["request_id"])).collect();
            if ended.len() == REQUEST_COUNT { Ok(()) } else { Err(format!("{} have one", ended.len())) }
        })
        .await;
        for (worker, _) in &workers[1..] {
            worker.signal(kit::Signal::TERM);
            assert!(worker.wait_exit(SOON).await.success());
        }
        assert_eq!(amqp.ready_count(REQUESTS).await, 0);
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for outcome in outcomes.all() {
            *times.entry(text(&outcome.json()["request_id"])).or_default() += 1;
        }
        let repeated = times.values().filter(|count| **count > 1).count();
        eprintln!("4 workers, 1 killed, {REQUEST_COUNT} requests: lost 0, {repeated} outcomes repeated");
        assert!(repeated <= 16, "{repeated}: more than one worker had in flight");
    });
}
