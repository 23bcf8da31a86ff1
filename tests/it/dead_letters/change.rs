//! Replay and discard.

use kit::{Answer, Call};
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use serde_json::json;

use super::*;
use crate::world::{EXCHANGE, REQUEST, World, header};

const PLANS: &str = "trackfinity.unlock.dead.plans";
const LOCK: &str = "trackfinity.unlock.dead.lock";

/// A world whose Trackfinity refuses all customers below ten.
async fn world(ctx: Context) -> World {
    let answer = |call: &Call| match call.field("customer_id").is_some_and(|id| id.len() < 2) {
        true => Answer::json(400, r#"{"error":"no"}"#),
        false => Answer::unlocked(),
    };
    World::start(ctx, answer).await
}

fn digest(plan: &Value) -> &str {
    plan["digest"].as_str().expect("a digest")
}

fn results(output: &CommandOutput) -> Vec<&'static str> {
    let known =
        ["unlocked", "failed_again", "pending", "discarded", "gone", "out_of_reach", "publish_failed"];
    let name = |line: &Value| known.into_iter().find(|name| line["result"] == *name);
    output.json().iter().filter_map(name).collect()
}

#[test]
fn a_plan_does_nothing_until_it_is_confirmed() {
    kit::run(async |ctx| {
        let world = world(ctx).await;
        publish_dead_letters(&world.amqp, 13).await;
        let plan = plan(&world.ctx, &["replay", "--since", "2026-11-01T09:00:10Z"]).await;
        assert_eq!((&plan["action"], plan["ids"].as_array().map(Vec::len)), (&json!("replay"), Some(3)));
        assert_eq!((world.amqp.ready_count(DEAD).await, world.trackfinity.count()), (13, 0));

        // A later one is not in the plan, although it matches the filter.
        let (late, body) = dead_letter(50);
        world.amqp.publish("", DEAD, late, &body).await;
        let output =
            run_command(&world.ctx, &["replay", "--confirm", digest(&plan), "--rate", "100/s", "--json"])
                .await;
        assert_eq!(output.code, Some(0), "{}", output.text());
        assert_eq!(results(&output), ["unlocked"; 3]);
        let outcomes = world.outcomes(3).await;
        assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["r-10", "r-11", "r-12"]);
        assert!(outcomes.values().all(|outcome| outcome["replays"] == 1 && outcome["attempts"] == 1));
        assert_eq!(world.amqp.ready_count(DEAD).await, 11);

        // Once more, and all are gone.
        let again = run_command(&world.ctx, &["replay", "--confirm", digest(&plan), "--json"]).await;
        assert_eq!((again.code, results(&again)), (Some(1), vec!["gone"; 3]));
        world.stop().await;
    });
}

#[test]
fn a_replay_keeps_body_properties_and_foreign_headers_byte_for_byte() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 1).await;
        let plan = plan(&ctx, &["replay"]).await;
        let output =
            run_command(&ctx, &["replay", "--confirm", digest(&plan), "--wait", "10ms", "--json"]).await;
        assert_eq!((output.code, results(&output)), (Some(1), vec!["pending"]), "{}", output.text());
        let request = amqp.drain(crate::world::REQUESTS).await.remove(0);
        let (original, body) = dead_letter(0);
        assert_eq!(request.body, body);
        let headers = |of: &Properties| of.headers().clone().unwrap_or_default().inner().clone();
        let mut kept = headers(&request.properties);
        kept.remove("x-delivery-count");
        let mut expected = headers(&original);
        expected.retain(|name, _| !name.as_str().starts_with("unlocker-"));
        expected.insert("unlocker-original-expiration".into(), AMQPValue::LongString("60000".into()));
        expected.insert("unlocker-replays".into(), AMQPValue::LongLongInt(1));
        expected.insert("unlocker-request-id".into(), AMQPValue::LongString("r-0".into()));
        assert_eq!(kept, expected);
        let bare = |of: &Properties| of.clone().with_headers(FieldTable::default());
        assert_eq!(bare(&request.properties), bare(&original));
    });
}

#[test]
fn a_replay_stops_at_the_first_dead_letter_that_fails_again() {
    kit::run(async |ctx| {
        let world = world(ctx).await;
        publish_dead_letters(&world.amqp, 12).await;
        let plan = plan(&world.ctx, &["replay"]).await;
        let confirm = ["replay", "--confirm", digest(&plan), "--rate", "100/s"];
        let output = run_command(&world.ctx, &[&confirm[..], &["--json"]].concat()).await;
        assert_eq!((output.code, results(&output)), (Some(1), vec!["failed_again"]), "{}", output.text());
        let finish = output.json().pop().expect("a finish");
        assert_eq!(
            (&finish["ended"], &finish["results"]["failed_again"], &finish["remaining"]),
            (&json!("failure"), &json!({"http_400": 1}), &json!(11))
        );
        // It is a new dead letter, at the end.
        let dead_letters = run_command(&world.ctx, &["list", "--json"]).await.json();
        let last = dead_letters.last().expect("a dead letter");
        assert_eq!(
            (dead_letters.len(), &last["request_id"], &last["replays"]),
            (12, &json!("r-0"), &json!(1))
        );

        let output = run_command(&world.ctx, &[&confirm[..], &["--keep-going"]].concat()).await;
        assert_eq!(output.code, Some(1), "{}", output.text());
        let text = output.stdout.join("\n");
        assert_eq!(text.matches("failed again: refused, http_400").count(), 9, "{text}");
        assert_eq!(text.matches("  unlocked").count(), 2, "{text}");
        assert_eq!(text.matches("gone:").count(), 1, "{text}");
        kit::eventually("all are back", SOON, async || world.amqp.ready_count(DEAD).await == 10).await;
        world.stop().await;
    });
}

#[test]
fn a_dead_letter_whose_request_no_queue_would_take_stays() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 3).await;
        let plan = plan(&ctx, &["replay"]).await;
        ctx.vhost().management().delete_binding(EXCHANGE, crate::world::REQUESTS, REQUEST).await;
        let output = run_command(&ctx, &["replay", "--confirm", digest(&plan), "--json"]).await;
        assert_eq!((output.code, results(&output)), (Some(1), vec!["publish_failed"]), "{}", output.text());
        kit::eventually("all are back", SOON, async || amqp.ready_count(DEAD).await == 3).await;
    });
}

#[test]
fn a_discarded_dead_letter_has_an_outcome_with_the_persons_reason() {
    kit::run(async |ctx| {
        let world = world(ctx).await;
        let replies = world.amqp.consume_into("amq.direct", "unused").await;
        world.amqp.declare_queue("results.mine", FieldTable::default()).await;
        let copies = world.amqp.consume_queue("results.mine").await;
        let (properties, body) = dead_letter(7);
        let properties = properties.with_reply_to("results.mine".into()).with_correlation_id("c-7".into());
        world.amqp.publish("", DEAD, properties, &body).await;
        publish_one_more(&world).await;
        let plan = plan(&world.ctx, &["discard", "--id", "r-7", "--note", "customer is gone"]).await;
        let confirm = command(&world.ctx, &["discard", "--confirm", digest(&plan), "--json"])
            .env("UNLOCKER__RESULTS__REPLY_TO_PREFIXES", "results.");
        let output = ended(&world.ctx.start(&confirm)).await;
        assert_eq!((output.code, results(&output)), (Some(0), vec!["discarded"]), "{}", output.text());
        let outcome = world.outcomes.next(SOON).await;
        assert_eq!(outcome.routing_key, "unlock.discarded");
        assert_eq!(outcome.properties.message_id().as_ref().map(|id| id.as_str()), Some("r-7/0"));
        let json = outcome.json();
        assert_eq!((&json["status"], &json["reason"]), (&json!("discarded"), &json!("customer is gone")));
        assert_eq!((&json["request"]["customer_id"], &json["attempts"]), (&json!("7"), &json!(3)));
        let copy = copies.next(SOON).await;
        assert_eq!((copy.body, copy.properties.correlation_id().clone()), (outcome.body, Some("c-7".into())));
        assert_eq!(world.amqp.ready_count(DEAD).await, 1);
        assert!(replies.is_empty());
        assert_eq!(world.trackfinity.count(), 0);
    });
}

async fn publish_one_more(world: &World) {
    let (properties, body) = dead_letter(8);
    world.amqp.publish("", DEAD, properties, &body).await;
}

#[test]
fn a_digest_confirms_its_own_plan_and_no_other() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 2).await;
        let plan = plan(&ctx, &["replay"]).await;
        let other = run_command(&ctx, &["discard", "--confirm", digest(&plan)]).await;
        assert_eq!(other.code, Some(1));
        assert!(other.text().contains("is a replay"), "{}", other.text());
        let none = run_command(&ctx, &["replay", "--confirm", "0123456789ab"]).await;
        assert_eq!(none.code, Some(1));
        assert!(none.text().contains("there is no plan 0123456789ab"), "{}", none.text());
        assert_eq!(run_command(&ctx, &["discard"]).await.code, Some(2), "a note is required");
        for note in ["", " ", "two\nlines"] {
            let refused = run_command(&ctx, &["discard", "--note", note]).await;
            assert_eq!(refused.code, Some(2), "{note:?}: {}", refused.text());
        }
        assert_eq!(amqp.ready_count(DEAD).await, 2);
    });
}

/// A search takes all plans from their queue. Here, the test is another operator's search.
#[test]
fn a_plan_is_found_while_another_operator_searches() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 1).await;
        let plan = plan(&ctx, &["replay"]).await;
        let other = ctx.amqp().await;
        let channel = other.channel().await;
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(LOCK.into(), exclusive, FieldTable::default()).await.expect("the lock");
        let taken = channel.basic_get(PLANS.into(), BasicGetOptions::default()).await.expect("an answer");
        assert!(taken.is_some());
        // Nothing is done: it is not a discard.
        let confirm = ctx.start(&command(&ctx, &["discard", "--confirm", digest(&plan)]));
        kit::eventually("it asks who has the lock, or ends", SOON, async || {
            other.ready_count(LOCK).await > 0 || confirm.try_exit().is_some()
        })
        .await;
        other.close().await;
        let output = ended(&confirm).await;
        assert!(output.text().contains("is a replay"), "{}", output.text());
        kit::eventually("the plan is back", SOON, async || amqp.ready_count(PLANS).await == 1).await;
    });
}

#[test]
fn without_an_audit_log_nothing_is_done_and_with_one_everything_is_recorded() {
    kit::run(async |ctx| {
        let world = world(ctx).await;
        publish_dead_letters(&world.amqp, 11).await;
        let plan = plan(&world.ctx, &["replay", "--id", "r-9,r-10"]).await;
        let confirm =
            command(&world.ctx, &["replay", "--confirm", digest(&plan), "--rate", "50/s", "--keep-going"]);
        let nowhere = confirm.clone().env("UNLOCKER__CONSOLE__AUDIT_LOG", "/nonexistent/audit.jsonl");
        let output = ended(&world.ctx.start(&nowhere)).await;
        assert_eq!(output.code, Some(1));
        assert!(
            output.text().contains("nothing was done, because the audit log cannot be written"),
            "{}",
            output.text()
        );
        assert_eq!((world.amqp.ready_count(DEAD).await, world.trackfinity.count()), (11, 0));
        let show =
            command(&world.ctx, &["show", "r-1"]).env("UNLOCKER__CONSOLE__AUDIT_LOG", "/nonexistent/a");
        let output = ended(&world.ctx.start(&show)).await;
        assert!(output.code == Some(1) && output.stdout.is_empty(), "{}", output.text());

        let log = std::env::temp_dir().join(format!("audit-{}.jsonl", std::process::id()));
        let output = ended(&world.ctx.start(&confirm.env("UNLOCKER__CONSOLE__AUDIT_LOG", &log))).await;
        assert_eq!(output.code, Some(1), "one failed again: {}", output.text());
        let counted = "2 requests replayed: 1 unlocked, 1 failed again (http_400)";
        assert_eq!(output.stdout.last().map(String::as_str), Some(counted));
        let lines = std::fs::read_to_string(&log).expect("the log");
        std::fs::remove_file(&log).expect("removed");
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap_or_default()).collect();
        assert_eq!(events, ["begin", "dead_letter", "result", "dead_letter", "result"]);
        assert!(lines.iter().all(|line| line["actor"] == "tester" && line["plan"] == plan["digest"]));
        assert_eq!(lines[2]["result"]["result"], "failed_again");
        assert_eq!(lines[4]["result"]["result"], "unlocked");
        assert!(!serde_json::to_string(&lines).expect("text").contains("customer_id"));
    });
}

#[test]
fn a_second_operator_learns_who_has_locked_the_dead_letters() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 3).await;
        let plan = plan(&ctx, &["replay"]).await;
        // No worker runs, so the replay waits for the first outcome.
        let first = ctx.start(
            &Program::new(env!("CARGO_BIN_EXE_unlocker"))
                .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
                .args(["dead-letters", "replay", "--confirm", digest(&plan), "--actor", "alice"]),
        );
        kit::eventually("the first is replayed", SOON, async || {
            amqp.ready_count(crate::world::REQUESTS).await == 1
        })
        .await;
        let output = run_command(&ctx, &["replay", "--confirm", digest(&plan)]).await;
        assert_eq!(output.code, Some(1));
        let text = output.text();
        assert!(text.contains("locked by alice by command line (replay, since 20"), "{text}");
        // When it is stopped, it prints its progress.
        first.signal(kit::Signal::INT);
        let output = ended(&first).await;
        assert_eq!(output.code, Some(1));
        let text = output.text();
        assert!(text.contains("1 request replayed: 1 without an outcome yet; 2 are untouched"), "{text}");
        kit::eventually("the others are back", SOON, async || amqp.ready_count(DEAD).await == 2).await;
        assert_eq!(run_command(&ctx, &["summary", "--json"]).await.json()[0]["count"], 2);
    });
}

#[test]
fn a_plan_shows_its_filter_its_note_and_the_command_that_executes_it() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        publish_dead_letters(&ctx.amqp().await, 12).await;
        let directory = std::env::temp_dir().join(format!("unlocker {}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = directory.join("settings.toml");
        std::fs::write(&file, "").expect("a file");
        let discard = command(&ctx, &["discard", "--reason", "http_404", "--note", "customer left"]);
        let discard = ended(&ctx.start(&discard.arg("--config").arg(&file))).await;
        let text = discard.stdout.join("\n");
        assert!(text.contains("\nfilter: --reason http_404\nnote: customer left\nplan "), "{text}");
        assert!(text.contains(": discard 2 dead letters. Nothing is done yet"), "{text}");
        let confirm = discard.stdout.last().expect("a command");
        let config = format!("  unlocker dead-letters discard --config '{}' --actor tester", file.display());
        assert!(confirm.starts_with(&config), "{confirm}");
        std::fs::remove_dir_all(&directory).expect("removed");

        let replay = run_command(&ctx, &["replay", "--limit", "1", "--rate", "5/s", "--keep-going"]).await;
        let text = replay.stdout.join("\n");
        assert!(
            text.contains("\nfilter: --limit 1\nplan ") && text.contains("replay 1 dead letter."),
            "{text}"
        );
        assert!(
            text.contains("--rate 5/s --actor tester --confirm ") && text.ends_with(" --keep-going"),
            "{text}"
        );
        let plan = plan(&ctx, &["replay"]).await;
        assert_eq!((&plan["filter"]["reason"], &plan["filter"]["limit"]), (&json!([]), &Value::Null));
        assert_eq!((&plan["count"], &plan["unreadable"]), (&json!(12), &json!(0)));
        assert_eq!((&plan["coverage"]["seen"], &plan["coverage"]["stopped"]), (&json!(12), &Value::Null));
    });
}

#[test]
fn dead_letters_that_arrive_during_a_replay_stay() {
    kit::run(async |ctx| {
        let world = world(ctx).await;
        publish_dead_letters(&world.amqp, 30).await;
        let plan = plan(&world.ctx, &["replay", "--since", "2026-11-01T09:00:10Z"]).await;
        let replay = world
            .ctx
            .start(&command(&world.ctx, &["replay", "--confirm", digest(&plan), "--rate", "20/s", "--json"]));
        let (_, _) = world.outcomes.wait_count(3, A_WHILE).await.split_at(3);
        for n in 100..110 {
            let (properties, body) = dead_letter(n);
            world.amqp.publish("", DEAD, properties, &body).await;
        }
        let output = ended(&replay).await;
        assert_eq!((output.code, results(&output)), (Some(0), vec!["unlocked"; 20]), "{}", output.text());
        let left = world.dead_letters().await;
        // In any order: the queue's does not matter.
        let mut ids: Vec<_> =
            left.iter().filter_map(|dead_letter| header(dead_letter, "unlocker-request-id")).collect();
        let mut expected: Vec<_> = (0..10).chain(100..110).map(|n| format!("r-{n}")).collect();
        ids.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ids, expected);
    });
}

#[test]
fn a_dead_letter_without_an_id_is_replayed_with_an_id_that_stays_the_same() {
    kit::run(async |ctx| {
        let world = world(ctx).await;
        world.amqp.publish("", DEAD, Properties::default(), br#"{"customer_id":"77"}"#).await;
        let listed = run_command(&world.ctx, &["list", "--json"]).await.json().remove(0);
        assert_eq!((&listed["status"], &listed["request_id"]), (&json!("unknown"), &Value::Null));
        let plan = plan(&world.ctx, &["replay"]).await;
        let output = run_command(&world.ctx, &["replay", "--confirm", digest(&plan), "--json"]).await;
        assert_eq!((output.code, results(&output)), (Some(0), vec!["unlocked"]), "{}", output.text());
        let outcome = world.outcome().await;
        let id = listed["id"].as_str().expect("an id");
        assert_eq!(outcome["request_id"], format!("dead-letter-{id}"));
    });
}
