//! Keys: a repeat is answered without a second publish.

use futures_util::future::join_all;
use kit::{Answer, NodeOptions};

use super::world::{Front, Gateway, json, problem};
use crate::world::{SOON, World};

#[test]
fn a_repeat_with_its_key_is_answered_without_a_second_publish() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let request = || json(r#"{"customer_id":191}"#).header("idempotency-key", r#""order 7""#);
        let first = front.gateway.post(request()).await;
        assert_eq!((first.status, &first.json()["id"]), (202, &"local/order 7".into()));
        let again = front.gateway.post(request()).await;
        assert_eq!((again.status, &again.body), (202, &first.body));
        assert_eq!(again.headers["location"], first.headers["location"]);
        let plain = json(r#"{"customer_id":191}"#).header("idempotency-key", "order 7");
        assert_eq!(front.gateway.post(plain).await.body, first.body, "the same key without quotes");
        let other = json(r#"{"customer_id":192}"#).header("idempotency-key", "order 7");
        assert_eq!(problem(&front.gateway.post(other).await).1, "key_reused");
        front.world.outcome().await;
        // A later one has its outcome, so a second one of the first would be here by now.
        assert_eq!(front.unlock(r#"{"customer_id":1}"#).await.status, 202);
        front.world.outcomes(2).await;
        assert_eq!((front.world.outcomes.len(), front.world.trackfinity.count()), (2, 2));
    });
}

#[test]
fn repeats_at_the_same_time_are_published_once() {
    kit::run(async |ctx| {
        let front = Front::start(ctx).await;
        let post = || async {
            let request = json(r#"{"customer_id":191}"#).header("idempotency-key", "k");
            front.gateway.post(request.header("prefer", "wait=20")).await
        };
        let answers = join_all((0..20).map(|_| post())).await;
        for answer in &answers {
            assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
        }
        assert_eq!(front.world.trackfinity.count(), 1);
    });
}

#[test]
fn a_repeat_that_waits_gets_the_outcome_that_came_meanwhile() {
    kit::run(async |ctx| {
        let slow = |_: &kit::Call| Answer::unlocked().after(std::time::Duration::from_millis(1500));
        let front = Front::start_with(ctx, &[], slow).await;
        let post = async |wait: &str| {
            let request = json(r#"{"customer_id":191}"#).header("webhook-id", "w-1");
            front.gateway.post(request.header("prefer", wait)).await
        };
        assert_eq!(post("wait=1").await.status, 202);
        let outcome = front.world.outcome().await;
        let answer = post("wait=20").await;
        assert_eq!((answer.status, answer.json()), (200, outcome));
        assert_eq!(front.world.trackfinity.count(), 1);
    });
}

#[test]
fn a_key_of_which_it_is_unknown_whether_it_was_taken_is_kept() {
    kit::run_on_own_node_within(std::time::Duration::from_secs(150), NodeOptions::default(), async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[]).await;
        let post = |customer: &str| {
            let request = json(&format!(r#"{{"customer_id":"{customer}"}}"#)).header("idempotency-key", "k");
            gateway.post(request)
        };
        // Opens a channel; without one nothing could be written.
        assert_eq!(gateway.post(json(r#"{"customer_id":191}"#)).await.status, 202);
        world.outcome().await;
        world.ctx.node().freeze().await;
        for (status, code, taken) in join_all((0..3).map(|_| post("A"))).await.iter().map(problem) {
            assert_eq!((status, code.as_str(), taken.as_deref()), (504, "no_confirm", Some("unknown")));
        }
        world.ctx.node().thaw().await;
        gateway.wait_ready(200).await;
        assert_eq!(problem(&post("B").await).1, "key_reused");
        // The gateway may not have noticed yet that its connection was lost meanwhile.
        kit::eventually("A is accepted", SOON, async || match post("A").await.status {
            202 => Ok(()),
            status => Err(status.to_string()),
        })
        .await;
        assert_eq!(world.outcome().await["request"]["customer_id"], "A");
    });
}
