//! Oldest first, whatever order the queue has.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::world::{REQUESTS, RESULTS};

/// The dead letters 0 to `count`, in a shuffled order, with mixed priorities.
fn shuffled(count: usize) -> Vec<(Properties, Vec<u8>)> {
    let step = 7919; // A prime larger than any count here: every number comes once.
    let shuffled = (0..count).map(|n| n * step % count);
    shuffled.map(|n| (dead_letter(n).0.with_priority((n % 10) as u8), dead_letter(n).1)).collect()
}

async fn publish_shuffled(amqp: &Amqp, count: usize) {
    amqp.publish_all(DEAD, "", shuffled(count)).await;
    kit::eventually("the dead letters", SOON, async || amqp.ready_count(DEAD).await as usize == count).await;
}

fn ids(output: &CommandOutput) -> Vec<String> {
    let id = |line: &Value| line["request_id"].as_str().map(str::to_owned);
    output.json().iter().filter_map(id).collect()
}

fn expected(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("r-{n}")).collect()
}

async fn confirm(ctx: &Context, args: &[&str], plan: &Value) -> CommandOutput {
    let digest = plan["digest"].as_str().expect("a digest");
    run_command(ctx, &[args, &["--confirm", digest, "--json"]].concat()).await
}

#[test]
fn dead_letters_are_listed_planned_and_exported_oldest_first() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        amqp.publish(DEAD, "", id("no-time"), b"{}").await;
        publish_shuffled_after(&amqp, 120).await;
        let all = [expected(120), vec!["no-time".to_owned()]].concat();
        assert_eq!(ids(&run_command(&ctx, &["list", "--json"]).await), all);
        assert_eq!(ids(&run_command(&ctx, &["list", "--json", "--limit", "9"]).await), expected(9));
        let exported = run_command(&ctx, &["export", "--limit", "30"]).await;
        let exported: Vec<_> =
            exported.json().iter().map(|line| line["dead_letter"]["request_id"].clone()).collect();
        assert_eq!(exported, expected(30));
        let listed = run_command(&ctx, &["list", "--json"]).await.json();
        let by_age: Vec<_> = listed.iter().map(|dead_letter| dead_letter["id"].clone()).collect();
        assert_eq!(plan(&ctx, &["replay"]).await["ids"], json!(by_age));
        let oldest = run_command(&ctx, &["summary", "--json", "--limit", "5"]).await.json().remove(0);
        assert_eq!((&oldest["count"], &oldest["newest"]), (&json!(5), &json!("2026-11-01T09:00:04.000Z")));
    });
}

async fn publish_shuffled_after(amqp: &Amqp, count: usize) {
    amqp.publish_all(DEAD, "", shuffled(count)).await;
    kit::eventually("the dead letters", SOON, async || amqp.ready_count(DEAD).await as usize == count + 1)
        .await;
}

#[test]
fn three_hundred_and_fifty_dead_letters_are_replayed_oldest_first_and_each_once() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_shuffled(&amqp, 350).await;
        let plan = plan(&ctx, &["replay"]).await;
        let pace = ["replay", "--rate", "5000/s", "--wait", "1ms", "--keep-going"];
        let output = confirm(&ctx, &pace, &plan).await;
        assert_eq!(ids(&output), expected(350), "{:?}", output.stderr);
        let mut replayed: BTreeMap<String, usize> = BTreeMap::new();
        for request in amqp.drain(REQUESTS).await {
            *replayed
                .entry(request.properties.message_id().as_ref().expect("an id").to_string())
                .or_default() += 1;
        }
        assert_eq!((replayed.len(), replayed.values().max()), (350, Some(&1)));
        assert_eq!(amqp.ready_count(DEAD).await, 0);
    });
}

#[test]
fn two_and_a_half_thousand_dead_letters_are_discarded_oldest_first_and_each_once() {
    kit::run_within(SOON * 4, async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_shuffled(&amqp, 2500).await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.discarded").await;
        let plan = plan(&ctx, &["discard", "--note", "over"]).await;
        let output = confirm(&ctx, &["discard"], &plan).await;
        assert_eq!(output.code, Some(0), "{:?}", output.stderr);
        assert_eq!(ids(&output), expected(2500));
        let received = outcomes.wait_count(2500, SOON).await;
        let received: Vec<_> = received.iter().map(|outcome| outcome.json()["request_id"].clone()).collect();
        assert_eq!(received, expected(2500));
        assert_eq!(amqp.ready_count(DEAD).await, 0);
    });
}

#[test]
fn identical_dead_letters_are_each_discarded_once_in_any_number_of_rounds() {
    kit::run_within(SOON * 4, async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        // More than is held at once.
        let (properties, _) = dead_letter(1);
        for _ in 0..4 {
            amqp.publish(DEAD, "", properties.clone(), &vec![b'x'; 12_000_000]).await;
        }
        kit::eventually("the dead letters", SOON, async || amqp.ready_count(DEAD).await == 4).await;
        // One of them is not in the plan.
        let plan = plan(&ctx, &["discard", "--note", "over", "--limit", "3"]).await;
        let output = confirm(&ctx, &["discard"], &plan).await;
        let results: Vec<_> =
            output.json().iter().filter_map(|line| line["result"].as_str().map(str::to_owned)).collect();
        assert_eq!((output.code, results), (Some(0), vec!["discarded".to_owned(); 3]), "{}", output.text());
        assert_eq!(amqp.ready_count(DEAD).await, 1);
    });
}

#[test]
fn the_newest_hundred_dead_letters_of_a_request_are_shown() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        let same = shuffled(150).into_iter().map(|(of, body)| (of.with_message_id("same".into()), body));
        amqp.publish_all(DEAD, "", same).await;
        kit::eventually("the dead letters", SOON, async || amqp.ready_count(DEAD).await == 150).await;
        let output = run_command(&ctx, &["show", "same", "--json"]).await;
        let shown = output.json();
        let times: Vec<_> =
            shown.iter().map(|dead_letter| dead_letter["dead_letter"]["dead_at"].clone()).collect();
        assert_eq!((times.len(), &times[0]), (100, &json!("2026-11-01T09:00:50.000Z")));
        assert!(output.text().contains("50 older ones with this id are not shown"), "{:?}", output.stderr);
    });
}
