//! What RabbitMQ does not take is answered with a problem that says so.

use kit::{Answer, NodeOptions};

use super::world::{Front, Gateway, json, problem};
use crate::world::{EXCHANGE, REQUEST, REQUESTS, World};

const BODY: &str = r#"{"customer_id":191}"#;

fn not_taken(code: &str) -> (u16, String, Option<String>) {
    (503, code.to_owned(), Some("no".to_owned()))
}

#[test]
fn a_request_that_no_queue_takes_is_not_taken() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let management = front.world.ctx.vhost().management();
        management.delete_binding(EXCHANGE, REQUESTS, REQUEST).await;
        let answer = front.unlock(BODY).await;
        assert_eq!(problem(&answer), not_taken("unroutable"));
        assert!(answer.headers.contains_key("retry-after"));
        front.world.amqp.bind(REQUESTS, EXCHANGE, REQUEST).await;
        assert_eq!(front.unlock(BODY).await.status, 202);
    });
}

#[test]
fn before_the_topology_exists_nothing_is_taken() {
    kit::run(async |ctx| {
        let gateway = Gateway::begin(&ctx, ctx.amqp_url(), &[]).await;
        gateway.wait_ready(200).await;
        assert_eq!(problem(&gateway.post(json(BODY)).await), not_taken("exchange_refused"));
        assert_eq!(problem(&gateway.post(json(BODY)).await).0, 503);
    });
}

#[test]
fn while_rabbitmq_is_away_nothing_is_taken_and_afterwards_all_is_well() {
    kit::run_on_own_node(NodeOptions::default(), async |ctx| {
        let front = Front::start(ctx).await;
        front.world.ctx.node().kill().await;
        front.gateway.wait_ready(503).await;
        assert_eq!(problem(&front.unlock(BODY).await), not_taken("broker_unreachable"));
        front.world.ctx.node().restart().await;
        front.gateway.wait_ready(200).await;
        assert_eq!(front.unlock(BODY).await.status, 202);
    });
}

#[test]
fn a_memory_alarm_is_answered_at_once() {
    kit::run_on_own_node(NodeOptions::default(), async |ctx| {
        let front = Front::start_with(ctx, &[], |_| Answer::unlocked()).await;
        front.world.ctx.node().memory_alarm(true).await;
        // RabbitMQ tells a connection only when it publishes. What is caught in the middle may be taken later.
        let (status, code, taken) = problem(&front.unlock(BODY).await);
        assert_eq!((status, code.as_str(), taken.as_deref()), (504, "broker_blocked", Some("unknown")));
        let begun = std::time::Instant::now();
        assert_eq!(problem(&front.unlock(BODY).await), not_taken("broker_blocked"));
        assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
        front.gateway.wait_ready(503).await;
        front.world.ctx.node().memory_alarm(false).await;
        front.gateway.wait_ready(200).await;
        assert_eq!(front.unlock(BODY).await.status, 202);
    });
}

#[test]
fn a_full_queue_takes_nothing() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.stop().await;
        let policy = serde_json::json!({"max-length": 1, "overflow": "reject-publish"});
        world.ctx.vhost().management().set_policy("full", &format!("^{REQUESTS}$"), policy).await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[]).await;
        let refused = kit::eventually("the queue is full", crate::world::SOON, async || {
            let answer = gateway.post(json(BODY)).await;
            if answer.status == 202 { Err("taken") } else { Ok(answer) }
        })
        .await;
        assert_eq!(problem(&refused), not_taken("queue_full"));
    });
}
