//! Several consoles behind one address: all show the same, and one can continue what another has begun.

use super::*;

/// A page with a second console beside it.
async fn two(ctx: Context) -> (Page, Console) {
    let tokens = [("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN", OPERATOR)];
    let page = Page::start(ctx).await;
    let second = Console::start(&page.world.ctx, page.world.ctx.amqp_url(), &tokens).await;
    (page, second)
}

/// The same browser at another address.
fn moved(browser: &Browser, address: &str) -> Browser {
    let mut moved = browser.clone();
    address.clone_into(&mut moved.address);
    moved
}

async fn plan(browser: &mut Browser, ids: &str) -> String {
    let planned = browser.post("/plans", &[("action", "replay"), ("all", "yes"), ("id", ids)]).await;
    assert_eq!(planned.status, 303, "{}", planned.body);
    planned.location().to_owned()
}

/// Waits until the page says this; returns it.
async fn says(browser: &mut Browser, path: &str, words: &str) -> String {
    let seen = async || {
        let page = browser.get(path).await.body;
        if page.contains(words) { Ok(page) } else { Err(page) }
    };
    kit::eventually(words, SOON, seen).await
}

/// A slow replay of the first three of some dead letters, after the first one. Anna began it at one console; there is her
/// browser there, and one at the other console.
async fn begun(page: &Page, second: &Console, dead_letters: usize) -> (Browser, Browser, String) {
    page.publish_dead_letters(dead_letters).await;
    let mut anna = page.logged_in(OPERATOR).await;
    let plan_path = plan(&mut anna, "r-0,r-1,r-2").await;
    let job = anna.post(&plan_path, &[("per_second", "0.01")]).await.location().to_owned();
    let mut there = moved(&anna, &second.address);
    says(&mut there, &job, "<title>replay: 1 of 3").await;
    (anna, there, job)
}

#[test]
fn a_login_holds_at_every_console_and_so_does_a_logout() {
    kit::run(async |ctx| {
        let (page, second) = two(ctx).await;
        page.publish_dead_letters(2).await;
        let mut anna = page.logged_in(OPERATOR).await;
        let mut there = moved(&anna, &second.address);
        let list = there.get("/dead-letters").await;
        assert!(list.body.contains("Anna (operator)"), "{}", list.body);
        let plan = plan(&mut there, "r-0").await;
        assert!(anna.get(&plan).await.body.contains("Replay 1 dead letter?"), "a plan is known here, too");

        let old = anna.cookie();
        assert_eq!(anna.post("/logout", &[]).await.status, 303);
        for address in [&page.address, &second.address] {
            let ended =
                async || Request::new("GET", "/").header("cookie", &old).send(address).await.status == 303;
            kit::eventually("the end of the session", SOON, ended).await;
        }
        // A console that starts later knows it, too.
        let tokens = [("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN", OPERATOR)];
        let third = Console::start(&page.world.ctx, page.world.ctx.amqp_url(), &tokens).await;
        let ended =
            async || Request::new("GET", "/").header("cookie", &old).send(&third.address).await.status == 303;
        kit::eventually("the end of the session", SOON, ended).await;
    });
}

#[test]
fn a_job_is_seen_and_stopped_at_another_console() {
    kit::run(async |ctx| {
        let (page, second) = two(ctx).await;
        let (mut anna, mut there, job) = begun(&page, &second, 4).await;
        assert!(there.get("/").await.body.contains(&job), "the overview leads to it");
        let other = plan(&mut there, "r-3").await;
        assert_eq!(there.post(&other, &[]).await.status, 409, "one at a time, wherever");

        assert_eq!(there.post(&format!("{job}/stop"), &[]).await.status, 303);
        let end = says(&mut there, &job, "stopped: on request").await;
        assert!(end.contains("Resume with the remaining 2") && end.contains("Anna (operator)"), "{end}");
        says(&mut anna, &job, "stopped: on request").await;

        let resumed = there.post(&format!("{job}/resume"), &[("per_second", "100")]).await;
        assert_eq!(resumed.status, 303, "{}", resumed.body);
        let end = says(&mut anna, resumed.location(), "2 requests replayed: 2 ").await;
        assert!(end.contains(&job), "it says what it continues: {end}");
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 1);
        let nothing = there.post(&format!("{}/resume", resumed.location()), &[]).await;
        assert_eq!(nothing.status, 409);
    });
}

#[test]
fn a_job_whose_process_died_is_shown_as_interrupted_and_is_resumed_elsewhere() {
    kit::run(async |ctx| {
        let (page, second) = two(ctx).await;
        let (_, mut there, job) = begun(&page, &second, 3).await;
        page.console.process.kill9();
        page.console.process.wait_exit(SOON).await;

        let interrupted = says(&mut there, &job, ">interrupted<").await;
        assert!(interrupted.contains("Resume with the remaining 2"), "{interrupted}");
        assert!(!interrupted.contains("reload"), "{interrupted}");
        assert!(there.get("/").await.body.contains("was interrupted"));
        let state = Request::new("GET", &format!("/api/v1{job}"))
            .header("authorization", &format!("Bearer {VIEWER}"))
            .send(&second.address)
            .await
            .json();
        assert_eq!(
            (&state["state"], state["steps"].as_array().map(Vec::len)),
            (&"interrupted".into(), Some(1))
        );

        let resumed = there.post(&format!("{job}/resume"), &[("per_second", "100")]).await;
        assert_eq!(resumed.status, 303, "{}", resumed.body);
        says(&mut there, resumed.location(), "2 requests replayed: 2 ").await;
        let old = there.get(&job).await.body;
        assert!(old.contains(">interrupted<") && old.contains(resumed.location()), "{old}");
        assert!(!old.contains("/resume\"") && !old.contains("/stop\""), "nothing is left to do: {old}");
        assert!(!there.get("/").await.body.contains("was interrupted"), "no one has to resume it any more");
        assert_eq!(there.post(&format!("{job}/resume"), &[]).await.status, 409);
        assert_eq!(page.world.outcomes(3).await.len(), 3, "each has one outcome");
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 0);
        // One that starts now shows the same.
        let tokens = [("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN", OPERATOR)];
        let third = Console::start(&page.world.ctx, page.world.ctx.amqp_url(), &tokens).await;
        let mut third = moved(&there, &third.address);
        says(&mut third, "/jobs", ">interrupted<").await;
        says(&mut third, resumed.location(), "2 requests replayed: 2 ").await;
    });
}

/// A replay of three at one console, which was killed after the first, and a browser at another one.
async fn interrupted(page: &Page, second: &Console) -> (Browser, String) {
    let (_, mut there, job) = begun(page, second, 3).await;
    page.console.process.kill9();
    page.console.process.wait_exit(SOON).await;
    says(&mut there, &job, ">interrupted<").await;
    (there, job)
}

#[test]
fn a_job_that_was_interrupted_does_not_seem_to_run_while_another_continues_it() {
    kit::run(async |ctx| {
        let (page, second) = two(ctx).await;
        let (mut there, job) = interrupted(&page, &second).await;
        let resumed = there.post(&format!("{job}/resume"), &[("per_second", "0.01")]).await;
        says(&mut there, resumed.location(), "<title>replay: 1 of 2").await;
        let old = there.get(&job).await.body;
        assert!(old.contains(">interrupted<") && !old.contains("/stop\""), "{old}");
        assert!(there.get("/").await.body.contains(&format!("{}\">see its progress", resumed.location())));
        let jobs = there.get("/jobs").await.body;
        assert_eq!(jobs.matches(">running<").count(), 1, "{jobs}");
    });
}

#[test]
fn a_job_that_was_interrupted_can_be_closed_without_resuming_it() {
    kit::run(async |ctx| {
        let (page, second) = two(ctx).await;
        let (mut there, job) = interrupted(&page, &second).await;
        assert!(there.get("/").await.body.contains("was interrupted"));
        assert_eq!(there.post(&format!("{job}/stop"), &[]).await.status, 303);
        let closed = there.get(&job).await.body;
        assert!(closed.contains("it was interrupted, and closed by Anna (operator)"), "{closed}");
        assert!(!there.get("/").await.body.contains("was interrupted"));
        assert_eq!(page.world.amqp.ready_count(DEAD).await, 2, "the dead letters stay");
    });
}

#[test]
fn a_job_that_ends_with_its_console_does_not_say_that_someone_asked_for_it() {
    kit::run(async |ctx| {
        let (page, second) = two(ctx).await;
        let (_, mut there, job) = begun(&page, &second, 3).await;
        page.console.process.signal(kit::Signal::TERM);
        assert!(page.console.process.wait_exit(SOON).await.success());
        let end = says(&mut there, &job, "stopped: its console was stopped").await;
        assert!(end.contains("Resume with the remaining 2"), "{end}");
    });
}

#[test]
fn health_and_metrics_are_served_and_a_console_without_rabbitmq_says_what_is_wrong() {
    kit::run(async |ctx| {
        let page = Page::start(ctx).await;
        let ops = async |path: &str| Request::new("GET", path).send(&page.console.ops).await;
        assert_eq!((ops("/livez").await.status, ops("/readyz").await.status), (200, 200));
        assert!(ops("/metrics").await.body.contains("unlocker_console_jobs 0"));

        let nowhere = Console::start(&page.world.ctx, "amqp://127.0.0.1:1/%2f", &[]).await;
        let overview = Request::new("GET", "/").send(&nowhere.address).await;
        assert_eq!(overview.status, 200);
        assert!(overview.body.contains("Try again when RabbitMQ is back"), "{}", overview.body);
        let jobs = Request::new("GET", "/api/v1/jobs").send(&nowhere.address).await;
        assert_eq!((jobs.status, jobs.json()["code"].as_str()), (503, Some("console_log")));
        assert_eq!(Request::new("GET", "/readyz").send(&nowhere.ops).await.status, 200);
    });
}
