//! Looking, and who may look when.

use std::time::Instant;

use kit::{Answer, Message};
use serde_json::json;

use super::*;
use crate::{
    telemetry::{sample, scrape},
    world::{UNDELIVERABLE, World},
};

/// What must not change: everything but RabbitMQ's own count of deliveries.
fn lasting(mut letters: Vec<Message>) -> Vec<(Properties, Vec<u8>)> {
    let lasting = |letter: Message| {
        let mut headers = letter.properties.headers().clone().unwrap_or_default().inner().clone();
        headers.retain(|name, _| !matches!(name.as_str(), "x-delivery-count" | "x-acquired-count"));
        (letter.properties.with_headers(headers.into()), letter.body)
    };
    letters.drain(..).map(lasting).collect()
}

#[test]
fn fifty_looks_leave_order_count_and_bytes_of_a_thousand_letters() {
    kit::run_within(SOON * 4, async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        bury(&amqp, 1000).await;
        for n in 0..50 {
            let said = match n % 5 {
                0 => say(&ctx, &["summary", "--json"]).await,
                1 => say(&ctx, &["list", "--json"]).await,
                // Those that end early give back what they have not seen, too.
                2 => say(&ctx, &["list", "--limit", "7", "--json"]).await,
                3 => say(&ctx, &["show", "r-500", "--json"]).await,
                _ => say(&ctx, &["export", "--reason", "http_401"]).await,
            };
            assert_eq!(said.code, Some(0), "{}", said.text());
            let first = said.json().remove(0);
            match n % 5 {
                0 => assert_eq!((&first["count"], &first["extent"]["seen"]), (&json!(1000), &json!(1000))),
                1 => assert_eq!(said.stdout.len(), 1000),
                2 => assert_eq!(said.stdout.len(), 7),
                3 => assert_eq!(first["letter"]["request_id"], "r-500"),
                _ => assert_eq!(said.stdout.len(), 200),
            }
            let ready = async || amqp.ready_count(DEAD).await == 1000;
            kit::eventually("all letters are back", SOON, ready).await;
        }
        let expected: Vec<_> = (0..1000).map(letter).collect();
        let found = lasting(amqp.drain(DEAD).await);
        let ids = |letters: &[(Properties, Vec<u8>)]| {
            letters.iter().map(|(of, _)| of.message_id().clone()).collect::<Vec<_>>()
        };
        assert_eq!(ids(&found), ids(&expected));
        assert_eq!(found, expected);
    });
}

#[test]
fn letters_of_many_consumers_keep_their_order() {
    kit::run_within(SOON * 4, async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        bury(&amqp, 30_000).await;
        let mut before: Option<Vec<Value>> = None;
        for limit in ["30000", "11111", "30000"] {
            let said = say(&ctx, &["list", "--limit", limit, "--json"]).await;
            let ids: Vec<Value> = said.json().iter().map(|letter| letter["request_id"].clone()).collect();
            assert_eq!(ids.len(), limit.parse::<usize>().expect("a number"), "{:?}", said.stderr);
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
fn a_letter_is_shown_with_everything_it_holds_and_that_is_written_down() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        bury(&amqp, 3).await;
        let said = say(&ctx, &["show", "r-1", "--json"]).await;
        let shown = said.json().remove(0);
        assert_eq!(shown["body"], r#"{"customer_id":"1","note":"ü"}"#);
        assert_eq!(shown["letter"]["status"], "refused");
        assert_eq!(shown["letter"]["reason"], "http_401");
        assert_eq!(shown["letter"]["attempts"], 3);
        assert_eq!(shown["properties"]["priority"], 1);
        let audit: Value = serde_json::from_str(&said.stderr[0]).expect("an audit line");
        assert_eq!(
            (&audit["deed"], &audit["id"], &audit["actor"]),
            (&json!("show"), &json!("r-1"), &json!("tester"))
        );
        // By the letter's own id too.
        let id = shown["letter"]["id"].as_str().expect("an id").to_owned();
        assert_eq!(say(&ctx, &["show", &id, "--json"]).await.json()[0]["letter"]["request_id"], "r-1");
        let none = say(&ctx, &["show", "r-9"]).await;
        assert_eq!(none.code, Some(1));
        assert!(none.text().contains("no dead letter r-9"), "{}", none.text());
    });
}

#[test]
fn a_letter_of_the_broker_is_shown_with_what_rabbitmq_says_whatever_its_sender_forged() {
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
        amqp.publish("", UNDELIVERABLE, id("deadly").with_headers(forged), b"{}").await;
        // As a worker that dies of it again and again: RabbitMQ 4.3 counts no other returns.
        kit::eventually("RabbitMQ gives up", SOON, async || {
            let dying = ctx.amqp().await;
            let channel = dying.channel().await;
            channel.basic_get(UNDELIVERABLE.into(), Default::default()).await.expect("an answer");
            dying.close().await;
            amqp.ready_count(DEAD).await == 1
        })
        .await;
        let listed = say(&ctx, &["list", "--status", "unknown", "--json"]).await.json().remove(0);
        assert_eq!((&listed["reason"], &listed["request_id"]), (&json!("delivery_limit"), &json!("deadly")));
        assert!(listed["dead_at"].as_str().is_some_and(|at| !at.starts_with("2020")), "{listed}");
        let detail = listed["detail"].as_str().expect("a detail");
        assert!(
            detail.contains("from trackfinity.unlock.undeliverable: it was redelivered again and again"),
            "{detail}"
        );
        let table = say(&ctx, &["summary"]).await;
        assert!(table.text().contains("delivery_limit"), "{}", table.text());
    });
}

#[test]
fn filters_choose_by_all_that_is_given() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        bury(&amqp, 100).await;
        let count = async |args: &[&str]| say(&ctx, &[&["list", "--json"], args].concat()).await.stdout.len();
        assert_eq!(count(&["--reason", "http_400,http_401"]).await, 40);
        assert_eq!(count(&["--since", "2026-11-01T09:01:00Z"]).await, 40);
        assert_eq!(count(&["--until", "2026-11-01T09:00:09Z", "--reason", "http_404"]).await, 2);
        assert_eq!(count(&["--id", "r-1", "--id", "r-2,r-3"]).await, 3);
        assert_eq!(count(&["--status", "abandoned"]).await, 0);
        let wrong = say(&ctx, &["list", "--status", "dead"]).await;
        assert_eq!(wrong.code, Some(2));
        assert!(
            wrong.text().contains("invalid, refused, abandoned, unreadable, unknown"),
            "{}",
            wrong.text()
        );
    });
}

#[test]
fn a_look_finds_nothing_and_no_queue_said_plainly() {
    kit::run(async |ctx| {
        let missing = say(&ctx, &["summary"]).await;
        assert_eq!(missing.code, Some(1));
        assert!(missing.text().contains("no queue 'trackfinity.unlock.dead'"), "{}", missing.text());
        declare(&ctx).await;
        let none = say(&ctx, &["summary"]).await;
        assert_eq!((none.code, none.stdout[0].starts_with("no dead letters")), (Some(0), true));
        let away = Program::new(env!("CARGO_BIN_EXE_unlocker"))
            .env("UNLOCKER__BROKER__URL", "amqp://127.0.0.1:1")
            .args(["dead-letters", "summary"]);
        assert_eq!(ended(&ctx.start(&away)).await.code, Some(69));
    });
}

#[test]
fn looks_at_once_wait_for_each_other() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        bury(&amqp, 500).await;
        let looks: Vec<_> = (0..4).map(|_| ctx.start(&command(&ctx, &["summary", "--json"]))).collect();
        for look in &looks {
            let said = ended(look).await;
            assert_eq!(said.code, Some(0), "{}", said.text());
            assert_eq!(said.json()[0]["count"], 500);
        }
    });
}

#[test]
fn metrics_that_are_scraped_often_never_take_a_dead_letter() {
    kit::run(async |ctx| {
        let listen = format!("127.0.0.1:{}", kit::free_port());
        let (line, url) = ctx.cutter().await;
        let settings = [("OPS__LISTEN", listen.as_str()), ("BROKER__URL", &url)];
        let world = World::start_with(ctx, &settings, |_| Answer::unlocked()).await;
        bury(&world.amqp, 10).await;
        kit::eventually("the letters are counted", SOON, async || {
            let text = scrape(&format!("http://{listen}")).await;
            sample(&text, "unlocker_queue_messages", &[("queue", "dead")]) == Some(10.0)
        })
        .await;
        assert_eq!(line.accepted(), 2, "one to consume, one to publish, none to browse");
        let letters = world.amqp.drain(DEAD).await;
        assert_eq!(letters.len(), 10);
        for letter in &letters {
            // RabbitMQ 3.10 writes a zero where it has counted none.
            let browses = letter.header("x-delivery-count");
            let is_none = matches!(browses, None | Some(AMQPValue::LongLongInt(0)));
            assert!(is_none, "RabbitMQ has counted: {browses:?}");
        }
    });
}

#[test]
fn fifty_thousand_letters_are_summed_up_in_time_and_little_memory() {
    kit::run_within(SOON * 4, async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        bury(&amqp, 50_000).await;
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
        println!("50,000 letters: {took:?}, {:?} of CPU, {} MiB", cpu, peak / 1024 / 1024);
        assert_eq!(summary["count"], 50_000);
        // Processor time, as other tests run beside this one.
        assert!(cpu.as_secs() < 10, "{cpu:?} of CPU, {took:?} in all");
        assert!(peak < 150 * 1024 * 1024, "{peak} bytes");
    });
}
