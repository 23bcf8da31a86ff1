//! Two gateways and two workers behind a plain TCP balancer.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use kit::{Answer, Context, FieldTable, Trackfinity};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use super::{
    connection::{Connection, request},
    world::Gateway,
};
use crate::world::{REQUESTS, RESULTS, start_worker};

const LEDGER: &str = "ledger";
const CLIENTS: usize = 16;
/// A client opens another connection after this many requests.
const REQUESTS_PER_CONNECTION: usize = 25;
/// The whole number takes minutes: it is given by `UNLOCKER_TEST_GATEWAY_REQUESTS`.
const DEFAULT_COUNT: usize = 2_000;

/// Hands each connection to any of the targets. Returns its address.
async fn balance(ctx: &Context, targets: Vec<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    ctx.spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.expect("a connection");
            let target = targets[fastrand::usize(..targets.len())].clone();
            tokio::spawn(async move {
                let mut gateway = TcpStream::connect(target).await.expect("a gateway");
                tokio::io::copy_bidirectional(&mut client, &mut gateway).await.ok();
            });
        }
    });
    address
}

/// An outcome without the times, which differ when a request was delivered twice.
fn essence(outcome: &Value) -> Value {
    let mut outcome = outcome.clone();
    for time in ["first_received_at", "finished_at"] {
        outcome.as_object_mut().expect("an object").remove(time);
    }
    outcome
}

#[test]
fn requests_sent_twice_to_any_of_two_gateways_have_equal_outcomes_each() {
    let count = match std::env::var("UNLOCKER_TEST_GATEWAY_REQUESTS") {
        Ok(count) => count.parse().expect("UNLOCKER_TEST_GATEWAY_REQUESTS is a number"),
        Err(_) => DEFAULT_COUNT,
    };
    let limit = Duration::from_secs(60 + count as u64 / 20);
    kit::run_within(limit, async |ctx| {
        let answer = |call: &kit::Call| {
            let customer: usize = call.field("customer_id").and_then(|id| id.parse().ok()).expect("a number");
            if customer.is_multiple_of(10) { Answer::status(400) } else { Answer::unlocked() }
        };
        let trackfinity = Trackfinity::start(answer);
        trackfinity.record(false);
        let workers =
            [(); 2].map(async |()| start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await);
        let workers = join_all(workers).await;
        let amqp = ctx.amqp().await;
        amqp.declare_queue(LEDGER, FieldTable::default()).await;
        amqp.bind(LEDGER, RESULTS, "unlock.#").await;
        let gateways = [(); 2].map(async |()| Gateway::start(&ctx, ctx.amqp_url(), &[]).await);
        let gateways = join_all(gateways).await;
        let targets = gateways.iter().map(|gateway| gateway.address.clone()).collect();
        let address = balance(&ctx, targets).await.to_string();

        let mut sends: Vec<usize> = (0..count).chain(0..count).collect();
        fastrand::shuffle(&mut sends);
        let (sends, next) = (Arc::new(sends), AtomicUsize::new(0));
        let begun = Instant::now();
        let client = async || {
            let mut connection = Connection::open(&address).await;
            let mut sent = 0;
            while let Some(customer) = sends.get(next.fetch_add(1, Ordering::SeqCst)) {
                if sent == REQUESTS_PER_CONNECTION {
                    (connection, sent) = (Connection::open(&address).await, 0);
                }
                sent += 1;
                let headers = format!("idempotency-key: \"order {customer}\"\r\n");
                let body = format!(r#"{{"customer_id":{customer}}}"#);
                let (status, body) = connection.send(&request(&headers, &body)).await.expect("an answer");
                assert_eq!(status, 202, "{body}");
            }
        };
        join_all((0..CLIENTS).map(|_| client())).await;
        let took = begun.elapsed();

        let mut outcomes: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut total = 0;
        kit::eventually("every id has an outcome", limit, async || {
            for outcome in amqp.drain(LEDGER).await {
                let outcome = outcome.json();
                total += 1;
                outcomes.entry(crate::world::text(&outcome["request_id"])).or_default().push(outcome);
            }
            let is_empty = amqp.ready_count(REQUESTS).await == 0;
            if outcomes.len() >= count && is_empty {
                Ok(())
            } else {
                Err(format!("{} of {count}", outcomes.len()))
            }
        })
        .await;
        for worker in &workers {
            worker.signal(kit::Signal::TERM);
            assert!(worker.wait_exit(crate::world::SOON).await.success());
        }
        for outcome in amqp.drain(LEDGER).await {
            let outcome = outcome.json();
            total += 1;
            outcomes.entry(crate::world::text(&outcome["request_id"])).or_default().push(outcome);
        }
        assert_eq!(outcomes.len(), count);
        for (id, of_id) in &outcomes {
            let first = essence(&of_id[0]);
            assert!(of_id.iter().all(|outcome| essence(outcome) == first), "{id}: {of_id:#?}");
            assert!(of_id.len() <= 2, "{id} was published more than once by a gateway: {of_id:#?}");
        }
        eprintln!(
            "{count} requests sent twice in {took:?} ({:.0}/s): {total} outcomes of {} ids",
            2.0 * count as f64 / took.as_secs_f64(),
            outcomes.len()
        );
    });
}
