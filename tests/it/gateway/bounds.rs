//! Clients that take as much as they can, and one that only wants to be served.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kit::Answer;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::world::{Gateway, json};
use crate::{
    console::http::Request,
    world::{REQUESTS, SOON, World, start_worker},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// More than the gateway allows.
const STRANGERS: usize = 600;
const MAX_CONNECTIONS: f64 = 512.0;

/// Opens connections that send this and then nothing.
async fn strangers(gateway: &Gateway, sent: &str) -> Vec<TcpStream> {
    let open = (0..STRANGERS).map(async |_| {
        let mut stream = TcpStream::connect(&gateway.address).await.expect("connected");
        stream.write_all(sent.as_bytes()).await.expect("sent");
        stream
    });
    let open = join_all(open).await;
    kit::eventually("all connections are in use", SOON, async || {
        match gateway.metric("unlocker_gateway_connections").await {
            Some(MAX_CONNECTIONS) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    open
}

/// A gateway with one client, and the directory of its clients.
async fn guarded_gateway(world: &World) -> (Gateway, TempDir) {
    let clients = tempfile::tempdir().expect("a directory");
    let secrets = format!("{TOKEN}\nwhsec_YSBzaWduaW5nIHNlY3JldCBvZiB0aGUgc2hvcCwgMDAx\n");
    std::fs::write(clients.path().join("shop"), secrets).expect("written");
    let path = clients.path().to_str().expect("UTF-8");
    let settings = [("GATEWAY__CLIENTS_DIR", path)];
    (Gateway::start(&world.ctx, world.ctx.amqp_url(), &settings).await, clients)
}

fn seconds_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

async fn is_served_at_once(gateway: &Gateway) {
    for _request in 0..10 {
        let request = json(r#"{"customer_id":191}"#).header("authorization", &format!("Bearer {TOKEN}"));
        let begun = Instant::now();
        let answer = gateway.post(request).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

#[test]
fn six_hundred_strangers_with_half_a_head_or_half_a_body_keep_nobody_out() {
    kit::raise_descriptor_limit(4096);
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let (gateway, _clients) = guarded_gateway(&world).await;

        let half_a_head = "POST /v1/unlocks HTTP/1.1\r\nhost: localhost\r\ncontent-type: appl";
        let open = strangers(&gateway, half_a_head).await;
        is_served_at_once(&gateway).await;
        drop(open);

        let half_a_body = format!(
            "POST /v1/unlocks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nwebhook-id: w-1\r\n\
             webhook-timestamp: {}\r\nwebhook-signature: v1,AAAA\r\ncontent-length: 40\r\n\r\n{{\"customer_id\":",
            seconds_now()
        );
        let open = strangers(&gateway, &half_a_body).await;
        is_served_at_once(&gateway).await;
        drop(open);
    });
}

#[test]
fn strangers_whose_batches_never_come_keep_no_known_batch_out() {
    /// As many as are taken at once.
    const STRANGERS: usize = 8;
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let (gateway, _clients) = guarded_gateway(&world).await;
        // The server answers 100 when it begins to read the body: then it has its place.
        let head = format!(
            "POST /v1/unlocks HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/x-ndjson\r\nwebhook-id: w\r\n\
             webhook-timestamp: {}\r\nwebhook-signature: v1,AAAA\r\nexpect: 100-continue\r\ncontent-length: 40\r\n\r\n",
            seconds_now()
        );
        let strangers = join_all((0..STRANGERS).map(async |_| {
            let mut stream = TcpStream::connect(&gateway.address).await.expect("connected");
            stream.write_all(head.as_bytes()).await.expect("sent");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 100");
            stream
        }))
        .await;
        let begun = Instant::now();
        let batch = Request::new("POST", "/v1/unlocks")
            .body("application/x-ndjson", "{\"customer_id\":191}\n")
            .header("authorization", &format!("Bearer {TOKEN}"));
        assert_eq!(gateway.post(batch).await.status, 200);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        drop(strangers);
    });
}

#[test]
fn ten_thousand_requests_that_wait_all_get_their_outcomes_and_leave_no_memory() {
    const BATCHES: usize = 10;
    const LINES: usize = 1000;
    const ROUNDS: usize = 3;
    /// What allocators keep varies by this much, in MiB.
    const TOLERANCE: f64 = 8.0;
    kit::run_within(SOON * 4, async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.stop().await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[("GATEWAY__MAX_WAIT", "50s")]).await;
        let lines: String = (0..LINES).map(|n| format!("{{\"customer_id\":{n}}}\n")).collect();
        let batch = || {
            Request::new("POST", "/v1/unlocks")
                .body("application/x-ndjson", lines.as_str())
                .header("prefer", "wait=50")
        };
        let mut memory = Vec::new();
        for _round in 0..ROUNDS {
            let answers = join_all((0..BATCHES).map(|_| gateway.post(batch())));
            let start = async {
                kit::eventually("all requests are published and wait", SOON, async || {
                    let published = world.amqp.ready_count(REQUESTS).await as usize;
                    let waiting = gateway.metric("unlocker_gateway_waiters").await;
                    match published == BATCHES * LINES && waiting == Some((BATCHES * LINES) as f64) {
                        true => Ok(()),
                        false => Err(format!("{published} published, {waiting:?} wait")),
                    }
                })
                .await;
                start_worker(&world.ctx, world.ctx.amqp_url(), &world.trackfinity.url(), &[]).await
            };
            let (answers, worker) = tokio::join!(answers, start);
            for answer in answers {
                let results: Vec<Value> =
                    answer.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
                assert_eq!(results.len(), LINES, "{answer:?}");
                for (n, result) in results.iter().enumerate() {
                    assert_eq!(result["outcome"]["request"]["customer_id"], n.to_string(), "{result}");
                }
            }
            assert_eq!(gateway.metric("unlocker_gateway_waiters").await, Some(0.0));
            worker.signal(kit::Signal::TERM);
            assert!(worker.wait_exit(SOON).await.success());
            memory.push(gateway.process.rss() as f64 / 1024.0 / 1024.0);
        }
        let (first, last) = (memory[0], memory[ROUNDS - 1]);
        assert!(last < first + TOLERANCE, "MiB after each round: {memory:?}");
    });
}
