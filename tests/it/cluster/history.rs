//! The history, when its stream loses its leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kit::{Context, Program, RabbitCluster};
use serde_json::Value;

use super::{LIMIT, RECOVERED, expected, leaders, publish, trackfinity};
use crate::world::{SOON, start_worker, text};

const STREAM: &str = "trackfinity.unlock.history";
/// How soon after the kill a search must find all: RabbitMQ needs some seconds for a new leader.
const SEARCHES_WITHIN: Duration = Duration::from_secs(20);
/// How many requests have their outcomes before the kill, at least.
const FIRST: usize = 50;

/// The statuses in the history by request id, as `unlocker history` finds them.
async fn search(ctx: &Context, urls: &str) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let program = Program::new(env!("CARGO_BIN_EXE_unlocker"))
        .env("UNLOCKER__BROKER__URL", urls)
        .args(["history", "--json", "--limit", "1000000"]);
    let process = ctx.start(&program);
    let status = process.wait_exit(SOON * 3).await;
    if !status.success() {
        return Err(process.stderr().join("\n"));
    }
    let mut statuses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in process.stdout() {
        let outcome: Value = serde_json::from_str(&line).expect("JSON");
        statuses.entry(text(&outcome["request_id"])).or_default().insert(text(&outcome["status"]));
    }
    Ok(statuses)
}

/// Requests of the first `count` that have not ended in the history as they should.
fn missing(found: &BTreeMap<String, BTreeSet<String>>, count: usize) -> Vec<usize> {
    let is_there = |n: &usize| found.get(&n.to_string()) == Some(&BTreeSet::from([expected(*n).to_owned()]));
    (0..count).filter(|n| !is_there(n)).collect()
}

#[test]
fn killing_the_leader_of_the_history_loses_no_outcome_and_searches_go_on() {
    kit::run_within(LIMIT, async |ctx| {
        let cluster = RabbitCluster::start(3).await;
        let (trackfinity, urls) = (trackfinity(), cluster.amqp_urls("/"));
        let settings = [("RETRY__MAX_DELAY", "2s"), ("HISTORY__ENABLED", "true")];
        let _worker = start_worker(&ctx, &urls.join(","), &trackfinity.url(), &settings).await;
        let (stop, confirmed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let publisher = tokio::spawn(publish(urls.clone(), stop.clone(), confirmed.clone()));
        let led = kit::eventually("three members each", RECOVERED, async || leaders(&cluster).await).await;
        let published = || confirmed.load(Ordering::SeqCst);
        let urls = urls.join(",");
        let all_found = async |count: usize| match missing(&search(&ctx, &urls).await?, count) {
            missing if missing.is_empty() => Ok(()),
            missing => Err(format!("{} are missing: {missing:?}", missing.len())),
        };
        kit::eventually("outcomes flow", RECOVERED, async || all_found(FIRST).await).await;
        let (before, begun) = (published(), Instant::now());
        cluster.node(&led[STREAM]).kill().await;
        kit::eventually("a search finds what there was", SEARCHES_WITHIN, async || all_found(FIRST).await)
            .await;
        let searched = begun.elapsed();
        kit::eventually("requests flow without it", RECOVERED, async || published() > before + 50).await;
        stop.store(true, Ordering::SeqCst);
        publisher.await.expect("the publisher");
        kit::eventually("every request has its outcome in the history", RECOVERED, async || {
            all_found(published()).await
        })
        .await;
        eprintln!("searched {searched:.1?} after the kill; {} requests, lost 0", published());
    });
}
