//! Messages made to hurt: none may stop or kill the worker, or take innocent ones with it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use kit::Answer;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::{DEAD, REQUESTS, SOON, World, header, start_worker, text};

/// The property flags of AMQP 0-9-1's basic class.
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const MESSAGE_ID: u16 = 1 << 7;

/// A client that writes its frames byte by byte, as no library would.
struct RawAmqp(TcpStream);

impl RawAmqp {
    /// Connects to the virtual host as the tests' user.
    async fn connect(ctx: &kit::Context) -> Self {
        let url: lapin::uri::AMQPUri = ctx.amqp_url().parse().expect("an AMQP URL");
        let address = (url.authority.host.clone(), url.authority.port);
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(b"AMQP\x00\x00\x09\x01").await.expect("written");
        let mut client = Self(stream);
        client.read_method(10, 10).await;
        let user = url.authority.userinfo;
        let login = format!("\0{}\0{}", user.username, user.password);
        let start_ok = [&[0; 4][..], &short(b"PLAIN"), &long(login.as_bytes()), &short(b"en_US")].concat();
        client.write_method(0, 10, 11, &start_ok).await;
        client.read_method(10, 30).await;
        client
            .write_method(
                0,
                10,
                31,
                &[&2047_u16.to_be_bytes()[..], &131_072_u32.to_be_bytes(), &[0, 0]].concat(),
            )
            .await;
        client.write_method(0, 10, 40, &[&short(url.vhost.as_bytes())[..], &[0, 0]].concat()).await;
        client.read_method(10, 41).await;
        client.write_method(1, 20, 10, &[0]).await;
        client.read_method(20, 11).await;
        client.write_method(1, 85, 10, &[0]).await;
        client.read_method(85, 11).await;
        client
    }

    /// Publishes to the queue of requests, persistent, and waits for the confirm.
    async fn publish(&mut self, flags: u16, before_mode: &[u8], after_mode: &[u8], body: &[u8]) {
        let target = [&[0, 0][..], &short(b""), &short(REQUESTS.as_bytes()), &[0]].concat();
        self.write_method(1, 60, 40, &target).await;
        let size = (body.len() as u64).to_be_bytes();
        let flags = (flags | DELIVERY_MODE).to_be_bytes();
        let content =
            [&60_u16.to_be_bytes()[..], &[0, 0], &size, &flags, before_mode, &[2], after_mode].concat();
        self.write_frame(2, 1, &content).await;
        self.write_frame(3, 1, body).await;
        self.read_method(60, 80).await;
    }

    async fn write_method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.write_frame(1, channel, &payload).await;
    }

    async fn write_frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
        let frame = [&[kind][..], &channel.to_be_bytes(), &length, payload, &[0xce]].concat();
        self.0.write_all(&frame).await.expect("written");
    }

    async fn read_method(&mut self, class: u16, method: u16) {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; length as usize + 1];
        self.0.read_exact(&mut payload).await.expect("a payload");
        let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
        assert_eq!(payload[..4], expected, "{:?}", String::from_utf8_lossy(&payload));
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short string")][..], text].concat()
}

fn long(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).expect("a length").to_be_bytes()[..], text].concat()
}

/// Tables in tables, so many deep.
fn nested(depth: usize) -> Vec<u8> {
    let mut table = long(b"");
    for _ in 0..depth {
        table = long(&[&short(b"")[..], b"F", &table].concat());
    }
    table
}

#[test]
fn a_message_that_cannot_be_read_ends_as_invalid_and_takes_no_other_along() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked().after(Duration::from_millis(2))).await;
        let mut raw = RawAmqp::connect(&world.ctx).await;
        for n in 0..300 {
            world.unlock(&n.to_string()).await;
            if n == 100 {
                raw.publish(MESSAGE_ID, &[], &short(b"\xff\xfe"), br#"{"customer_id":"raw"}"#).await;
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
        kit::eventually("it takes as many as usual again", SOON, async || {
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
fn messages_that_cannot_be_read_cost_two_seconds_each_at_most() {
    const COUNT: usize = 8;
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let mut raw = RawAmqp::connect(&world.ctx).await;
        let began = Instant::now();
        for n in 0..COUNT {
            raw.publish(MESSAGE_ID, &[], &short(b"\xff\xfe"), br#"{"customer_id":"raw"}"#).await;
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
fn one_that_cannot_be_read_and_cannot_be_dead_lettered_holds_up_nobody() {
    kit::run(async |ctx| {
        let declaring = start_worker(&ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
        declaring.signal(kit::Signal::TERM);
        declaring.wait_exit(SOON).await;
        ctx.vhost().management().delete_binding(DEAD, DEAD, "").await;
        let world = World::start_with(ctx, &[("BROKER__DECLARE", "false")], |_| Answer::unlocked()).await;
        let mut raw = RawAmqp::connect(&world.ctx).await;
        raw.publish(MESSAGE_ID, &[], &short(b"\xff\xfe"), br#"{"customer_id":"raw"}"#).await;
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
fn tables_nested_thousands_deep_are_carried_on() {
    // lapin's reading of them takes time that grows with the square of their depth.
    kit::run_within(Duration::from_secs(180), async |ctx| {
        let world = World::start(ctx, |call| match call.n {
            1 => Answer::status(503),
            _ => Answer::status(400),
        })
        .await;
        let mut raw = RawAmqp::connect(&world.ctx).await;
        raw.publish(HEADERS, &nested(20_000), &[], br#"{"customer_id":"raw"}"#).await;
        let outcome = world.outcomes.next(Duration::from_secs(150)).await.json();
        assert_eq!((&outcome["reason"], &outcome["attempts"]), (&json!("http_400"), &json!(2)));
        assert_eq!(world.amqp.ready_count(DEAD).await, 1);
        world.stop().await;
    });
}

#[test]
fn headers_that_fill_a_frame_are_carried_on_and_own_texts_are_cut_first() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |call| match call.n {
            1 => Answer::status(503),
            _ => Answer::status(400).body("r".repeat(1024)),
        })
        .await;
        let mut raw = RawAmqp::connect(&world.ctx).await;
        let entry = |name: &str, length: usize| {
            [&short(name.as_bytes())[..], b"S", &long(&vec![b'v'; length])].concat()
        };
        // As large as a frame allows: the copies can't keep all of it, but the smaller header stays.
        let table = long(&[entry("large", 130_000), entry("small", 900)].concat());
        raw.publish(HEADERS, &table, &[], br#"{"customer_id":"raw"}"#).await;
        let outcome = world.outcome().await;
        assert_eq!((&outcome["reason"], &outcome["attempts"]), (&json!("http_400"), &json!(2)));
        let letter = world.dead_letters().await.remove(0);
        assert_eq!(header(&letter, "unlocker-reason").as_deref(), Some("http_400"));
        assert_eq!(header(&letter, "small").map(|value| value.len()), Some(900));

        // With room for its own facts alone, the worker's texts go and the producer's headers stay.
        world.trackfinity.answer_with(|_| Answer::status(400).body("r".repeat(1024)));
        let table = long(&[entry("large", 125_500), entry("small", 900)].concat());
        raw.publish(HEADERS, &table, &[], br#"{"customer_id":"raw"}"#).await;
        assert_eq!(world.outcome().await["reason"], "http_400");
        let letter = world.dead_letters().await.remove(0);
        assert_eq!(header(&letter, "large").map(|value| value.len()), Some(125_500));
        assert!(header(&letter, "unlocker-response").is_none_or(|response| response.len() < 1024));
        world.stop().await;
    });
}

#[test]
fn headers_too_large_for_small_frames_cost_a_connection_once_and_no_session() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::status(400)).await;
        let management = world.ctx.vhost().management();
        // Bytes of a frame on the connections that the worker publishes on.
        let frames = async || {
            let connections = management.connections().await.into_iter();
            let publishing = connections.filter(|connection| {
                let name = connection["client_properties"]["connection_name"].as_str();
                name.is_some_and(|name| name.ends_with(" publishes"))
            });
            publishing.map(|connection| connection["frame_max"].as_u64()).collect::<Vec<_>>()
        };
        let mut raw = RawAmqp::connect(&world.ctx).await;
        for (length, calls, frame_max) in
            [(10_000, 1, 16_384), (100_000, 2, 131_072), (100_000, 3, 131_072), (10_000, 4, 131_072)]
        {
            let entry = [&short(b"large")[..], b"S", &long(&vec![b'v'; length])].concat();
            raw.publish(HEADERS, &long(&entry), &[], br#"{"customer_id":"raw"}"#).await;
            assert_eq!(world.outcome().await["reason"], "http_400");
            let letter = world.dead_letters().await.remove(0);
            assert_eq!(header(&letter, "large").map(|value| value.len()), Some(length));
            assert_eq!(world.trackfinity.calls().len(), calls);
            let expected = [Some(frame_max)];
            kit::eventually("the connection", SOON, async || frames().await == expected).await;
        }
        assert!(!world.worker.stderr().iter().any(|line| line.contains("not consuming")), "a session ended");
        world.stop().await;
    });
}
