//! `replay --set`: invalid dead letters are corrected on their way back.

use std::path::PathBuf;

use kit::Answer;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;
use crate::world::{REQUESTS, World, header};

/// A world with these dead letters, which a worker has found invalid.
async fn world_with(ctx: Context, invalid: &[(Properties, &str)]) -> World {
    let world = World::start(ctx, |_| Answer::unlocked()).await;
    for (properties, body) in invalid {
        world.publish(properties.clone(), body).await;
    }
    for _ in invalid {
        assert_eq!(world.outcome().await["status"], "invalid");
    }
    world
}

async fn confirm(ctx: &Context, plan: &Value, more: &[&str]) -> CommandOutput {
    let digest = plan["digest"].as_str().expect("a digest");
    run_command(ctx, &[&["replay", "--confirm", digest, "--json"], more].concat()).await
}

/// A file with this text, removed at the end.
struct TextFile(PathBuf);

impl TextFile {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("unlocker-{}", uuid::Uuid::now_v7()));
        std::fs::write(&path, text).expect("a file");
        Self(path)
    }

    fn setting(&self) -> String {
        format!("body_file={}", self.0.display())
    }
}

impl Drop for TextFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn sha256(body: &str) -> String {
    format!("{:x}", Sha256::digest(body))
}

#[test]
fn an_invalid_dead_letter_is_unlocked_with_another_content_type_identifier_or_body() {
    kit::run(async |ctx| {
        let of = |name: &str| id(name).with_content_type("application/json".into());
        let invalid = [
            (of("type").with_content_type("text/xml".into()), r#"{"customer_id":"shop-1"}"#),
            (of("field"), r#"{"customer":"shop-2","note":"ü"}"#),
            (of("body"), "{customer_id: shop-3}"),
        ];
        let world = world_with(ctx, &invalid).await;
        let file = TextFile::new("customer_id=shop-3\n");
        let form = "content_type=application/x-www-form-urlencoded";
        let body = file.setting();
        let mends: [(&str, &[&str], &str); 3] = [
            ("type", &["--set", "content_type=application/json"], r#"{"customer_id":"shop-1"}"#),
            (
                "field",
                &["--set", "customer_id=shop-2"],
                r#"{"customer":"shop-2","note":"ü","customer_id":"shop-2"}"#,
            ),
            ("body", &["--set", form, "--set", &body], "customer_id=shop-3"),
        ];
        for ((request, set, mended), (original, before)) in mends.into_iter().zip(invalid) {
            let plan = plan(&world.ctx, &[&["replay", "--id", request], set].concat()).await;
            let correction = &plan["corrections"][0];
            assert_eq!(correction["id"], plan["ids"][0]);
            let sides = [("before", before), ("after", mended)];
            for (side, body) in sides {
                assert_eq!(
                    (&correction[side]["body"], &correction[side]["body_sha256"]),
                    (&json!(body), &json!(sha256(body)))
                );
            }
            let content_type = original.content_type().as_ref().map(|given| given.as_str());
            assert_eq!(correction["before"]["content_type"].as_str(), content_type);
            assert_eq!(
                (&correction["before"]["request"], &correction["after"]["reason"]),
                (&Value::Null, &Value::Null)
            );
            let customer = &correction["after"]["request"]["customer_id"];

            let output = confirm(&world.ctx, &plan, &[]).await;
            assert_eq!(output.code, Some(0), "{}", output.text());
            let outcome = world.outcome().await;
            assert_eq!(
                (
                    &outcome["status"],
                    &outcome["request_id"],
                    &outcome["replays"],
                    &outcome["request"]["customer_id"]
                ),
                (&json!("unlocked"), &json!(request), &json!(1), customer)
            );
            // The audit log is on stderr.
            let audit = output.stderr.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let audit: Vec<_> = audit.filter(|line| line["event"] == "dead_letter").collect();
            let record = &audit[0]["correction"];
            assert_eq!(
                (&record["body_sha256_before"], &record["body_sha256_after"], &record["set"]),
                (&json!(sha256(before)), &json!(sha256(mended)), &plan["set"])
            );
            assert!(
                !output.stderr.join("\n").contains("shop-"),
                "no identifier is logged: {}",
                output.text()
            );
        }
        let called: Vec<_> = world
            .trackfinity
            .calls()
            .iter()
            .map(|call| call.field("customer_id").unwrap_or_default().to_owned())
            .collect();
        assert_eq!(called, ["shop-1", "shop-2", "shop-3"]);
        assert_eq!(world.amqp.ready_count(DEAD).await, 0);
        world.stop().await;
    });
}

#[test]
fn a_person_sees_before_and_after_and_the_digest_is_of_that_very_change() {
    kit::run(async |ctx| {
        let invalid = [(id("r-1"), r#"{"customer":"191"}"#), (id("r-2"), r#"{"customer":"192"}"#)];
        let world = world_with(ctx, &invalid).await;
        let set = ["replay", "--status", "invalid", "--set"];
        let shown = run_command(&world.ctx, &[&set[..], &["customer_id=191"]].concat()).await;
        let text = shown.text();
        for line in [
            "  before  no content type, 18 bytes: invalid, no_identifier",
            "          {\"customer\":\"191\"}",
            "  after   no content type, 38 bytes: customer_id=191",
            "          {\"customer\":\"191\",\"customer_id\":\"191\"}",
            "all 2 requests get the same customer_id",
            "\nfilter: --status invalid\nset: customer_id\nplan ",
            ": replay 2 dead letters. Nothing is done yet; to do it:",
        ] {
            assert!(text.contains(line), "{line:?} is missing in {text}");
        }
        let plans = [
            plan(&world.ctx, &[&set[..], &["customer_id=191"]].concat()).await,
            plan(&world.ctx, &[&set[..], &["customer_id=192"]].concat()).await,
            plan(&world.ctx, &[&set[..], &["orderid=191"]].concat()).await,
            plan(&world.ctx, &["replay", "--status", "invalid"]).await,
        ];
        let digests: std::collections::BTreeSet<_> =
            plans.iter().map(|plan| plan["digest"].to_string()).collect();
        assert_eq!(digests.len(), 4);
        assert!(plans.iter().all(|plan| plan["ids"] == plans[0]["ids"]));
        assert_eq!((plans[3].get("set"), plans[3].get("corrections")), (None, None));

        let other = confirm(&world.ctx, &plans[0], &["--set", "customer_id=192"]).await;
        assert_eq!(other.code, Some(1));
        assert!(other.text().contains("changes something else; omit --set"), "{}", other.text());
        assert_eq!((world.amqp.ready_count(DEAD).await, world.trackfinity.count()), (2, 0));
        let same = confirm(&world.ctx, &plans[0], &["--set", "customer_id=191"]).await;
        assert_eq!(same.code, Some(0), "{}", same.text());
        world.stop().await;
    });
}

#[test]
fn what_would_still_be_invalid_and_what_is_not_invalid_is_refused_before_anything_is_done() {
    kit::run(async |ctx| {
        let invalid =
            [(id("xml").with_content_type("text/xml".into()), "<customer>191</customer>"), (id("empty"), "")];
        let world = world_with(ctx, &invalid).await;
        publish_dead_letters_after(&world.amqp, 2).await;
        for (args, reasons) in [
            (
                &["--status", "invalid", "--set", "content_type=application/json"][..],
                &[
                    "2 of 2 cannot be replayed with this change",
                    "it would still be invalid, malformed: the body is not JSON",
                    "the body is empty",
                ][..],
            ),
            (
                &["--id", "xml", "--set", "customer_id=191"],
                &["unsupported_content_type: the content type is \"text/xml\""],
            ),
            (
                &["--id", "r-0", "--set", "customer_id=191"],
                &["it is refused; only invalid dead letters can be changed"],
            ),
            (&["--set", "content_type="], &["4 of 4 cannot be", "it is refused; only invalid"]),
        ] {
            let output = run_command(&world.ctx, &[&["replay"], args].concat()).await;
            assert_eq!((output.code, output.stdout.len()), (Some(1), 0), "{}", output.text());
            for reason in reasons {
                assert!(output.text().contains(reason), "{reason:?} is missing in {}", output.text());
            }
        }
        for wrong in ["customer=1", "customer_id", "customer_id= ", "body_file="] {
            assert_eq!(run_command(&world.ctx, &["replay", "--set", wrong]).await.code, Some(2), "{wrong}");
        }
        let none = run_command(&world.ctx, &["replay", "--set", "body_file=/nonexistent/body"]).await;
        assert_eq!(none.code, Some(1));
        assert!(
            none.text().contains("the new body cannot be read from /nonexistent/body"),
            "{}",
            none.text()
        );
        assert_eq!((world.amqp.ready_count(DEAD).await, world.trackfinity.count()), (4, 0));
        world.stop().await;
    });
}

async fn publish_dead_letters_after(amqp: &Amqp, count: usize) {
    let before = amqp.ready_count(DEAD).await as usize;
    amqp.publish_all(DEAD, "", (0..count).map(dead_letter)).await;
    kit::eventually("the dead letters", SOON, async || {
        amqp.ready_count(DEAD).await as usize == before + count
    })
    .await;
}

#[test]
fn priority_and_foreign_headers_of_a_corrected_request_come_back() {
    kit::run(async |ctx| {
        let mut headers = FieldTable::default();
        headers.insert("theirs".into(), AMQPValue::ByteArray(vec![0xff].into()));
        let request = id("r-1")
            .with_content_type("application/json".into())
            .with_correlation_id("c-1".into())
            .with_priority(7)
            .with_headers(headers);
        let world = world_with(ctx, &[(request.clone(), r#"{"customer":"191"}"#)]).await;
        world.stop().await;
        let listed = run_command(&world.ctx, &["show", "r-1", "--json"]).await.json().remove(0);
        assert_eq!(
            (&listed["properties"]["priority"], &listed["headers"]["unlocker-original-priority"]),
            (&Value::Null, &json!(7))
        );
        let plan = plan(&world.ctx, &["replay", "--set", "customer_id=191"]).await;
        let output = confirm(&world.ctx, &plan, &["--wait", "10ms"]).await;
        assert_eq!(output.code, Some(1), "no worker runs: {}", output.text());
        let replayed = world.amqp.drain(REQUESTS).await.remove(0);
        assert_eq!(replayed.body, br#"{"customer":"191","customer_id":"191"}"#);
        assert_eq!(header(&replayed, "unlocker-replays").as_deref(), Some("1"));
        assert_eq!(replayed.header("theirs"), Some(&AMQPValue::ByteArray(vec![0xff].into())));
        let bare = |of: &Properties| of.clone().with_headers(FieldTable::default());
        assert_eq!(bare(&replayed.properties), bare(&request.with_delivery_mode(2)));
        assert!(replayed.header("unlocker-original-priority").is_none());
    });
}

#[test]
fn a_corrected_request_without_a_message_id_has_the_id_of_its_new_body() {
    kit::run(async |ctx| {
        let invalid = [(Properties::default(), r#"{"request_id":"order-1","customer_id":191"#)];
        let world = world_with(ctx, &invalid).await;
        let file = TextFile::new(r#"{"request_id":"order-1","customer_id":191}"#);
        let plan = plan(&world.ctx, &["replay", "--set", &file.setting()]).await;
        let ids = |side: &str| plan["corrections"][0][side]["request_id"].as_str().map(str::to_owned);
        assert_ne!(ids("before"), ids("after"));
        let output = confirm(&world.ctx, &plan, &[]).await;
        assert_eq!(
            (output.code, &output.json()[0]["request_id"]),
            (Some(0), &json!("order-1")),
            "{}",
            output.text()
        );
        let outcome = world.outcome().await;
        assert_eq!((&outcome["status"], &outcome["request_id"]), (&json!("unlocked"), &json!("order-1")));
        assert!(output.text().contains(r#""request_id_after":"order-1""#), "{}", output.text());
        world.stop().await;
    });
}
