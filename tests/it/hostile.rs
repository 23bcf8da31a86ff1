//! Hostile messages: none may stop or crash the worker, or harm other messages.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use kit::{
    Answer,
    raw_amqp::{HEADERS, MESSAGE_ID, RawAmqp, long, short},
};
use serde_json::{Value, json};

use crate::world::{DEAD, REQUESTS, SOON, World, header, start_worker, text};

/// A connection that can publish messages which no library would send.
async fn raw(ctx: &kit::Context) -> RawAmqp {
    RawAmqp::connect(ctx.amqp_url()).await.expect("a connection")
}

/// Publishes a message whose id is not UTF-8.
async fn publish_unreadable(raw: &mut RawAmqp) {
    let (id, body) = (short(b"\xff\xfe"), br#"{"customer_id":"raw"}"#);
    raw.publish(REQUESTS, MESSAGE_ID, &[], &id, body).await.expect("confirmed");
}

async fn publish_with_headers(raw: &mut RawAmqp, table: &[u8]) {
    let body = br#"{"customer_id":"raw"}"#;
    raw.publish(REQUESTS, HEADERS, table, &[], body).await.expect("confirmed");
}

/// A table with one header of that many bytes.
fn large(length: usize) -> Vec<u8> {
    long(&[&short(b"large")[..], b"S", &long(&vec![b'v'; length])].concat())
}

/// Tables in tables, `depth` levels deep.
fn nested(depth: usize) -> Vec<u8> {
    let mut table = long(b"");
    for _ in 0..depth {
        table = long(&[&short(b"")[..], b"F", &table].concat());
    }
    table
}

#[test]
fn an_unreadable_message_ends_as_invalid_and_harms_no_other() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked().after(Duration::from_millis(2))).await;
        let mut raw = raw(&world.ctx).await;
        for n in 0..300 {
            world.unlock(&n.to_string()).await;
            if n == 100 {
                publish_unreadable(&mut raw).await;
            }
        }
        let ids = |outcomes: &[kit::Message]| {
            outcomes.iter().map(|outcome| text(&outcome.json()["request_id"])).collect::<BTreeSet<_>>()
        };
        // What was in flight when the connection was lost may end twice.
        kit::eventually("all have ended", SOON, async || ids(&world.outcomes.all()).len() == 301).await;
        let (unreadable, others): (Vec<_>, Vec<_>) = world
            .outcomes
            .all()
            .iter()
            .map(kit::Message::json)
            .partition(|outcome| outcome["status"] == "invalid");
        assert!(others.iter().all(|outcome| outcome["status"] == "unlocked"));
        assert_eq!(unreadable.len(), 1);
        assert_eq!(
            (&unreadable[0]["reason"], &unreadable[0]["request"]["customer_id"]),
            (&"unreadable".into(), &"raw".into())
        );
        assert_eq!(world.amqp.ready_count(DEAD).await, 1);
        kit::eventually("the prefetch is normal again", SOON, async || {
            world.unlock("more").await;
            let lines = world.worker.stderr();
            lines
                .iter()
                .rfind(|line| line.contains("consuming"))
                .is_some_and(|line| line.contains(r#""prefetch":64"#))
        })
        .await;
    });
}

#[test]
fn unreadable_messages_cost_two_seconds_each_at_most() {
    const COUNT: usize = 8;
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let mut raw = raw(&world.ctx).await;
        let began = Instant::now();
        for n in 0..COUNT {
            publish_unreadable(&mut raw).await;
            world.unlock(&format!("behind {n}")).await;
        }
        let ended = |status: &str| {
            let all = world.outcomes.all();
            let of_status = all.iter().map(kit::Message::json).filter(|outcome| outcome["status"] == status);
            of_status.map(|outcome| outcome["request_id"].to_string()).collect::<BTreeSet<_>>().len()
        };
        kit::eventually("all have ended", SOON, async || {
            // What was in flight when a connection was lost may end twice.
            ended("unlocked") == COUNT && ended("invalid") == COUNT
        })
        .await;
        let took = began.elapsed();
        eprintln!("{COUNT} that cannot be read, and as many others: {took:.1?}");
        assert!(took < Duration::from_secs(2) * COUNT as u32, "{took:?}");
        assert_eq!(world.amqp.ready_count(DEAD).await as usize, COUNT);
    });
}

#[test]
fn an_unreadable_message_that_cannot_be_dead_lettered_delays_no_other() {
    kit::run(async |ctx| {
        let declaring = start_worker(&ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
        declaring.signal(kit::Signal::TERM);
        declaring.wait_exit(SOON).await;
        ctx.vhost().management().delete_binding(DEAD, DEAD, "").await;
        let world = World::start_with(ctx, &[("BROKER__DECLARE", "false")], |_| Answer::unlocked()).await;
        let mut raw = raw(&world.ctx).await;
        publish_unreadable(&mut raw).await;
        for n in 0..20 {
            world.unlock(&n.to_string()).await;
        }
        world.outcomes.wait_count(20, SOON).await;
        world.amqp.bind(DEAD, DEAD, "").await;
        let outcomes = world.outcomes.wait_count(21, SOON).await;
        assert!(outcomes.iter().any(|outcome| outcome.json()["reason"] == "unreadable"));
        assert_eq!(world.amqp.ready_count(DEAD).await, 1);
    });
}

#[test]
fn tables_nested_thousands_deep_are_kept_in_copies() {
    // lapin parses them in time that grows with the square of their depth.
    kit::run_within(Duration::from_secs(180), async |ctx| {
        let world = World::start(ctx, |call| match call.n {
            1 => Answer::status(503),
            _ => Answer::status(400),
        })
        .await;
        let mut raw = raw(&world.ctx).await;
        publish_with_headers(&mut raw, &nested(20_000)).await;
        let outcome = world.outcomes.next(Duration::from_secs(150)).await.json();
        assert_eq!((&outcome["reason"], &outcome["attempts"]), (&json!("http_400"), &json!(2)));
        assert_eq!(world.amqp.ready_count(DEAD).await, 1);
        world.stop().await;
    });
}

#[test]
fn headers_that_fill_a_frame_are_kept_and_own_texts_are_cut_first() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |call| match call.n {
            1 => Answer::status(503),
            _ => Answer::status(400).body("r".repeat(1024)),
        })
        .await;
        let mut raw = raw(&world.ctx).await;
        let entry = |name: &str, length: usize| {
            [&short(name.as_bytes())[..], b"S", &long(&vec![b'v'; length])].concat()
        };
        // As large as a frame allows: the copies can't keep all of it, but the smaller header stays.
        let table = long(&[entry("large", 130_000), entry("small", 900)].concat());
        publish_with_headers(&mut raw, &table).await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["reason"], &outcome["attempts"]), (&json!("http_400"), &json!(2)));
        let dead_letter = world.dead_letters().await.remove(0);
        assert_eq!(header(&dead_letter, "unlocker-reason").as_deref(), Some("http_400"));
        assert_eq!(header(&dead_letter, "small").map(|value| value.len()), Some(900));

        // If only the required headers fit, the worker leaves out its texts and keeps the producer's headers.
        world.trackfinity.answer_with(|_| Answer::status(400).body("r".repeat(1024)));
        let table = long(&[entry("large", 125_500), entry("small", 900)].concat());
        publish_with_headers(&mut raw, &table).await;
        assert_eq!(world.outcome().await["reason"], "http_400");
        let dead_letter = world.dead_letters().await.remove(0);
        assert_eq!(header(&dead_letter, "large").map(|value| value.len()), Some(125_500));
        assert!(header(&dead_letter, "unlocker-response").is_none_or(|response| response.len() < 1024));
        world.stop().await;
    });
}

#[test]
fn headers_too_large_for_small_frames_cost_the_connections_once() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::status(400)).await;
        let management = world.ctx.vhost().management();
        // Bytes of a frame on the connections on which the worker consumes and publishes.
        let frames = async || {
            let connections = management.connections().await;
            let of = |purpose: &str| {
                let is_it = |connection: &&Value| {
                    let name = connection["client_properties"]["connection_name"].as_str();
                    name.is_some_and(|name| name.ends_with(purpose))
                };
                let found = connections.iter().filter(is_it);
                found.map(|connection| connection["frame_max"].as_u64()).collect::<Vec<_>>()
            };
            [of(" consumes"), of(" publishes")]
        };
        let mut raw = raw(&world.ctx).await;
        for (length, calls, frame_max) in
            [(10_000, 1, 16_384), (100_000, 2, 131_072), (100_000, 3, 131_072), (10_000, 4, 131_072)]
        {
            publish_with_headers(&mut raw, &large(length)).await;
            assert_eq!(world.outcome().await["reason"], "http_400");
            let dead_letter = world.dead_letters().await.remove(0);
            assert_eq!(header(&dead_letter, "large").map(|value| value.len()), Some(length));
            assert_eq!(world.trackfinity.calls().len(), calls);
            let expected = [vec![Some(frame_max)], vec![Some(frame_max)]];
            kit::eventually("the connections", SOON, async || frames().await == expected).await;
        }
        let lines = |event: &str| world.worker.stderr().iter().filter(|line| line.contains(event)).count();
        assert_eq!((lines("frames_enlarged"), lines("not_consuming")), (1, 0));
        world.stop().await;
    });
}

#[test]
fn requests_in_flight_while_frames_are_enlarged_have_their_outcomes() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked().after(Duration::from_millis(300))).await;
        for n in 0..60 {
            world.unlock(&n.to_string()).await;
        }
        kit::eventually("calls are in flight", SOON, async || world.trackfinity.in_flight() > 0).await;
        let mut raw = raw(&world.ctx).await;
        publish_with_headers(&mut raw, &large(100_000)).await;
        // What was in flight may end twice.
        let ids = || world.outcomes.all().iter().map(|outcome| text(&outcome.json()["request_id"])).collect();
        kit::eventually("all have ended", SOON, async || BTreeSet::len(&ids()) == 61).await;
        assert!(world.outcomes.all().iter().all(|outcome| outcome.json()["status"] == "unlocked"));
        world.worker.wait_for_line(|line| line.contains("frames_enlarged"), SOON).await;
        world.stop().await;
    });
}
