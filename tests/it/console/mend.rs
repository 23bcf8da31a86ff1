//! Corrects an invalid dead letter on its way back.

use super::*;

/// Publishes a request that names no customer, and returns the id of its dead letter.
async fn invalid(page: &Page, request: &str) -> String {
    page.world.publish(id(request), r#"{"customer":"191"}"#).await;
    let there = async || {
        let list = page.api("GET", "/api/v1/dead-letters?status=invalid", VIEWER, None).await.json();
        list["dead_letters"][0]["id"].as_str().map(str::to_owned)
    };
    kit::eventually("the dead letter", SOON, there).await
}

#[test]
fn an_invalid_dead_letter_is_replayed_with_a_correction_that_was_shown() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let dead_letter = invalid(&page, "r-1").await;
        let mut anna = page.logged_in(OPERATOR).await;
        let masked = anna.get(&format!("/dead-letters/{dead_letter}")).await.body;
        assert!(!masked.contains("set_customer_id"), "not before it is shown: {masked}");
        let shown = anna.post(&format!("/dead-letters/{dead_letter}/show"), &[]).await.body;
        assert!(shown.contains("set_customer_id") && shown.contains("set_body"), "{shown}");

        let form = [("action", "replay"), ("dead_letter", dead_letter.as_str())];
        let refused = anna.post("/plans", &[&form[..], &[("set_content_type", "text/html")]].concat()).await;
        assert_eq!(refused.status, 422);
        assert!(refused.body.contains("would still be invalid"), "{}", refused.body);

        let planned = anna.post("/plans", &[&form[..], &[("set_customer_id", "4711")]].concat()).await;
        assert_eq!(planned.status, 303, "{}", planned.body);
        let plan = anna.get(planned.location()).await.body;
        for part in ["changed: customer_id", "Before", "After", "customer_id = 4711", "no_identifier"] {
            let detail = part == "no_identifier" && plan.contains("neither customer_id");
            assert!(plan.contains(part) || detail, "{part}: {plan}");
        }
        let mut viewer = page.logged_in(VIEWER).await;
        let seen = viewer.get(planned.location()).await.body;
        assert!(seen.contains("changed: customer_id") && !seen.contains("4711"), "{seen}");

        let job = anna.post(planned.location(), &[("per_second", "100")]).await.location().to_owned();
        let outcomes = page.world.outcomes(2).await;
        assert_eq!(outcomes["r-1"]["request"]["customer_id"], "4711");
        let ended = async || anna.get(&job).await.body.contains("1 request replayed: 1 unlocked");
        kit::eventually("the end of the job", SOON, ended).await;
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 0);
        let corrected = page.audit().into_iter().find(|line| line["event"] == "dead_letter").expect("a line");
        assert!(
            corrected.to_string().contains("body_sha256_after") && !corrected.to_string().contains("4711")
        );
    });
}

#[test]
fn a_script_corrects_by_the_api() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        invalid(&page, "r-1").await;
        let plan =
            |set: Value| serde_json::json!({"action": "replay", "set": set, "filter": {"ids": ["r-1"]}});
        for (set, status) in [
            (serde_json::json!({"colour": "red"}), 400),
            (serde_json::json!({"body": "{}"}), 422),
            (serde_json::json!({"body": "{\"customer_id\":7}"}), 201),
        ] {
            let planned = page.api("POST", "/api/v1/plans", OPERATOR, Some(plan(set.clone()))).await;
            assert_eq!(planned.status, status, "{set} {}", planned.body);
        }
        let planned = page
            .api("POST", "/api/v1/plans", OPERATOR, Some(plan(serde_json::json!({"customer_id": "7"}))))
            .await;
        let planned = planned.json();
        assert_eq!(planned["set"], serde_json::json!(["customer_id"]), "{planned}");
        let path = format!("/api/v1/plans/{}/jobs", planned["digest"].as_str().expect("a digest"));
        let begun = page.api("POST", &path, OPERATOR, Some(serde_json::json!({}))).await;
        assert_eq!(begun.status, 202, "{}", begun.body);
        assert_eq!(page.world.outcomes(2).await["r-1"]["status"], "unlocked");
    });
}

#[test]
fn the_stream_of_the_consoles_keeps_no_value_of_a_correction_and_what_remains_is_resumed_with_it() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        for request in ["r-1", "r-2", "r-3"] {
            page.world.publish(id(request), r#"{"customer":"191"}"#).await;
        }
        page.world.outcomes(3).await;
        let mut anna = page.logged_in(OPERATOR).await;
        let set = serde_json::json!({"customer_id": "4711-secret"});
        let plan = serde_json::json!({"action": "replay", "set": set, "filter": {"status": ["invalid"]}});
        let plan = page.api("POST", "/api/v1/plans", OPERATOR, Some(plan)).await.json();
        assert_eq!(plan["ids"].as_array().map(Vec::len), Some(3), "{plan}");
        let digest = plan["digest"].as_str().expect("a digest");
        anna.get(&format!("/plans/{digest}")).await;
        let mut job =
            anna.post(&format!("/plans/{digest}"), &[("per_second", "0.01")]).await.location().to_owned();
        // One dead letter in each of three jobs: what is resumed can be resumed again.
        for done in 1..=3 {
            let seen = async || {
                let body = anna.get(&job).await.body;
                if body.contains(&format!("1 of {}<", 4 - done)) { Ok(body) } else { Err(body) }
            };
            let running = kit::eventually("the first result", SOON, seen).await;
            assert!(running.contains("<dt>Changes</dt><dd>customer_id</dd>"), "{running}");
            anna.post(&format!("{job}/stop"), &[]).await;
            let ended = async || !anna.get(&job).await.body.contains("reloads every");
            kit::eventually("the end", SOON, ended).await;
            if done < 3 {
                let resumed = anna.post(&format!("{job}/resume"), &[("per_second", "0.01")]).await;
                assert_eq!(resumed.status, 303, "{}", resumed.body);
                resumed.location().clone_into(&mut job);
            }
        }
        let outcomes = page.world.outcomes(6).await;
        for request in ["r-1", "r-2", "r-3"] {
            assert_eq!(outcomes[request]["request"]["customer_id"], "4711-secret");
        }
        let events = page.console_events().await;
        assert!(events.len() >= 9 && events.iter().any(|event| event.contains("\"began\"")), "{events:#?}");
        assert!(!events.concat().contains("4711"), "{events:#?}");
    });
}
