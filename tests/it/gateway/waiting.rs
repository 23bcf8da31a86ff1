//! `Prefer: wait`: the outcome as the answer.

use std::time::Duration;

use kit::Answer;

use super::world::{Front, Gateway, json};
use crate::world::{SOON, World};

#[test]
fn a_request_that_waits_is_answered_with_its_outcome_byte_for_byte() {
    kit::run(async |ctx| {
        let front = Front::start_with(ctx, &[("GATEWAY__MAX_WAIT", "20s")], |_| Answer::status(400)).await;
        let request = json(r#"{"customer_id":191}"#).header("prefer", "respond-async, wait=60");
        let answer = front.gateway.post(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.headers["preference-applied"], "wait=20", "no longer than gateway.max_wait");
        assert_eq!(answer.body, front.world.outcomes.next(SOON).await.text());
        assert_eq!(answer.json()["reason"], "http_400");
    });
}

#[test]
fn an_outcome_that_does_not_come_in_time_is_no_fault() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.stop().await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[]).await;
        let answer = gateway.post(json(r#"{"customer_id":191}"#).header("prefer", "wait=1")).await;
        assert_eq!((answer.status, answer.headers.get("preference-applied")), (202, None));
        assert_eq!(gateway.metric("unlocker_gateway_waiters").await, Some(0.0));
    });
}

#[test]
fn a_gateway_that_stops_answers_those_that_wait() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        world.stop().await;
        let gateway = Gateway::start(&world.ctx, world.ctx.amqp_url(), &[]).await;
        let post = gateway.post(json(r#"{"customer_id":191}"#).header("prefer", "wait=30"));
        let stop = async {
            let published = async || match world.amqp.ready_count(crate::world::REQUESTS).await {
                1 => Ok(()),
                count => Err(count),
            };
            kit::eventually("the request is published", SOON, published).await;
            gateway.process.signal(kit::Signal::TERM);
        };
        let (answer, ()) = tokio::join!(post, stop);
        assert_eq!(answer.status, 202, "{answer:?}");
        let code = gateway.process.wait_exit(Duration::from_secs(15)).await;
        assert!(code.success(), "{code}");
    });
}
