//! Clients that take as much as they can, and one that only wants to be served.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kit::Answer;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::world::{Gateway, json};
use crate::{
    admin::http::Request,
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
        let clients = tempfile::tempdir().expect("a directory");
        let secrets = format!("{TOKEN}\nwhsec_YSBzaWduaW5nIHNlY3JldCBvZiB0aGUgc2hvcCwgMDAx\n");
        std::fs::write(clients.path().join("shop"), secrets).expect("written");
        let path = clients.path().to_str().expect("UTF-8");
        let gateway =
            Gateway::start(&world.ctx, world.ctx.amqp_url(), &[("GATEWAY__CLIENTS_DIR", path)]).await;

        let half_a_head = "POST /v1/unlocks HTTP/1.1\r\nhost: gateway\r\ncontent-type: appl";
        let open = strangers(&gateway, half_a_head).await;
        is_served_at_once(&gateway).await;
        drop(open);

        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let half_a_body = format!(
            "POST /v1/unlocks HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\nwebhook-id: w-1\r\n\
             webhook-timestamp: {}\r\nwebhook-signature: v1,AAAA\r\ncontent-length: 40\r\n\r\n{{\"customer_id\":",
            now.as_secs()
        );
        let open = strangers(&gateway, &half_a_body).await;
        is_served_at_once(&gateway).await;
        drop(open);
    });
}

#[test]
fn batches_that_wait_for_outcomes_keep_no_others_from_being_taken() {
    const BATCHES: usize = 20;
    const LINES: usize = 100;
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.stop().await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[]).await;
        let lines: String = (0..LINES).map(|n| format!("{{\"customer_id\":{n}}}\n")).collect();
        let batch = || {
            Request::new("POST", "/v1/unlocks")
                .body("application/x-ndjson", lines.as_str())
                .header("prefer", "wait=25")
        };
        let answers = join_all((0..BATCHES).map(|_| gateway.post(batch())));
        let start = async {
            kit::eventually("all requests are published", SOON, async || {
                match world.amqp.ready_count(REQUESTS).await as usize {
                    count if count == BATCHES * LINES => Ok(()),
                    count => Err(count),
                }
            })
            .await;
            assert_eq!(gateway.metric("unlocker_gateway_waiters").await, Some((BATCHES * LINES) as f64));
            start_worker(&world.ctx, world.ctx.amqp_url(), &world.trackfinity.url(), &[]).await
        };
        let (answers, _worker) = tokio::join!(answers, start);
        for answer in answers {
            let results: Vec<Value> =
                answer.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            assert_eq!(results.len(), LINES, "{answer:?}");
            for (n, result) in results.iter().enumerate() {
                assert_eq!(result["outcome"]["request"]["customer_id"], n.to_string(), "{result}");
            }
        }
        assert_eq!(gateway.metric("unlocker_gateway_waiters").await, Some(0.0));
    });
}
