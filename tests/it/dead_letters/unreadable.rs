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

async fn bury_some(ctx: &Context, amqp: &Amqp) {
    for n in 0..3 {
        let (properties, body) = letter(n);
        amqp.publish("", DEAD, properties, &body).await;
        if n == 0 {
            publish_raw(ctx, DEAD, UNREADABLE, b"raw").await;
            publish_raw(ctx, DEAD, &with_request_id("known"), b"raw").await;
        }
    }
    kit::eventually("the letters", SOON, async || amqp.ready_count(DEAD).await == 5).await;
}

#[test]
fn letters_that_cannot_be_read_are_seen_and_hide_none() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        bury_some(&ctx, &amqp).await;
        let said = say(&ctx, &["summary", "--json"]).await;
        let summary = said.json().remove(0);
        assert_eq!((said.code, &summary["count"]), (Some(0), &json!(5)), "{}", said.text());
        let unreadable = summary["groups"]
            .as_array()
            .expect("groups")
            .iter()
            .find(|group| group["status"] == "unreadable");
        assert_eq!(unreadable.map(|group| &group["count"]), Some(&json!(2)), "{summary}");

        let listed = say(&ctx, &["list", "--json", "--status", "unreadable"]).await.json();
        assert_eq!(listed.len(), 2);
        assert_eq!((&listed[0]["request_id"], &listed[1]["request_id"]), (&Value::Null, &json!("known")));
        assert!(listed[0]["detail"].as_str().is_some_and(|why| why.contains("a message_id is not UTF-8")));

        let id = listed[0]["id"].as_str().expect("an id");
        let shown = say(&ctx, &["show", id, "--json"]).await.json().remove(0);
        assert_eq!(shown["body"], "raw");
        assert!(shown["properties_hex"].as_str().is_some_and(|hex| hex.ends_with("02fffe")), "{shown}");
        assert_eq!(shown["properties"]["message_id"], "\u{fffd}\u{fffd}");
        assert_eq!(say(&ctx, &["export"]).await.stdout.len(), 5);
        assert_eq!(amqp.ready_count(DEAD).await, 5);
    });
}

#[test]
fn letters_that_cannot_be_read_are_discarded_and_every_letter_has_one_outcome() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        bury_some(&ctx, &amqp).await;
        let listed = say(&ctx, &["list", "--json", "--status", "unreadable"]).await.json();
        let outcomes = amqp.consume_into(RESULTS, "unlock.discarded").await;
        let plan = plan(&ctx, &["discard", "--note", "over"]).await;
        let digest = plan["digest"].as_str().expect("a digest");
        let said = say(&ctx, &["discard", "--confirm", digest, "--json"]).await;
        assert_eq!(said.code, Some(0), "{}", said.text());
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for outcome in outcomes.wait_count(5, SOON).await {
            *found.entry(outcome.json()["request_id"].as_str().expect("an id").to_owned()).or_default() += 1;
        }
        let derived = format!("letter-{}", listed[0]["id"].as_str().expect("an id"));
        let expected = ["known", &derived, "r-0", "r-1", "r-2"].map(|id| (id.to_owned(), 1));
        assert_eq!(found, BTreeMap::from(expected));
        assert_eq!(amqp.ready_count(DEAD).await, 0);
    });
}

#[test]
fn looks_change_no_byte_and_no_place_of_letters_that_cannot_be_read() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        bury_some(&ctx, &amqp).await;
        let exported = async || {
            let mut lines = say(&ctx, &["export"]).await.json();
            // RabbitMQ's own count of deliveries is all that may change.
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
            say(&ctx, &["list", "--limit", "1"]).await;
            say(&ctx, &["show", "known"]).await;
            assert_eq!(exported().await, first);
        }
        assert_eq!((first.len(), amqp.ready_count(DEAD).await), (5, 5));
    });
}

#[test]
fn a_replay_leaves_out_what_cannot_be_read_and_says_so() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        bury_some(&ctx, &amqp).await;
        let said = say(&ctx, &["replay", "--json"]).await;
        assert_eq!(said.json()[0]["ids"].as_array().map(Vec::len), Some(3));
        assert!(said.text().contains("2 of the letters cannot be replayed"), "{}", said.text());
        let none = say(&ctx, &["replay", "--status", "unreadable"]).await;
        assert!(none.text().contains("no letter to replay"), "{}", none.text());
    });
}
