//! A gateway that is asked to stop, and clients that give up.

use std::time::{Duration, Instant};

use kit::{Answer, Signal};

use super::{
    connection::{Connection, request},
    world::{Front, Gateway, json, problem},
};
use crate::world::{REQUESTS, SOON, World, start_worker};

const BODY: &str = r#"{"customer_id":191}"#;

#[test]
fn requests_in_flight_are_finished_and_new_ones_are_not_taken() {
    kit::run(async |ctx| {
        let (line, url) = ctx.cutter().await;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.stop().await;
        let gateway = Gateway::start(&world.ctx, &url, &[]).await;
        // So that the next publish has an open channel.
        assert_eq!(gateway.post(json(BODY)).await.status, 202);
        let mut idle = Connection::open(&gateway.address).await;
        assert_eq!(idle.send(&request("", BODY)).await.expect("an answer").0, 202);
        let fresh = Connection::open(&gateway.address).await;
        let mut half = Connection::open(&gateway.address).await;
        let text = request("", BODY);
        let (begin, rest) = text.split_at(text.len() - 5);
        half.write(begin).await.expect("written");
        gateway.metric("unlocker_gateway_connections").await;
        line.delay(Duration::from_secs(1));
        let in_flight = gateway.post(json(BODY));
        let stop = async {
            let published = async || match world.amqp.ready_count(REQUESTS).await {
                3 => Ok(()),
                count => Err(count),
            };
            kit::eventually("the request is published", SOON, published).await;
            gateway.process.signal(Signal::TERM);
            let begun = Instant::now();
            kit::eventually("it stops", SOON, async || {
                let answer = crate::console::http::Request::new("GET", "/readyz").send(&gateway.ops).await;
                answer.status == 503 && answer.json()["code"] == "stopping"
            })
            .await;
            half.write(rest).await.expect("written");
            let (status, body) = half.read().await.expect("an answer");
            assert!(status == 503 && body.contains(r#""code":"stopping""#), "{status} {body}");
            assert!(body.contains(r#""taken":"no""#), "{body}");
            // Closed, or answered the same.
            if let Some((status, body)) = idle.send(&request("", BODY)).await {
                assert!(status == 503 && body.contains(r#""taken":"no""#), "{status} {body}");
            }
            begun
        };
        let (answer, begun) = tokio::join!(in_flight, stop);
        assert_eq!(answer.status, 202, "{answer:?}");
        let code = gateway.process.wait_exit(SOON).await;
        assert!(code.success(), "{code}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        drop(fresh);
        assert_eq!(world.amqp.ready_count(REQUESTS).await, 3, "no more than what was answered 202");
    });
}

#[test]
fn a_confirm_that_does_not_come_is_answered_before_the_gateway_ends() {
    kit::run(async |ctx| {
        let (line, url) = ctx.cutter().await;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let gateway = Gateway::start(&world.ctx, &url, &[]).await;
        assert_eq!(gateway.post(json(BODY)).await.status, 202);
        let confirmed = gateway.metric("unlocker_gateway_confirm_seconds_count").await;
        assert_eq!(confirmed, Some(1.0));
        line.half_open();
        let mut client = Connection::open(&gateway.address).await;
        client.write(&request("", BODY)).await.expect("written");
        wait_connections(&gateway, 1.0).await;
        gateway.process.signal(Signal::TERM);
        let begun = Instant::now();
        let (status, body) = client.read().await.expect("an answer");
        // Which one depends on whether the request was read before the signal came.
        assert!(matches!(status, 503 | 504), "{status} {body}");
        let code = gateway.process.wait_exit(SOON).await;
        assert!(code.success(), "{code}");
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_second_signal_ends_the_gateway_at_once() {
    kit::run(async |ctx| {
        let (line, url) = ctx.cutter().await;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let gateway = Gateway::start(&world.ctx, &url, &[]).await;
        line.half_open();
        let mut client = Connection::open(&gateway.address).await;
        client.write(&request("", BODY)).await.expect("written");
        wait_connections(&gateway, 1.0).await;
        gateway.process.signal(Signal::TERM);
        let stopping = async || {
            let answer = crate::console::http::Request::new("GET", "/readyz").send(&gateway.ops).await;
            answer.json()["code"] == "stopping"
        };
        kit::eventually("it stops", SOON, stopping).await;
        gateway.process.signal(Signal::TERM);
        let begun = Instant::now();
        let code = gateway.process.wait_exit(SOON).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(code.code(), Some(1));
        assert_eq!(gateway.events("stopped_at_once"), 1);
    });
}

async fn wait_connections(gateway: &Gateway, count: f64) {
    kit::eventually("connections", SOON, async || {
        let open = gateway.metric("unlocker_gateway_connections").await;
        if open == Some(count) { Ok(()) } else { Err(format!("{open:?}")) }
    })
    .await;
}

#[test]
fn a_client_that_hangs_up_frees_its_place_and_a_late_outcome_harms_nothing() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        front.world.stop().await;
        let gateway = &front.gateway;
        let mut clients = Vec::new();
        for n in 0..20 {
            let mut client = Connection::open(&gateway.address).await;
            let headers = format!("prefer: wait=30\r\nidempotency-key: k-{n}\r\n");
            client.write(&request(&headers, BODY)).await.expect("written");
            clients.push(client);
        }
        gateway.wait_waiters(20).await;
        let published = async || match front.world.amqp.ready_count(REQUESTS).await {
            20 => Ok(()),
            count => Err(count),
        };
        kit::eventually("all are published", SOON, published).await;
        let begun = Instant::now();
        clients.clear();
        gateway.wait_waiters(0).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let (ctx, trackfinity) = (&front.world.ctx, &front.world.trackfinity);
        let _worker = start_worker(ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        front.world.outcomes(20).await;
        let repeat = json(BODY).header("idempotency-key", "k-7").header("prefer", "wait=20");
        let answer = gateway.post(repeat).await;
        assert_eq!((answer.status, &answer.json()["request_id"]), (200, &"local/k-7".into()));
        assert_eq!(front.world.trackfinity.count(), 20, "the repeat was not published");
        let answer = gateway.post(json(BODY).header("prefer", "wait=20")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    });
}

#[test]
fn a_lost_connection_for_replies_answers_those_that_wait_and_later_waits_work_again() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        front.world.stop().await;
        let gateway = &front.gateway;
        let waiting = |key: &str| json(BODY).header("idempotency-key", key).header("prefer", "wait=30");
        let wait = async {
            let answer = gateway.post(waiting("k")).await;
            (answer, Instant::now())
        };
        let close = async {
            gateway.wait_waiters(1).await;
            let management = front.world.ctx.vhost().management();
            let name = kit::eventually("the connection for replies", SOON, async || {
                let connections = management.connections().await;
                let purpose = |of: &serde_json::Value| of["client_properties"]["connection_name"].to_string();
                let found = connections.iter().find(|of| purpose(of).contains("receives replies"));
                found.map(|connection| crate::world::text(&connection["name"]))
            })
            .await;
            management.close_connection(&name).await;
            Instant::now()
        };
        let ((answer, answered), closed) = tokio::join!(wait, close);
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(answered.saturating_duration_since(closed) < Duration::from_secs(3));
        gateway.wait_ready(200).await;
        kit::eventually("outcomes are received again", SOON, async || {
            gateway.events("replies_received") == 2
        })
        .await;
        // Its outcome goes to the lost connection: there is nothing to wait for.
        let begun = Instant::now();
        assert_eq!(gateway.post(waiting("k")).await.status, 202);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let (ctx, trackfinity) = (&front.world.ctx, &front.world.trackfinity);
        let _worker = start_worker(ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let answer = gateway.post(waiting("l")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        front.world.outcomes(2).await;
    });
}

#[test]
fn a_client_that_hangs_up_before_the_confirm_may_repeat_its_request() {
    kit::run(async |ctx| {
        let (line, url) = ctx.cutter().await;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let gateway = Gateway::start(&world.ctx, &url, &[]).await;
        line.delay(Duration::from_millis(300));
        for n in 0..30 {
            let mut client = Connection::open(&gateway.address).await;
            let headers = format!("prefer: wait=30\r\nidempotency-key: k-{n}\r\n");
            client.write(&request(&headers, BODY)).await.expect("written");
            gateway.wait_waiters(1).await;
            drop(client);
            gateway.wait_waiters(0).await;
        }
        line.delay(Duration::ZERO);
        for n in 0..30 {
            let repeat = json(BODY).header("idempotency-key", &format!("k-{n}")).header("prefer", "wait=20");
            let answer = gateway.post(repeat).await;
            assert!(answer.status == 200 || problem(&answer).0 == 504, "{answer:?}");
        }
        assert_eq!(gateway.events("publishing_lost"), 0, "a client cost the connection");
        let ids = async || {
            let all = world.outcomes.all();
            let ids: std::collections::BTreeSet<_> =
                all.iter().map(|outcome| crate::world::text(&outcome.json()["request_id"])).collect();
            if ids.len() == 30 { Ok(()) } else { Err(ids.len()) }
        };
        kit::eventually("every request has its outcome", SOON, ids).await;
    });
}
