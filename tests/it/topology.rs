//! Section 3 of the contract: what is declared and checked, and which differences are reported.

use kit::{Answer, FieldTable, Trackfinity};
use serde_json::{Value, json};

use crate::world::{DEAD, EXCHANGE, REQUESTS, SOON, UNDELIVERABLE, World, id, start_worker, unlocker};

#[test]
fn the_whole_topology_is_declared_as_the_contract_says() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let management = world.ctx.vhost().management().clone();
        let arguments = async |queue: &str| -> Value {
            let queue = management.queue(queue).await.unwrap_or_else(|| panic!("{queue} exists"));
            assert_eq!(queue["durable"], true);
            assert_eq!(queue["type"], "quorum");
            queue["arguments"].clone()
        };
        assert_eq!(
            arguments(REQUESTS).await,
            json!({
                "x-queue-type": "quorum", "x-delivery-limit": 20, "x-dead-letter-exchange": EXCHANGE,
                "x-dead-letter-routing-key": "undeliverable",
                "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"
            })
        );
        assert_eq!(
            arguments(UNDELIVERABLE).await,
            json!({
                "x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000, "x-dead-letter-exchange": DEAD,
                "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"
            })
        );
        assert_eq!(
            arguments(DEAD).await,
            json!({
                "x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000,
                "x-dead-letter-exchange": EXCHANGE, "x-dead-letter-routing-key": "undeliverable",
                "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"
            })
        );
        for power in 0..=10 {
            let seconds = 1 << power;
            assert_eq!(
                arguments(&format!("trackfinity.unlock.retry.{seconds}s")).await,
                json!({
                    "x-queue-type": "quorum", "x-message-ttl": seconds * 1000,
                    "x-dead-letter-exchange": "trackfinity.unlock", "x-dead-letter-routing-key": "request",
                    "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"
                })
            );
        }
        let exchanges = management.exchanges().await;
        for (name, kind) in [
            ("trackfinity.unlock", "direct"),
            ("trackfinity.unlock.retry", "direct"),
            ("trackfinity.unlock.results", "topic"),
            ("trackfinity.unlock.dead", "fanout"),
        ] {
            let exchange = exchanges.iter().find(|exchange| exchange["name"] == name).expect(name);
            assert_eq!((&exchange["type"], &exchange["durable"]), (&json!(kind), &json!(true)), "{name}");
        }
        let bound: Vec<_> = management
            .bindings()
            .await
            .into_iter()
            .filter(|binding| binding["source"] != "" && binding["source"] != "trackfinity.unlock.results")
            .map(|binding| {
                format!("{} {} {}", binding["source"], binding["routing_key"], binding["destination"])
            })
            .collect();
        assert_eq!(bound.len(), 14, "{bound:?}");
        assert!(
            bound.contains(&r#""trackfinity.unlock" "request" "trackfinity.unlock.requests""#.to_owned())
        );
        assert!(
            bound.contains(&r#""trackfinity.unlock.retry" "16s" "trackfinity.unlock.retry.16s""#.to_owned())
        );
    });
}

#[test]
fn every_name_starts_with_the_prefix() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let settings = [("TOPOLOGY__PREFIX", "other")];
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &settings).await;
        for queue in ctx.vhost().management().queues().await {
            assert!(queue["name"].as_str().is_some_and(|name| name.starts_with("other.")), "{queue}");
        }
    });
}

#[test]
fn a_queue_with_other_arguments_is_named_and_left_alone() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        let queue = "trackfinity.unlock.retry.8s";
        amqp.declare_queue(queue, FieldTable::default()).await;
        amqp.publish("", queue, id("theirs"), b"theirs").await;
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let worker = ctx.start(&unlocker(ctx.amqp_url(), &trackfinity.url()).arg("run"));
        let says = |line: &str| line.contains(queue) && line.contains("x-") && line.contains("not consuming");
        worker.wait_for_line(says, SOON).await;
        assert_eq!(amqp.ready_count(queue).await, 1, "the queue is unchanged");

        let check = ctx.start(&unlocker(ctx.amqp_url(), &trackfinity.url()).arg("check"));
        assert_eq!(check.wait_exit(SOON).await.code(), Some(1));
        let line = check.stdout().into_iter().find(|line| line.starts_with("FAIL")).expect("a finding");
        assert!(line.contains(queue) && line.contains("x-"), "{line}");

        // When the queue is deleted, the worker continues by itself.
        ctx.vhost().management().delete_queue(queue).await;
        worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
    });
}

#[test]
fn without_declare_a_missing_queue_is_named_and_waited_for() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let program =
            unlocker(ctx.amqp_url(), &trackfinity.url()).env("UNLOCKER__BROKER__DECLARE", "false").arg("run");
        let waiting = ctx.start(&program);
        waiting.wait_for_line(|line| line.contains("exchange trackfinity.unlock does not exist"), SOON).await;
        assert!(ctx.vhost().management().queues().await.is_empty(), "nothing was declared");
        let _declaring = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        waiting.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
    });
}

#[test]
fn an_unroutable_dead_letter_keeps_its_request() {
    kit::run(async |ctx| {
        let settings = [("BROKER__DECLARE", "false")];
        let trackfinity = Trackfinity::start(|_| Answer::status(400));
        let first = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        first.signal(kit::Signal::TERM);
        first.wait_exit(SOON).await;
        let management = ctx.vhost().management();
        management.delete_binding(DEAD, DEAD, "").await;
        let worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &settings).await;
        let amqp = ctx.amqp().await;
        let outcomes = amqp.consume_into(crate::world::RESULTS, "unlock.#").await;
        amqp.publish(crate::world::EXCHANGE, "request", id("1"), br#"{"customer_id":1}"#).await;
        worker.wait_for_line(|line| line.contains("no queue receives from exchange"), SOON).await;
        assert!(outcomes.is_empty(), "no outcome before its dead letter is safe");
        let channel = amqp.channel().await;
        let bind = channel.queue_bind(
            DEAD.into(),
            DEAD.into(),
            "".into(),
            Default::default(),
            FieldTable::default(),
        );
        bind.await.expect("bound");
        assert_eq!(outcomes.next(SOON).await.json()["status"], "refused");
        assert_eq!(amqp.ready_count(DEAD).await, 1);
        assert_eq!(trackfinity.count(), 1, "the request was kept, not redelivered");
    });
}

#[test]
fn a_deleted_dead_letter_exchange_is_declared_again() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::status(400)).await;
        world.ctx.vhost().management().delete_exchange(DEAD).await;
        world.unlock("1").await;
        assert_eq!(world.outcome().await["status"], "refused");
        assert_eq!(world.amqp.ready_count(DEAD).await, 1);
        assert_eq!(world.trackfinity.count(), 1, "the request was kept, not redelivered");
    });
}

#[test]
fn a_full_dead_letter_queue_keeps_the_request_until_there_is_space() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::status(400)).await;
        let management = world.ctx.vhost().management().clone();
        let full = json!({"max-length": 1, "overflow": "reject-publish"});
        management.set_policy("full", "^trackfinity.unlock.dead$", full).await;
        kit::eventually("the policy holds", SOON, async || {
            management.queue(DEAD).await.is_some_and(|queue| queue["policy"] == "full")
        })
        .await;
        let mut ended = 0;
        while !world
            .worker
            .stdout()
            .iter()
            .chain(&world.worker.stderr())
            .any(|line| line.contains("it is full"))
        {
            assert!(ended < 20, "the queue is never full");
            world.unlock(&ended.to_string()).await;
            ended += 1;
            kit::eventually("an outcome, or a full queue", SOON, async || {
                world.outcomes.len() >= ended
                    || world.worker.stderr().iter().any(|line| line.contains("it is full"))
            })
            .await;
        }
        management.delete_policy("full").await;
        world.outcomes.wait_count(ended, SOON).await;
        assert_eq!(world.trackfinity.count(), ended as u64, "the request was kept, not redelivered");
        kit::eventually("every dead letter", SOON, async || {
            world.amqp.ready_count(DEAD).await == ended as u32
        })
        .await;
    });
}

#[test]
fn an_amqps_url_never_falls_back_to_plain_text() {
    kit::run(async |ctx| {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("amqps://guest:guest@localhost:{port}/%2f");
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let _worker = ctx.start(&unlocker(&url, &trackfinity.url()).arg("run"));
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut first = [0; 3];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first).await.expect("the first bytes");
        assert_eq!(first[..2], [0x16, 0x03], "a TLS handshake, not an AMQP header");
    });
}
