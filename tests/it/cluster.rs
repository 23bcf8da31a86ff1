//! A RabbitMQ of three nodes that loses the leader of every queue in turn.

mod history;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kit::{AMQPValue, Amqp, Answer, FieldTable, RabbitCluster, Trackfinity};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions},
};

use crate::world::{DEAD, EXCHANGE, REQUEST, REQUESTS, RESULTS, SOON, start_worker, text};

const OUTCOMES: &str = "test.outcomes";
/// A cluster that has just lost a node is slow.
const RECOVERED: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(600);

/// Publishes until `stop` is set, and connects to the next node when one is lost. Repeats each
/// request, under its id, until it is confirmed.
async fn publish(urls: Vec<String>, stop: Arc<AtomicBool>, confirmed: Arc<AtomicUsize>) {
    let (mut n, mut node, mut channel) = (0, 0, None::<(Connection, Channel)>);
    while !stop.load(Ordering::SeqCst) {
        let open = match channel.take() {
            Some(open) => Ok(open),
            None => open(&urls[node % urls.len()]).await,
        };
        let published = match open {
            Ok((connection, open)) => {
                let sent = tokio::time::timeout(Duration::from_secs(5), publish_one(&open, n)).await;
                matches!(sent, Ok(Ok(true))).then_some((connection, open))
            }
            Err(_) => None,
        };
        if published.is_some() {
            n += 1;
            confirmed.store(n, Ordering::SeqCst);
        } else {
            node += 1;
        }
        channel = published;
        // Limits the rate.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn open(url: &str) -> Result<(Connection, Channel), String> {
    let open = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok::<_, lapin::Error>((connection, channel))
    };
    match tokio::time::timeout(Duration::from_secs(5), open).await {
        Ok(opened) => opened.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

async fn publish_one(channel: &Channel, n: usize) -> lapin::Result<bool> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default().with_message_id(n.to_string().into()).with_delivery_mode(2);
    let body = format!(r#"{{"customer_id":{n}}}"#);
    let sent = channel.basic_publish(EXCHANGE.into(), REQUEST.into(), options, body.as_bytes(), properties);
    Ok(matches!(sent.await?.await?, Confirmation::Ack(None)))
}

/// One request of ten is refused, one fails once.
fn expected(n: usize) -> &'static str {
    if n % 10 == 1 { "refused" } else { "unlocked" }
}

fn trackfinity() -> Trackfinity {
    let failed = Mutex::new(BTreeSet::new());
    let trackfinity = Trackfinity::start(move |call| {
        let Some(n) = call.field("customer_id").and_then(|id| id.parse::<usize>().ok()) else {
            return Answer::json(200, "true");
        };
        match n % 10 {
            1 => Answer::status(400),
            2 if failed.lock().expect("no panic holds it").insert(n) => Answer::status(503),
            _ => Answer::unlocked(),
        }
    });
    trackfinity.record(false);
    trackfinity
}

/// The worker's queues and the leader of each, as a running node reports them.
async fn leaders(cluster: &RabbitCluster) -> Result<BTreeMap<String, String>, String> {
    let mut seen = Err("no node answers".to_owned());
    for node in cluster.nodes() {
        seen = node.management("/").get("/api/queues/%2F").await;
        if seen.is_ok() {
            break;
        }
    }
    let queues = seen?;
    let mut leaders = BTreeMap::new();
    for queue in queues.as_array().into_iter().flatten() {
        let online = queue["online"].as_array().map_or(0, Vec::len);
        if online != 3 {
            return Err(format!("{} has {online} members online", queue["name"]));
        }
        // RabbitMQ 3.10 has a stream's leader as its node.
        let leader = queue["leader"].as_str().filter(|leader| !leader.is_empty());
        let leader = leader.or_else(|| queue["node"].as_str().filter(|_| queue["type"] == "stream"));
        leaders.insert(text(&queue["name"]), leader.ok_or("a queue has no leader")?.to_owned());
    }
    Ok(leaders)
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}

/// The statuses of the outcomes of each request, by its id.
fn statuses(outcomes: &kit::Inbox) -> BTreeMap<String, BTreeSet<String>> {
    let mut statuses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for outcome in outcomes.all() {
        let outcome = outcome.json();
        statuses.entry(text(&outcome["request_id"])).or_default().insert(text(&outcome["status"]));
    }
    statuses
}

/// The ids of the dead letters.
fn ids(dead_letters: &kit::Inbox) -> BTreeSet<String> {
    dead_letters
        .all()
        .iter()
        .filter_map(|dead_letter| Some(dead_letter.properties.message_id().as_ref()?.to_string()))
        .collect()
}

#[test]
fn killing_the_leader_of_every_queue_in_turn_loses_nothing() {
    kit::run_within(LIMIT, async |ctx| {
        let cluster = RabbitCluster::start(3).await;
        let trackfinity = trackfinity();
        let urls = cluster.amqp_urls("/");
        let settings = [("RETRY__MAX_DELAY", "2s")];
        let worker = start_worker(&ctx, &urls.join(","), &trackfinity.url(), &settings).await;
        let amqp = Amqp::connect(&urls[0]).await;
        amqp.declare_queue(OUTCOMES, quorum()).await;
        let channel = amqp.channel().await;
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(OUTCOMES.into(), RESULTS.into(), "unlock.#".into(), options, none)
            .await
            .expect("bound");
        drop((channel, amqp));

        let (stop, confirmed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let publisher = tokio::spawn(publish(urls.clone(), stop.clone(), confirmed.clone()));
        let all = kit::eventually("three members each", RECOVERED, async || leaders(&cluster).await).await;
        let ours: Vec<_> = all.into_keys().filter(|queue| queue != OUTCOMES).collect();
        assert_eq!(ours.len(), 14);
        let begun = Instant::now();
        // One kill may hit the leaders of several queues. With UNLOCKER_TEST_EVERY_LEADER each
        // queue gets a kill of its own.
        let each = std::env::var_os("UNLOCKER_TEST_EVERY_LEADER").is_some();
        let (mut kills, mut leaderless) = (0, BTreeSet::new());
        for queue in &ours {
            if !each && leaderless.contains(queue) {
                continue;
            }
            let led =
                kit::eventually("three members each", RECOVERED, async || leaders(&cluster).await).await;
            let leader = cluster.node(&led[queue]);
            leaderless
                .extend(led.iter().filter(|(_, node)| **node == led[queue]).map(|(name, _)| name.clone()));
            kills += 1;
            let before = confirmed.load(Ordering::SeqCst);
            leader.kill().await;
            kit::eventually("requests are handled without it", RECOVERED, async || {
                confirmed.load(Ordering::SeqCst) > before + 20
            })
            .await;
            leader.restart().await;
        }
        assert!(ours.iter().all(|queue| leaderless.contains(queue)), "{leaderless:?}");
        kit::eventually("three members each", RECOVERED, async || leaders(&cluster).await).await;
        stop.store(true, Ordering::SeqCst);
        publisher.await.expect("the publisher");
        let published = confirmed.load(Ordering::SeqCst);

        let amqp = Amqp::connect(&urls[0]).await;
        let (outcomes, dead_letters) = (amqp.consume_queue(OUTCOMES).await, amqp.consume_queue(DEAD).await);
        let lost = || {
            let (statuses, dead_letters) = (statuses(&outcomes), ids(&dead_letters));
            let ended = |n: &usize| {
                let id = n.to_string();
                statuses.get(&id) == Some(&BTreeSet::from([expected(*n).to_owned()]))
                    && (expected(*n) != "refused" || dead_letters.contains(&id))
            };
            (0..published).filter(|n| !ended(n)).collect::<Vec<_>>()
        };
        kit::eventually("every request has ended as it should", Duration::from_secs(120), async || {
            let lost = lost();
            if lost.is_empty() { Ok(()) } else { Err(format!("{} have not: {lost:?}", lost.len())) }
        })
        .await;
        worker.signal(kit::Signal::TERM);
        assert!(worker.wait_exit(SOON).await.success());
        assert_eq!(amqp.ready_count(REQUESTS).await, 0);
        eprintln!(
            "{kills} leaders killed in {:.0?}, {published} requests, {} outcomes, lost {}",
            begun.elapsed(),
            outcomes.len(),
            lost().len()
        );
    });
}
