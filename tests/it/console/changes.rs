//! Replay and discard by the page, step by step.

use super::*;

/// What the page of a job says at its end.
async fn ended(browser: &mut Browser, path: &str) -> String {
    let end = async || {
        let response = browser.get(path).await;
        if response.headers.contains_key("refresh") { Err(response.body) } else { Ok(response.body) }
    };
    kit::eventually("the job's end", SOON, end).await
}

#[test]
fn selected_dead_letters_are_replayed_after_their_plan_was_confirmed() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(5).await;
        let mut anna = page.logged_in(OPERATOR).await;
        let planned = anna
            .post("/plans", &[("action", "replay"), ("dead_letter", "r-1"), ("dead_letter", "r-3")])
            .await;
        let plan = planned.location().to_owned();
        let confirm = anna.get(&plan).await.body;
        assert!(
            confirm.contains("Replay 2 dead letters?") && confirm.contains("r-1") && confirm.contains("r-3")
        );
        assert!(confirm.contains(plan.trim_start_matches("/plans/")), "the digest is shown");
        assert_eq!((page.audit().len(), page.world.trackfinity.count()), (0, 0), "nothing is done yet");

        let job = anna.post(&plan, &[("per_second", "100")]).await.location().to_owned();
        let response = ended(&mut anna, &job).await;
        assert!(response.contains("2 requests replayed: 2 unlocked"), "{response}");
        assert_eq!(response.matches(">unlocked<").count(), 2);
        assert_eq!(page.world.outcomes(2).await.keys().collect::<Vec<_>>(), ["r-1", "r-3"]);
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 3);
        let audit = page.audit();
        let events: Vec<&str> = audit.iter().filter_map(|line| line["event"].as_str()).collect();
        assert_eq!(events, ["begin", "dead_letter", "result", "dead_letter", "result"]);
        assert!(audit.iter().all(|line| line["actor"] == "Anna (operator)" && line["via"] == "page"));
        assert!(anna.get("/jobs").await.body.contains(&job));
        page.world.stop().await;
    });
}

#[test]
fn all_that_match_are_discarded_with_a_reason() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(6).await;
        let mut anna = page.logged_in(OPERATOR).await;
        let request = [("action", "discard"), ("all", "yes"), ("status", "abandoned")];
        let response = anna.post("/plans", &request).await;
        assert_eq!(response.status, 400);
        assert!(response.body.contains("needs a reason"), "{}", response.body);
        let planned =
            anna.post("/plans", &[&request[..], &[("discard_reason", "a test <b>run</b>")]].concat()).await;
        let plan = planned.location().to_owned();
        let confirm = anna.get(&plan).await.body;
        assert!(
            confirm.contains("Discard 2 dead letters?") && confirm.contains("a test &#60;b&#62;run"),
            "{confirm}"
        );
        let job = anna.post(&plan, &[]).await.location().to_owned();
        assert!(ended(&mut anna, &job).await.contains("2 requests discarded"));
        let outcomes = page.world.outcomes(2).await;
        assert!(outcomes.values().all(|outcome| outcome["reason"] == "a test <b>run</b>"));
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 4);
    });
}

#[test]
fn one_job_runs_at_a_time_and_stops_after_the_current_dead_letter() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(5).await;
        let mut anna = page.logged_in(OPERATOR).await;
        let mut plan = async |id: &str| {
            let planned = anna.post("/plans", &[("action", "replay"), ("all", "yes"), ("id", id)]).await;
            planned.location().to_owned()
        };
        let (first, second) = (plan("r-0,r-1,r-2").await, plan("r-4").await);
        // So slow that it waits before the second dead letter until it is stopped.
        let job = anna.post(&first, &[("per_second", "0.01")]).await.location().to_owned();
        let one = async || anna.get(&job).await.body.contains("<title>replay: 1 of 3");
        kit::eventually("the first dead letter's end", SOON, one).await;
        let refused = anna.post(&second, &[]).await;
        assert_eq!(refused.status, 409);
        assert!(refused.body.contains("Anna (operator) by page has started a replay"), "{}", refused.body);
        let overview = anna.get("/").await.body;
        assert!(overview.contains("Anna (operator) by page (replay, since"), "{overview}");
        assert!(overview.contains(&job), "it leads to the job");

        assert_eq!(anna.get(&job).await.headers["refresh"], "2", "it reloads, without a script");
        let still = anna.get(&format!("{job}?reload=no")).await;
        assert!(
            !still.headers.contains_key("refresh") && still.body.contains("Reload now"),
            "{}",
            still.body
        );

        assert_eq!(anna.post(&format!("{job}/stop"), &[]).await.status, 303);
        let response = ended(&mut anna, &job).await;
        assert!(response.contains("stopped: on request; 1 request replayed: 1 "), "{response}");
        assert!(response.contains("; 2 are untouched"), "{response}");
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 4);
        let job = anna.post(&first, &[("per_second", "100")]).await.location().to_owned();
        let response = ended(&mut anna, &job).await;
        assert!(response.contains("gone:") && response.contains("; 1 gone already"), "{response}");
    });
}

#[test]
fn a_console_that_stops_ends_the_job_first() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(3).await;
        let mut anna = page.logged_in(OPERATOR).await;
        let planned =
            anna.post("/plans", &[("action", "replay"), ("all", "yes"), ("id", "r-0,r-1,r-2")]).await;
        let plan = planned.location().to_owned();
        let job = anna.post(&plan, &[("per_second", "0.01")]).await.location().to_owned();
        let one = async || anna.get(&job).await.body.contains("<title>replay: 1 of 3");
        kit::eventually("the first dead letter's end", SOON, one).await;
        page.console.process.signal(kit::Signal::TERM);
        assert!(page.console.process.wait_exit(SOON).await.success());
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 2, "the others are back");
    });
}
