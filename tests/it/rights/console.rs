//! The console with exactly the operator's permissions.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use kit::{Amqp, Inbox};

use super::{
    history::granted_with_history,
    operator::{assert_names, without},
    *,
};
use crate::{
    console::{Console, OPERATOR, VIEWER, dead_letter, http::Browser},
    manifests::apply_topology_with_history,
};

const ON: (&str, &str) = ("HISTORY__ENABLED", "true");

#[test]
fn a_console_with_the_operators_rights_can_do_everything() {
    kit::run_within(Duration::from_secs(120), async |ctx| {
        apply_topology_with_history(ctx.vhost().management(), ctx.vhost().name()).await;
        let (worker, operator) = (User::create(&ctx, "worker").await, User::create(&ctx, "operator").await);
        worker.grant(&granted_with_history("worker")).await;
        operator.grant(&granted_with_history("operator")).await;
        let accepts = Arc::new(AtomicBool::new(false));
        let is_accepting = Arc::clone(&accepts);
        let trackfinity = Trackfinity::start(move |_| match is_accepting.load(Ordering::SeqCst) {
            true => Answer::unlocked(),
            false => Answer::status(400),
        });
        let process = start_worker(&ctx, &worker.url(), &trackfinity.url(), &[DECLARE_NOT, ON]).await;
        let amqp = ctx.amqp().await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
        for request in ["r-0", "r-1"] {
            amqp.publish(EXCHANGE, REQUEST, id(request), br#"{"customer_id":191}"#).await;
        }
        outcomes.wait_count(2, SOON).await;
        accepts.store(true, Ordering::SeqCst);
        let settings = [("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN", OPERATOR), ON];
        let console = Console::start(&ctx, &operator.url(), &settings).await;
        let mut browser = Browser::new(&console.address);
        assert_eq!(browser.log_in("Anna", OPERATOR).await.status, 303);
        let overview = browser.get("/").await.body;
        assert!(
            overview.contains("1 worker consumes requests") && !overview.contains("Not seen"),
            "{overview}"
        );
        let found = async || {
            let page = browser.get("/search?q=191").await.body;
            if page.contains("2 requests") { Ok(page) } else { Err(page) }
        };
        let found = kit::eventually("the timelines", SOON, found).await;
        assert!(found.contains("Refused: Trackfinity answered 400") && found.contains("Waits as"), "{found}");
        assert!(!found.contains("class=\"note"), "all was seen: {found}");
        assert!(browser.post("/dead-letters/r-0/show", &[]).await.body.contains("customer_id"));
        for (action, request, end) in
            [("replay", "r-0", "1 unlocked"), ("discard", "r-1", "1 request discarded")]
        {
            let plan = [("action", action), ("dead_letter", request), ("discard_reason", "a test")];
            let planned = browser.post("/plans", &plan).await;
            assert_eq!(planned.status, 303, "{}", planned.body);
            let job = browser.post(planned.location(), &[("per_second", "100")]).await;
            assert_eq!(job.status, 303, "{}", job.body);
            let ended = async || {
                let page = browser.get(job.location()).await.body;
                if page.contains(end) { Ok(()) } else { Err(page) }
            };
            kit::eventually("the end of the job", SOON, ended).await;
        }
        assert_eq!(amqp.ready_count(DEAD).await, 0);
        stop_and_resume(&amqp, &outcomes, &accepts, &mut browser).await;
        for process in [&process, &console.process] {
            let refused: Vec<_> =
                process.stderr().into_iter().filter(|line| line.contains("refused for user")).collect();
            assert!(refused.is_empty(), "{refused:#?}");
        }
        for user in [worker, operator] {
            user.delete().await;
        }
    });
}

/// Stops a replay after its first dead letter, and resumes it.
async fn stop_and_resume(amqp: &Amqp, outcomes: &Inbox, accepts: &AtomicBool, browser: &mut Browser) {
    accepts.store(false, Ordering::SeqCst);
    for request in ["r-2", "r-3"] {
        amqp.publish(EXCHANGE, REQUEST, id(request), br#"{"customer_id":191}"#).await;
    }
    outcomes.wait_count(6, SOON).await;
    accepts.store(true, Ordering::SeqCst);
    let planned = browser.post("/plans", &[("action", "replay"), ("all", "yes"), ("id", "r-2,r-3")]).await;
    let job = browser.post(planned.location(), &[("per_second", "0.01")]).await.location().to_owned();
    says(browser, &job, "<title>replay: 1 of 2").await;
    assert_eq!(browser.post(&format!("{job}/stop"), &[]).await.status, 303);
    says(browser, &job, "stopped: on request").await;
    let resumed = browser.post(&format!("{job}/resume"), &[]).await;
    assert_eq!(resumed.status, 303, "{}", resumed.body);
    says(browser, resumed.location(), "1 request replayed: 1 unlocked").await;
}

async fn says(browser: &mut Browser, path: &str, words: &str) {
    let seen = async || {
        let page = browser.get(path).await.body;
        if page.contains(words) { Ok(()) } else { Err(page) }
    };
    kit::eventually(words, SOON, seen).await;
}

/// What a console needs besides what changes to dead letters need.
const OWN_RIGHTS: [(usize, &str); 3] = [
    // First, because a console that may declare the stream leaves it behind.
    (0, r"trackfinity\.unlock\.console"),
    (2, r"trackfinity\.unlock\.console"),
    (2, r"trackfinity\.unlock\.history"),
];

/// What the pages say of a search, of a replay of the first request, and of a discard of the second.
async fn pages(browser: &mut Browser, requests: [&str; 2]) -> String {
    let mut all = browser.get("/").await.body;
    all += &browser.get("/search?q=c-0").await.body;
    for (action, request) in ["replay", "discard"].into_iter().zip(requests) {
        let plan = [("action", action), ("all", "yes"), ("id", request), ("discard_reason", "a test")];
        let planned = browser.post("/plans", &plan).await;
        if planned.status != 303 {
            all += &planned.body;
            continue;
        }
        let begun = browser.post(planned.location(), &[]).await;
        if begun.status != 303 {
            all += &begun.body;
            continue;
        }
        let ended = async || {
            let page = browser.get(begun.location()).await.body;
            if page.contains("reloads every") { Err(page) } else { Ok(page) }
        };
        all += &kit::eventually("the end of the job", SOON, ended).await;
    }
    all
}

#[test]
fn a_console_that_lacks_a_right_says_which() {
    kit::run_within(Duration::from_secs(300), async |ctx| {
        apply_topology_with_history(ctx.vhost().management(), ctx.vhost().name()).await;
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[DECLARE_NOT, ON]).await;
        let (amqp, user) = (ctx.amqp().await, User::create(&ctx, "less").await);
        let full = granted_with_history("operator");
        let settings = [("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN", OPERATOR), ON];
        for (n, (at, names)) in OWN_RIGHTS.into_iter().chain(operator::RIGHTS).enumerate() {
            amqp.publish_all(DEAD, "", [2 * n, 2 * n + 1].into_iter().map(dead_letter)).await;
            user.grant(&without(&full, at, names)).await;
            let console = Console::start(&ctx, &user.url(), &settings).await;
            let mut browser = Browser::new(&console.address);
            assert_eq!(browser.log_in("Anna", OPERATOR).await.status, 303);
            let requests = [format!("r-{}", 2 * n), format!("r-{}", 2 * n + 1)];
            let said = pages(&mut browser, requests.each_ref().map(String::as_str)).await;
            assert_names(Err(said.replace("&#39;", "'")), at, names);
            console.process.kill9();
        }
        user.delete().await;
    });
}

#[test]
fn a_console_that_may_not_keep_what_it_does_starts_nothing_and_says_why() {
    kit::run(async |ctx| {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let user = User::create(&ctx, "less").await;
        let [configure, write, read] = granted("operator");
        user.grant(&[configure.replace("console|", ""), write, read.replace("console|", "")]).await;
        let settings = [("CONSOLE__VIEWER_TOKEN", VIEWER), ("CONSOLE__OPERATOR_TOKEN", OPERATOR)];
        let console = Console::start(&ctx, &user.url(), &settings).await;
        let mut browser = Browser::new(&console.address);
        assert_eq!(browser.log_in("Anna", OPERATOR).await.status, 303);
        let began = std::time::Instant::now();
        let overview = browser.get("/").await;
        assert_eq!(overview.status, 200, "the overview is there");
        assert!(overview.body.contains("trackfinity.unlock.console"), "it says why: {}", overview.body);
        assert!(began.elapsed() < Duration::from_secs(4), "it does not wait for what does not come");
        let jobs = browser.get("/jobs").await;
        assert_eq!(jobs.status, 503);
        assert!(jobs.body.contains("trackfinity.unlock.console"), "{}", jobs.body);
        user.delete().await;
    });
}
