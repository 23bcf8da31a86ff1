//! `unlocker check --probe`: canaries come back from a worker, and show which link is broken.

use std::time::Duration;

use kit::{AMQPValue, Answer, Context, FieldTable, Process, Trackfinity};
use serde_json::json;

use crate::world::{
    DEAD, EXCHANGE, REQUEST, REQUESTS, SOON, UNDELIVERABLE, World, header, id, start_worker, text, unlocker,
};

const RETRY: &str = "trackfinity.unlock.retry";
const SHORTEST: &str = "trackfinity.unlock.retry.1s";

async fn probe(ctx: &Context, trackfinity: &str, args: &[&str]) -> (Option<i32>, Process) {
    let program = unlocker(ctx.amqp_url(), trackfinity).args(["check", "--probe"]).args(args);
    let check = ctx.start(&program);
    let code = check.wait_exit(SOON * 2).await.code();
    (code, check)
}

/// The lines about canaries, each with the remedy below it.
fn canaries(check: &Process) -> Vec<String> {
    let lines = check.stdout();
    let of = |at: usize| format!("{} {}", lines[at], lines.get(at + 1).map_or("", |next| next.trim()));
    (0..lines.len())
        .filter(|at| lines[*at].get(6..).is_some_and(|line| line.starts_with("canar")))
        .map(of)
        .collect()
}

#[test]
fn both_canaries_come_back_and_leave_nothing() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::json(200, "true")).await;
        let (code, check) = probe(&world.ctx, &world.trackfinity.url(), &[]).await;
        let lines = canaries(&check);
        assert_eq!((code, lines.len()), (Some(0), 2), "{:#?}", check.stdout());
        assert!(lines.iter().all(|line| line.starts_with("ok ")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("canary through the retry queue")), "{lines:#?}");
        // The worker takes a request as before, and nothing else has come of the canaries.
        world.unlock("191").await;
        assert_eq!(world.outcome().await["request_id"], "191");
        assert_eq!(world.outcomes.len(), 1);
        assert!(world.dead_letters().await.is_empty());
        let calls = world.trackfinity.calls();
        assert_eq!(calls.iter().filter(|call| call.path.contains("unlock")).count(), 1, "{calls:#?}");
        assert_eq!(world.amqp.ready_count(SHORTEST).await, 0);
        world.stop().await;
    });
}

#[test]
fn a_producers_user_probes_the_request_queue_alone() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let management = world.ctx.vhost().management();
        let user = format!("gateway-{}", world.ctx.vhost().name());
        management.create_user(&user, "p", "").await;
        management.set_permissions(&user, "^$", r"^trackfinity\.unlock$", "^$").await;
        let url = world.ctx.vhost().amqp_url_as(&user, "p");
        let program = unlocker(&url, "http://127.0.0.1:1").args(["check", "--probe", "--role", "gateway"]);
        let check = world.ctx.start(&program);
        let code = check.wait_exit(SOON).await.code();
        management.delete_user(&user).await;
        let lines = canaries(&check);
        assert_eq!((code, lines.len()), (Some(0), 1), "{:#?}", check.stdout());
        assert!(lines[0].starts_with("ok    canary through the request queue"), "{lines:#?}");
    });
}

#[test]
fn without_a_worker_no_canary_is_sent() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::json(200, "true")).await;
        world.stop().await;
        let (code, check) = probe(&world.ctx, &world.trackfinity.url(), &[]).await;
        let lines = canaries(&check);
        assert_eq!((code, lines.len()), (Some(1), 1), "{:#?}", check.stdout());
        assert!(
            lines[0].contains("not sent, because no worker consumes") && lines[0].contains("start a worker")
        );
        assert_eq!(world.amqp.ready_count(REQUESTS).await, 0);
    });
}

#[test]
fn a_missing_binding_is_named() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let management = ctx.vhost().management();
        management.delete_binding(RETRY, SHORTEST, "1s").await;
        let (code, check) = probe(&ctx, &trackfinity.url(), &[]).await;
        let lines = canaries(&check);
        assert_eq!(code, Some(1), "{:#?}", check.stdout());
        let find = |name: &str| lines.iter().find(|line| line.contains(name)).expect("a line");
        assert!(find("through the request queue").starts_with("ok "), "{lines:#?}");
        let fault = find("through the retry queue");
        assert!(
            fault.starts_with("FAIL")
                && fault.contains(&format!("exchange {RETRY} routes the key 1s to no queue"))
        );
        assert!(fault.contains(&format!("bind {SHORTEST} to {RETRY} with the key 1s")), "{fault}");

        management.delete_binding(EXCHANGE, REQUESTS, REQUEST).await;
        let (code, check) = probe(&ctx, &trackfinity.url(), &[]).await;
        let lines = canaries(&check);
        assert_eq!((code, lines.len()), (Some(1), 1), "{:#?}", check.stdout());
        assert!(
            lines[0].contains(&format!("exchange {EXCHANGE} routes the key request to no queue")),
            "{lines:#?}"
        );
        assert_eq!(ctx.amqp().await.ready_count(SHORTEST).await, 0, "nothing waits for the binding");
    });
}

/// A worker that has one request in a call that does not end, and others waiting.
async fn busy_worker(ctx: Context, waiting: usize) -> World {
    let never = |_: &kit::Call| Answer::unlocked().after(Duration::from_secs(600));
    let settings = [("WORKER__CONCURRENCY", "1"), ("TRACKFINITY__TIMEOUT", "600s")];
    let world = World::start_with(ctx, &settings, never).await;
    world.unlock("held").await;
    kit::eventually("the call", SOON, async || world.trackfinity.calls().len() == 1).await;
    for n in 0..waiting {
        world.unlock(&n.to_string()).await;
    }
    let ready = async || world.amqp.ready_count(REQUESTS).await as usize == waiting;
    kit::eventually("the requests wait", SOON, ready).await;
    world
}

#[test]
fn a_policy_that_limits_the_request_queue_is_found() {
    kit::run(async |ctx| {
        let world = busy_worker(ctx, 2).await;
        let management = world.ctx.vhost().management();
        management.set_policy("limit", r"^trackfinity\.unlock\.requests$", json!({"max-length": 1})).await;
        let ping = Trackfinity::start(|_| Answer::json(200, "true"));
        let refused = async || {
            let (code, check) = probe(&world.ctx, &ping.url(), &["--timeout", "2s"]).await;
            let lines = canaries(&check);
            assert_eq!(code, Some(1), "{:#?}", check.stdout());
            // A policy takes effect some moments after it was set.
            lines.iter().any(|line| line.contains("refuses it: it is full") && line.contains("max-length"))
        };
        kit::eventually("the policy refuses a canary", SOON, refused).await;
    });
}

#[test]
fn a_canary_that_rabbitmq_gives_up_makes_no_dead_letter() {
    kit::run(async |ctx| {
        let world = busy_worker(ctx, 0).await;
        let management = world.ctx.vhost().management();
        management.set_policy("ttl", r"^trackfinity\.unlock\.requests$", json!({"message-ttl": 300})).await;
        let set = async || {
            management
                .queue(REQUESTS)
                .await
                .is_some_and(|queue| queue["effective_policy_definition"]["message-ttl"] == 300)
        };
        kit::eventually("the policy", SOON, set).await;
        let ping = Trackfinity::start(|_| Answer::json(200, "true"));
        let (code, check) = probe(&world.ctx, &ping.url(), &["--timeout", "20s"]).await;
        let lines = canaries(&check);
        assert_eq!((code, lines.len()), (Some(1), 2), "{:#?}", check.stdout());
        for line in lines {
            assert!(line.contains("gave it up (expired)") && line.contains(UNDELIVERABLE), "{line}");
            assert!(line.contains("message-ttl"), "{line}");
        }
        assert!(world.outcomes.is_empty());
        assert_eq!(world.amqp.ready_count(DEAD).await, 0);
    });
}

#[test]
fn a_retry_queue_that_dead_letters_elsewhere_is_found() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        worker.signal(kit::Signal::TERM);
        worker.wait_exit(SOON).await;
        let amqp = ctx.amqp().await;
        ctx.vhost().management().delete_queue(SHORTEST).await;
        let elsewhere = amqp.consume_into("amq.fanout", "").await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(1000));
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("amq.fanout".into()));
        amqp.declare_queue(SHORTEST, arguments).await;
        amqp.bind(SHORTEST, RETRY, "1s").await;
        let declare_not = ("BROKER__DECLARE", "false");
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[declare_not]).await;
        let program = unlocker(ctx.amqp_url(), &trackfinity.url()).env("UNLOCKER__BROKER__DECLARE", "false");
        let check = ctx.start(&program.args(["check", "--probe", "--timeout", "4s"]));
        assert_eq!(check.wait_exit(SOON).await.code(), Some(1));
        let lines = canaries(&check);
        let fault = lines.iter().find(|line| line.starts_with("FAIL")).expect("a fault");
        assert!(
            fault.contains(&format!("it left {SHORTEST}, but did not come to {REQUESTS} within 4s")),
            "{lines:#?}"
        );
        assert_eq!(elsewhere.len(), 1);
    });
}

#[test]
fn a_request_with_the_header_by_mistake_stays_a_request() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let replies = world.amqp.consume_into("amq.direct", "replies").await;
        let mut headers = FieldTable::default();
        headers.insert("unlocker-canary".into(), AMQPValue::LongString("by mistake".into()));
        let marked = |message_id: &str| id(message_id).with_headers(headers.clone());
        world.publish(marked("a-request"), br#"{"customer_id":"191"}"#).await;
        world.publish(marked("empty"), b"").await;
        // Only a direct reply-to is answered.
        world.publish(marked("empty-2").with_reply_to(replies.queue().into()), b"").await;
        let outcomes = world.outcomes(3).await;
        assert_eq!(text(&outcomes["a-request"]["status"]), "unlocked");
        for empty in ["empty", "empty-2"] {
            assert_eq!(text(&outcomes[empty]["status"]), "invalid");
        }
        assert_eq!(replies.next(SOON).await.json()["status"], "invalid");
        let dead = world.dead_letters().await;
        assert_eq!(dead.len(), 2);
        assert_eq!(header(&dead[0], "unlocker-status").as_deref(), Some("invalid"));
        world.stop().await;
    });
}
