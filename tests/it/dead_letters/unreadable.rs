//! Dead letters that no client library can read.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::{
    wire::{UNREADABLE, publish_raw},
    world::RESULTS,
};

/// Properties with a header, and a message id that is not UTF-8.
fn with_request_id(id: &str) -> Vec<u8> {
    let name = b"unlocker-request-id";
    let mut table = vec![u8::try_from(name.len()).expect("short")];
    table.extend(name);
    table.push(b'S');
    table.extend(u32::try_from(id.len()).expect("short").to_be_bytes());
    table.extend(id.as_bytes());
    let length = u32::try_from(table.len()).expect("short").to_be_bytes();
    [&b"\x20\x80"[..], &length, &table, b"\x02\xff\xfe"].concat()
}

async fn publish_some(ctx: &Context, amqp: &Amqp) {
    for n in 0..3 {
        let (properties, body) = dead_letter(n);
        amqp.publish("", DEAD, properties, &body).await;
        if n == 0 {
            publish_raw(ctx, DEAD, UNREADABLE, b"raw").await;
            publish_raw(ctx, DEAD, &with_request_id("known"), b"raw").await;
        }
    }
    kit::eventually("the dead letters", SOON, async || amqp.ready_count(DEAD).await == 5).await;
}

/// The dead letter whose request has no id. Those without a time are listed by their ids.
fn without_request_id(listed: &[Value]) -> &Value {
    listed.iter().find(|dead_letter| dead_letter["request_id"].is_null()).expect("one without a request id")
}

#[test]
fn unreadable_dead_letters_are_seen_and_hide_none() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_some(&ctx, &amqp).await;
        let output = run_command(&ctx, &["summary", "--json"]).await;
        let summary = output.json().remove(0);
        assert_eq!((output.code, &summary["count"]), (Some(0), &json!(5)), "{}", output.text());
        let unreadable = summary["groups"]
            .as_array()
            .expect("groups")
            .iter()
            .find(|group| group["status"] == "unreadable");
        assert_eq!(unreadable.map(|group| &group["count"]), Some(&json!(2)), "{summary}");

        let listed = run_command(&ctx, &["list", "--json", "--status", "unreadable"]).await.json();
        assert_eq!(listed.len(), 2);
        assert!(listed.iter().any(|dead_letter| dead_letter["request_id"] == "known"));
        let nameless = without_request_id(&listed);
        assert!(nameless["detail"].as_str().is_some_and(|why| why.contains("a message_id is not UTF-8")));

        let id = nameless["id"].as_str().expect("an id");
        let shown = run_command(&ctx, &["show", id, "--json"]).await.json().remove(0);
        assert_eq!(shown["body"], "raw");
        assert!(shown["properties_hex"].as_str().is_some_and(|hex| hex.ends_with("02fffe")), "{shown}");
        assert_eq!(shown["properties"]["message_id"], "\u{fffd}\u{fffd}");
        assert_eq!(run_command(&ctx, &["export"]).await.stdout.len(), 5);
        assert_eq!(amqp.ready_count(DEAD).await, 5);
    });
}

#[test]
fn unreadable_dead_letters_are_discarded_and_each_has_one_outcome() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_some(&ctx, &amqp).await;
        let listed = run_command(&ctx, &["list", "--json", "--status", "unreadable"]).await.json();
        let outcomes = amqp.consume_into(RESULTS, "unlock.discarded").await;
        let plan = plan(&ctx, &["discard", "--note", "over"]).await;
        let digest = plan["digest"].as_str().expect("a digest");
        let output = run_command(&ctx, &["discard", "--confirm", digest, "--json"]).await;
        assert_eq!(output.code, Some(0), "{}", output.text());
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for outcome in outcomes.wait_count(5, SOON).await {
            *found.entry(outcome.json()["request_id"].as_str().expect("an id").to_owned()).or_default() += 1;
        }
        let derived = format!("dead-letter-{}", without_request_id(&listed)["id"].as_str().expect("an id"));
        let expected = ["known", &derived, "r-0", "r-1", "r-2"].map(|id| (id.to_owned(), 1));
        assert_eq!(found, BTreeMap::from(expected));
        assert_eq!(amqp.ready_count(DEAD).await, 0);
    });
}

#[test]
fn browsing_changes_no_byte_and_no_position_of_unreadable_dead_letters() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_some(&ctx, &amqp).await;
        let exported = async || {
            let mut lines = run_command(&ctx, &["export"]).await.json();
            // Only RabbitMQ's own delivery counts may change.
            for line in &mut lines {
                line["properties_hex"] = Value::Null;
                if let Some(headers) = line["headers"].as_object_mut() {
                    headers.retain(|name, _| !name.starts_with("x-"));
                }
                if line["headers"] == json!({}) {
                    line["headers"] = Value::Null;
                }
            }
            lines
        };
        let first = exported().await;
        for _ in 0..10 {
            run_command(&ctx, &["list", "--limit", "1"]).await;
            run_command(&ctx, &["show", "known"]).await;
            assert_eq!(exported().await, first);
        }
        assert_eq!((first.len(), amqp.ready_count(DEAD).await), (5, 5));
    });
}

#[test]
fn a_replay_omits_unreadable_dead_letters_and_says_so() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_some(&ctx, &amqp).await;
        let output = run_command(&ctx, &["replay", "--json"]).await;
        assert_eq!(output.json()[0]["ids"].as_array().map(Vec::len), Some(3));
        assert!(
            output.text().contains("2 of the dead letters are unreadable and cannot be replayed"),
            "{}",
            output.text()
        );
        let none = run_command(&ctx, &["replay", "--status", "unreadable"]).await;
        assert!(none.text().contains("no dead letter to replay"), "{}", none.text());
    });
}
