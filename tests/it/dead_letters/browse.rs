//! Browsing, and several who browse at once.

use std::time::Instant;

use kit::{Answer, Message};
use serde_json::json;

use super::*;
use crate::{
    telemetry::{sample, scrape},
    world::{UNDELIVERABLE, World},
};

/// What must not change: everything except RabbitMQ's own delivery counts.
fn lasting(mut dead_letters: Vec<Message>) -> Vec<(Properties, Vec<u8>)> {
    let lasting = |dead_letter: Message| {
        let mut headers = dead_letter.properties.headers().clone().unwrap_or_default().inner().clone();
        headers.retain(|name, _| !matches!(name.as_str(), "x-delivery-count" | "x-acquired-count"));
        (dead_letter.properties.with_headers(headers.into()), dead_letter.body)
    };
    dead_letters.drain(..).map(lasting).collect()
}

#[test]
fn fifty_browses_leave_count_and_bytes_of_a_thousand_dead_letters() {
    kit::run_within(SOON * 4, async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 1000).await;
        for n in 0..50 {
            let output = match n % 5 {
                0 => run_command(&ctx, &["summary", "--json"]).await,
                1 => run_command(&ctx, &["list", "--json"]).await,
                2 => run_command(&ctx, &["list", "--limit", "7", "--json"]).await,
                3 => run_command(&ctx, &["show", "r-500", "--json"]).await,
                _ => run_command(&ctx, &["export", "--reason", "http_401"]).await,
            };
            assert_eq!(output.code, Some(0), "{}", output.text());
            let first = output.json().remove(0);
            match n % 5 {
                0 => assert_eq!((&first["count"], &first["coverage"]["seen"]), (&json!(1000), &json!(1000))),
                1 => assert_eq!(output.stdout.len(), 1000),
                2 => assert_eq!(output.stdout.len(), 7),
                3 => assert_eq!(first["dead_letter"]["request_id"], "r-500"),
                _ => assert_eq!(output.stdout.len(), 200),
            }
            assert_eq!(amqp.ready_count(DEAD).await, 1000, "all are back before the command ends");
        }
        let mut expected: Vec<_> = (0..1000).map(dead_letter).collect();
        let mut found = lasting(amqp.drain(DEAD).await);
        for dead_letters in [&mut expected, &mut found] {
            dead_letters.sort_by_key(|(properties, _)| properties.message_id().clone());
        }
        assert_eq!(found, expected);
    });
}

#[test]
fn dead_letters_of_many_consumers_are_listed_in_the_same_order_each_time() {
    kit::run_within(SOON * 4, async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 30_000).await;
        let mut before: Option<Vec<Value>> = None;
        for limit in ["30000", "11111", "30000"] {
            let output = run_command(&ctx, &["list", "--limit", limit, "--json"]).await;
            let ids: Vec<Value> =
                output.json().iter().map(|dead_letter| dead_letter["request_id"].clone()).collect();
            assert_eq!(ids.len(), limit.parse::<usize>().expect("a number"), "{:?}", output.stderr);
            if let Some(before) = &before {
                assert!(before.starts_with(&ids), "the order has changed: {:?}", ids.first());
            }
            kit::eventually("all are back", SOON, async || amqp.ready_count(DEAD).await == 30_000).await;
            before.get_or_insert(ids);
        }
        let expected: Vec<Value> = (0..30_000).map(|n| format!("r-{n}").into()).collect();
        assert_eq!(before, Some(expected));
    });
}

#[test]
fn a_dead_letter_is_shown_with_body_and_headers_and_the_audit_log_has_it() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 3).await;
        let output = run_command(&ctx, &["show", "r-1", "--json"]).await;
        let shown = output.json().remove(0);
        assert_eq!(shown["body"], r#"{"customer_id":"1","note":"ü"}"#);
        assert_eq!(shown["dead_letter"]["status"], "refused");
        assert_eq!(shown["dead_letter"]["reason"], "http_401");
        assert_eq!(shown["dead_letter"]["attempts"], 3);
        assert_eq!(shown["properties"]["priority"], 1);
        let audit: Value = serde_json::from_str(&output.stderr[0]).expect("an audit line");
        assert_eq!(
            (&audit["event"], &audit["id"], &audit["actor"]),
            (&json!("show"), &json!("r-1"), &json!("tester"))
        );
        // By the dead letter's own id too.
        let id = shown["dead_letter"]["id"].as_str().expect("an id").to_owned();
        assert_eq!(
            run_command(&ctx, &["show", &id, "--json"]).await.json()[0]["dead_letter"]["request_id"],
            "r-1"
        );
        let none = run_command(&ctx, &["show", "r-9"]).await;
        assert_eq!(none.code, Some(1));
        assert!(none.text().contains("no dead letter r-9"), "{}", none.text());
    });
}

#[test]
fn a_dead_letter_of_the_broker_is_shown_with_rabbitmqs_reason_whatever_headers_its_sender_forged() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        let mut forged = FieldTable::default();
        for (name, value) in [
            ("unlocker-status", "refused"),
            ("unlocker-reason", "http_404"),
            ("unlocker-dead-at", "2020-01-01T00:00:00.000Z"),
        ] {
            forged.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        let limit = json!({"delivery-limit": 3});
        ctx.vhost().management().set_policy("limit", UNDELIVERABLE, limit).await;
        amqp.publish("", UNDELIVERABLE, id("deadly").with_headers(forged), b"{}").await;
        // Like a worker that crashes on it again and again: RabbitMQ 4.3 counts no other requeues.
        kit::eventually("RabbitMQ gives up", SOON, async || {
            let dying = ctx.amqp().await;
            let channel = dying.channel().await;
            channel.basic_get(UNDELIVERABLE.into(), Default::default()).await.expect("an answer");
            dying.close().await;
            amqp.ready_count(DEAD).await == 1
        })
        .await;
        let listed = run_command(&ctx, &["list", "--status", "unknown", "--json"]).await.json().remove(0);
        assert_eq!((&listed["reason"], &listed["request_id"]), (&json!("delivery_limit"), &json!("deadly")));
        assert!(listed["dead_at"].as_str().is_some_and(|at| !at.starts_with("2020")), "{listed}");
        let detail = listed["detail"].as_str().expect("a detail");
        assert!(
            detail.contains("from trackfinity.unlock.undeliverable: it was redelivered again and again"),
            "{detail}"
        );
        let table = run_command(&ctx, &["summary"]).await;
        assert!(table.text().contains("delivery_limit"), "{}", table.text());
    });
}

#[test]
fn filters_select_what_meets_every_condition() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 100).await;
        let count =
            async |args: &[&str]| run_command(&ctx, &[&["list", "--json"], args].concat()).await.stdout.len();
        assert_eq!(count(&["--reason", "http_400,http_401"]).await, 40);
        assert_eq!(count(&["--since", "2026-11-01T09:01:00Z"]).await, 40);
        assert_eq!(count(&["--until", "2026-11-01T09:00:09Z", "--reason", "http_404"]).await, 2);
        assert_eq!(count(&["--id", "r-1", "--id", "r-2,r-3"]).await, 3);
        assert_eq!(count(&["--status", "abandoned"]).await, 0);
        let wrong = run_command(&ctx, &["list", "--status", "dead"]).await;
        assert_eq!(wrong.code, Some(2));
        assert!(
            wrong.text().contains("invalid, refused, abandoned, unreadable, unknown"),
            "{}",
            wrong.text()
        );
    });
}

#[test]
fn an_empty_queue_and_a_missing_queue_are_reported_plainly() {
    kit::run(async |ctx| {
        let missing = run_command(&ctx, &["summary"]).await;
        assert_eq!(missing.code, Some(1));
        assert!(missing.text().contains("no queue 'trackfinity.unlock.dead'"), "{}", missing.text());
        declare(&ctx).await;
        let none = run_command(&ctx, &["summary"]).await;
        assert_eq!((none.code, none.stdout[0].starts_with("no dead letters")), (Some(0), true));
        let away = Program::new(env!("CARGO_BIN_EXE_unlocker"))
            .env("UNLOCKER__BROKER__URL", "amqp://127.0.0.1:1")
            .args(["dead-letters", "summary"]);
        assert_eq!(ended(&ctx.start(&away)).await.code, Some(69));
    });
}

#[test]
fn browses_at_the_same_time_wait_for_each_other() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 500).await;
        let browses: Vec<_> = (0..4).map(|_| ctx.start(&command(&ctx, &["summary", "--json"]))).collect();
        for browse in &browses {
            let output = ended(browse).await;
            assert_eq!(output.code, Some(0), "{}", output.text());
            assert_eq!(output.json()[0]["count"], 500);
        }
    });
}

#[test]
fn scraping_metrics_often_never_takes_a_dead_letter() {
    kit::run(async |ctx| {
        let listen = format!("127.0.0.1:{}", kit::free_port());
        let (line, url) = ctx.cutter().await;
        let settings = [("OPS__LISTEN", listen.as_str()), ("BROKER__URL", &url)];
        let world = World::start_with(ctx, &settings, |_| Answer::unlocked()).await;
        publish_dead_letters(&world.amqp, 10).await;
        kit::eventually("the dead letters are counted", SOON, async || {
            let text = scrape(&format!("http://{listen}")).await;
            sample(&text, "unlocker_queue_messages", &[("queue", "dead")]) == Some(10.0)
        })
        .await;
        assert_eq!(
            line.accepted(),
            3,
            "one for the frame size, one to consume, one to publish, none to browse"
        );
        let dead_letters = world.amqp.drain(DEAD).await;
        assert_eq!(dead_letters.len(), 10);
        for dead_letter in &dead_letters {
            // RabbitMQ 3.10 writes a zero where it has counted none.
            let browses = dead_letter.header("x-delivery-count");
            let is_none = matches!(browses, None | Some(AMQPValue::LongLongInt(0)));
            assert!(is_none, "RabbitMQ has counted: {browses:?}");
        }
    });
}

#[test]
fn fifty_thousand_dead_letters_are_counted_quickly_and_in_little_memory() {
    kit::run_within(SOON * 4, async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 50_000).await;
        let started = Instant::now();
        let process = ctx.start(&command(&ctx, &["summary", "--json"]));
        let (mut peak, mut cpu) = (0, Duration::ZERO);
        kit::eventually("the summary", SOON * 2, async || {
            peak = peak.max(process.rss());
            cpu = cpu.max(process.cpu_time());
            process.try_exit().is_some()
        })
        .await;
        let took = started.elapsed();
        let summary = ended(&process).await.json().remove(0);
        println!("50,000 dead letters: {took:?}, {:?} of CPU, {} MiB", cpu, peak / 1024 / 1024);
        assert_eq!(summary["count"], 50_000);
        // Processor time, as other tests run beside this one.
        assert!(cpu.as_secs() < 10, "{cpu:?} of CPU, {took:?} in all");
        assert!(peak < 150 * 1024 * 1024, "{peak} bytes");
    });
}
