//! A RabbitMQ that is short of memory, or does not answer.

use std::time::{Duration, Instant};

use kit::NodeOptions;

use super::*;

#[test]
fn a_job_that_could_not_begin_in_an_alarm_is_not_taken_for_one_that_was_interrupted() {
    kit::run_on_own_node(NodeOptions::default(), async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(1).await;
        let mut anna = page.logged_in(OPERATOR).await;
        let planned = anna.post("/plans", &[("action", "replay"), ("dead_letter", "r-0")]).await;
        let plan = planned.location().to_owned();
        page.world.ctx.node().memory_alarm(true).await;
        let refused = anna.post(&plan, &[]).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert!(refused.body.contains("so nothing was started"), "{}", refused.body);
        page.world.ctx.node().memory_alarm(false).await;
        let known = async || {
            let jobs = anna.get("/jobs").await.body;
            if jobs.contains("so it was not started") { Ok(()) } else { Err(jobs) }
        };
        kit::eventually("the end of the job", SOON, known).await;
        assert!(!anna.get("/").await.body.contains("was interrupted"));
        // A count of the overview may have it for a moment.
        let there = async || page.world.amqp.ready_count(DEAD).await == 1;
        kit::eventually("the dead letter", SOON, there).await;
    });
}

#[test]
fn the_overview_is_there_while_rabbitmq_does_not_answer() {
    kit::run_on_own_node(NodeOptions::default(), async |ctx| {
        let page = Page::start(ctx).await;
        page.publish_dead_letters(1).await;
        let mut anna = page.logged_in(VIEWER).await;
        assert!(anna.get("/").await.body.contains("1 worker consumes requests"));
        page.world.ctx.node().freeze().await;
        let silent = async || {
            let began = Instant::now();
            let overview = anna.get("/").await.body;
            assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
            // An answer is reused for a moment.
            if overview.contains("RabbitMQ has not said within 5 s what waits") {
                Ok(())
            } else {
                Err(overview)
            }
        };
        let silent = kit::eventually("what is wrong", SOON * 2, silent).await;
        page.world.ctx.node().thaw().await;
        let well = async || {
            let overview = anna.get("/").await.body;
            if overview.contains("1 worker consumes requests") { Ok(()) } else { Err(overview) }
        };
        kit::eventually("what waits", SOON, well).await;
        silent
    });
}
