//! The console with exactly the operator's permissions.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{history::granted_with_history, *};
use crate::{
    console::{Console, OPERATOR, VIEWER, http::Browser},
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
        assert_eq!(browser.get("/").await.status, 200, "the overview is there");
        let jobs = browser.get("/jobs").await;
        assert_eq!(jobs.status, 503);
        assert!(jobs.body.contains("trackfinity.unlock.console"), "{}", jobs.body);
        user.delete().await;
    });
}
