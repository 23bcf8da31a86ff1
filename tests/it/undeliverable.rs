//! Messages that RabbitMQ gave up also get an outcome and a dead letter, and no dead letter is
//! lost by a policy.

use kit::{
    Amqp, Answer, Context, FieldTable, Properties, Trackfinity,
    raw_amqp::{MESSAGE_ID, RawAmqp, short},
};
use serde_json::json;

use crate::{
    telemetry::{sample, scrape},
    world::{
        DEAD, EXCHANGE, REQUEST, REQUESTS, RESULTS, SOON, UNDELIVERABLE, World, header, id, start_worker,
        text,
    },
};

/// A vhost with the topology and no worker.
async fn declared(ctx: &Context) {
    let worker = start_worker(ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
    worker.signal(kit::Signal::TERM);
    worker.wait_exit(SOON).await;
}

/// Gets the message of a queue and loses it, as a worker that crashes does. False if there is none.
async fn lose_once(amqp: &Amqp, queue: &str) -> bool {
    let channel = amqp.channel().await;
    let got = channel.basic_get(queue.into(), kit::options::BasicGetOptions::default()).await;
    let got = got.expect("an answer").is_some();
    channel.close(200, "lost".into()).await.expect("closed");
    got
}

/// Loses the message of a queue until RabbitMQ gives it up.
async fn lose_until_given_up(amqp: &Amqp, queue: &str, given_up_to: &str) {
    kit::eventually("RabbitMQ gives it up", SOON, async || {
        lose_once(amqp, queue).await;
        amqp.ready_count(given_up_to).await == 1
    })
    .await;
}

/// Loses the message of a queue that often.
async fn lose(amqp: &Amqp, queue: &str, times: usize) {
    for _ in 0..times {
        kit::eventually("it is in the queue again", SOON, async || lose_once(amqp, queue).await).await;
    }
}

#[test]
fn a_request_that_expires_in_the_queue_is_abandoned_as_expired() {
    kit::run(async |ctx| {
        declared(&ctx).await;
        let amqp = ctx.amqp().await;
        let properties = id("late").with_expiration("1".into()).with_correlation_id("c-1".into());
        amqp.publish(EXCHANGE, REQUEST, properties, br#"{"customer_id":191}"#).await;
        kit::eventually("it expires", SOON, async || amqp.ready_count(UNDELIVERABLE).await == 1).await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let message = outcomes.next(SOON).await;
        let outcome = message.json();
        assert_eq!(
            (&outcome["status"], &outcome["reason"], &outcome["request_id"], &outcome["request"]),
            (&json!("abandoned"), &json!("expired"), &json!("late"), &json!(null))
        );
        assert_eq!(message.properties.correlation_id().as_ref().map(|id| id.as_str()), Some("c-1"));
        let dead_letter = amqp.drain(DEAD).await.remove(0);
        assert_eq!(header(&dead_letter, "unlocker-reason").as_deref(), Some("expired"));
        assert_eq!(dead_letter.text(), r#"{"customer_id":191}"#);
        assert_eq!(trackfinity.count(), 0);
    });
}

#[test]
fn a_request_that_was_delivered_too_often_is_abandoned_whatever_its_producer_forged() {
    kit::run(async |ctx| {
        declared(&ctx).await;
        let amqp = ctx.amqp().await;
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("unlocker-status", "refused"),
            ("unlocker-reason", "http_404"),
            ("unlocker-dead-at", "2020-01-01T00:00:00.000Z"),
        ] {
            headers.insert(name.into(), kit::AMQPValue::LongString(value.into()));
        }
        amqp.publish(EXCHANGE, REQUEST, id("deadly").with_headers(headers), b"poison").await;
        lose_until_given_up(&amqp, REQUESTS, UNDELIVERABLE).await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let outcome = outcomes.next(SOON).await.json();
        assert_eq!(
            (&outcome["status"], &outcome["reason"], &outcome["request_id"]),
            (&json!("abandoned"), &json!("delivery_limit"), &json!("deadly"))
        );
        let dead_letter = amqp.drain(DEAD).await.remove(0);
        assert_eq!(header(&dead_letter, "unlocker-status").as_deref(), Some("abandoned"));
        assert_eq!(header(&dead_letter, "unlocker-reason").as_deref(), Some("delivery_limit"));
        assert_ne!(header(&dead_letter, "unlocker-dead-at").as_deref(), Some("2020-01-01T00:00:00.000Z"));
        assert_eq!(dead_letter.header("x-death"), None);
    });
}

#[test]
fn many_browses_under_a_delivery_limit_lose_no_dead_letter_and_change_no_byte() {
    kit::run_within(SOON * 3, async |ctx| {
        const COUNT: usize = 6;
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let definition = json!({"delivery-limit": 3});
        world.ctx.vhost().management().set_policy("limit", ".*", definition).await;
        for n in 0..COUNT {
            let headers = {
                let mut headers = FieldTable::default();
                headers.insert("theirs".into(), kit::AMQPValue::LongLongInt(7));
                headers
            };
            let properties: Properties =
                id(&n.to_string()).with_headers(headers).with_app_id("billing".into());
            world.publish(properties, format!("nonsense {n}")).await;
        }
        world.outcomes.wait_count(COUNT, SOON).await;
        let dead = async || {
            let dead_letters = export(&world.ctx).await;
            let mut dead_letters: Vec<_> = dead_letters
                .into_iter()
                .map(|mut dead_letter| {
                    // RabbitMQ changes these counts.
                    for name in ["x-delivery-count", "x-acquired-count"] {
                        dead_letter["headers"].as_object_mut().expect("headers").remove(name);
                    }
                    dead_letter.to_string()
                })
                .collect();
            dead_letters.sort();
            dead_letters
        };
        let before = dead().await;
        assert_eq!(before.len(), COUNT);
        for _ in 0..10 {
            export(&world.ctx).await;
        }
        kit::eventually("all are requeued unchanged", SOON, async || {
            let now = dead().await;
            if now == before { Ok(()) } else { Err(format!("{} dead letters", now.len())) }
        })
        .await;
        assert_eq!(world.outcomes.len(), COUNT, "no outcome was published again");
    });
}

#[test]
fn a_dead_letter_that_a_policy_removed_is_put_back_however_often_workers_lost_it() {
    kit::run_within(SOON * 3, async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.publish(id("removed"), "nonsense").await;
        world.outcome().await;
        world.stop().await;
        let amqp = world.ctx.amqp().await;
        world.ctx.vhost().management().set_policy("limit", DEAD, json!({"delivery-limit": 3})).await;
        lose_until_given_up(&amqp, DEAD, UNDELIVERABLE).await;
        lose(&amqp, UNDELIVERABLE, 60).await;
        let _worker = start_worker(&world.ctx, world.ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
        kit::eventually("it is put back", SOON, async || amqp.ready_count(DEAD).await == 1).await;
        let dead_letter = export(&world.ctx).await.remove(0);
        assert_eq!(dead_letter["dead_letter"]["status"], json!("invalid"));
        assert_eq!(dead_letter["dead_letter"]["request_id"], json!("removed"));
        assert_eq!(world.outcomes.len(), 1, "no outcome was published again");
    });
}

#[test]
fn a_request_that_was_delivered_too_often_has_an_outcome_also_if_a_worker_lost_it_once_more() {
    kit::run(async |ctx| {
        declared(&ctx).await;
        let amqp = ctx.amqp().await;
        amqp.publish(EXCHANGE, REQUEST, id("deadly"), b"poison").await;
        lose_until_given_up(&amqp, REQUESTS, UNDELIVERABLE).await;
        lose(&amqp, UNDELIVERABLE, 10).await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        let _worker = start_worker(&ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
        let outcome = outcomes.next(SOON).await.json();
        assert_eq!(
            (&outcome["status"], &outcome["reason"], &outcome["request_id"]),
            (&json!("abandoned"), &json!("delivery_limit"), &json!("deadly"))
        );
    });
}

/// A request that workers lost that often when they only moved it: it is left as it is, and another is settled. Both
/// are dead letters, and the expected ones have outcomes.
async fn set_aside_after(ctx: &Context, times: usize, expected: &[&str]) {
    declared(ctx).await;
    let amqp = ctx.amqp().await;
    let body = vec![7; 1024 * 1024];
    amqp.publish("", UNDELIVERABLE, id("deadly").with_app_id("billing".into()), &body).await;
    lose(&amqp, UNDELIVERABLE, times).await;
    amqp.publish("", UNDELIVERABLE, id("other"), b"{}").await;
    let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
    let worker = start_worker(ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
    kit::eventually("both are dead letters", SOON, async || amqp.ready_count(DEAD).await == 2).await;
    worker.signal(kit::Signal::TERM);
    worker.wait_exit(SOON).await;
    let logged = |line: &&String| line.contains("undeliverable_set_aside");
    assert_eq!(worker.stderr().iter().filter(logged).count(), 1);
    let dead_letters = amqp.drain(DEAD).await;
    let deadly = dead_letters.iter().find(|message| message.properties.app_id().is_some());
    let deadly = deadly.expect("the deadly one");
    assert!(deadly.body == body, "the body changed");
    let moved = dead_letters.iter().filter(|message| message.header("x-death").is_some()).count();
    assert_eq!(moved, 1, "RabbitMQ itself moved only the deadly one");
    assert_eq!(amqp.ready_count(UNDELIVERABLE).await, 0);
    let heard = outcomes.wait_count(expected.len(), SOON).await;
    let mut ids: Vec<_> = heard.iter().map(|outcome| text(&outcome.json()["request_id"])).collect();
    ids.sort();
    assert_eq!(ids, expected);
}

#[test]
fn a_request_that_takes_down_the_workers_that_only_move_it_is_set_aside_after_its_outcome() {
    kit::run_within(SOON * 3, async |ctx| {
        set_aside_after(&ctx, 55, &["deadly", "other"]).await;
    });
}

#[test]
fn a_request_whose_outcome_takes_down_the_workers_too_is_set_aside_without_one() {
    kit::run_within(SOON * 3, async |ctx| {
        set_aside_after(&ctx, 105, &["other"]).await;
    });
}

#[test]
fn an_unreadable_dead_letter_that_a_policy_drops_is_published_again_and_ends_no_session() {
    kit::run_within(SOON * 3, async |ctx| {
        let listen = format!("127.0.0.1:{}", kit::free_port());
        let world = World::start_with(ctx, &[("OPS__LISTEN", &listen)], |_| Answer::unlocked()).await;
        let mut raw = RawAmqp::connect(world.ctx.amqp_url()).await.expect("a connection");
        raw.publish(REQUESTS, MESSAGE_ID, &[], &short(b"\xff\xfe"), b"{}").await.expect("published");
        let outcome = world.outcome().await;
        assert_eq!(outcome["reason"], json!("unreadable"));
        world.ctx.vhost().management().set_policy("limit", DEAD, json!({"delivery-limit": 3})).await;
        // The log leaves out what it has just said.
        let sessions = async || {
            let metrics = scrape(&format!("http://{listen}")).await;
            sample(&metrics, "unlocker_broker_reconnects_total", &[])
        };
        let before = sessions().await;
        let back =
            async || kit::eventually("it is there", SOON, async || export(&world.ctx).await.len() == 1).await;
        for _ in 0..8 {
            back().await;
        }
        let dead_letter = export(&world.ctx).await.remove(0);
        assert_eq!(dead_letter["dead_letter"]["status"], json!("unreadable"));
        assert_eq!(sessions().await, before, "a session was lost");
        assert_eq!(world.outcomes.len(), 1, "no outcome was published again");
    });
}

async fn export(ctx: &Context) -> Vec<serde_json::Value> {
    let program =
        crate::world::unlocker(ctx.amqp_url(), "http://127.0.0.1:1").arg("dead-letters").arg("export");
    let export = ctx.start(&program);
    export.wait_exit(SOON).await;
    export.stdout().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}
