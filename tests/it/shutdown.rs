//! How a worker stops, and what happens to the requests in flight.

use std::time::{Duration, Instant};

use kit::Answer;

use crate::world::{EXCHANGE, REQUEST, REQUESTS, SOON, World, requests};

#[test]
fn sigterm_lets_the_calls_in_flight_finish() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked().after(Duration::from_secs(2))).await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(100)).await;
        kit::eventually("64 calls", SOON, async || world.trackfinity.in_flight() == 64).await;
        world.worker.signal(kit::Signal::TERM);
        let signalled = Instant::now();
        assert_eq!(world.worker.wait_exit(SOON).await.code(), Some(0));
        assert!(signalled.elapsed() < Duration::from_secs(3), "{:?}", signalled.elapsed());
        assert_eq!(world.outcomes.wait_count(64, SOON).await.len(), 64);
        assert_eq!(world.trackfinity.count(), 64, "no call is repeated, and none is new");
        assert_eq!(world.amqp.ready_count(REQUESTS).await, 36);
    });
}

#[test]
fn every_acknowledgement_of_a_burst_arrives_before_the_worker_ends() {
    const AT_ONCE: usize = 500;
    kit::run(async |ctx| {
        let settings = [("WORKER__CONCURRENCY", "500")];
        let world =
            World::start_with(ctx, &settings, |_| Answer::unlocked().after(Duration::from_secs(3))).await;
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(AT_ONCE)).await;
        kit::eventually("all calls", SOON, async || world.trackfinity.in_flight() == AT_ONCE).await;
        world.stop().await;
        assert_eq!(world.outcomes.wait_count(AT_ONCE, SOON).await.len(), AT_ONCE);
    });
}

#[test]
fn a_request_that_outlasts_the_drain_timeout_stays_in_the_queue() {
    kit::run(async |ctx| {
        let settings = [("WORKER__DRAIN_TIMEOUT", "300ms")];
        let world = World::start_with(ctx, &settings, |_| Answer::unlocked().after(SOON)).await;
        world.unlock("1").await;
        world.trackfinity.wait_count(1, SOON).await;
        world.worker.signal(kit::Signal::TERM);
        assert_eq!(world.worker.wait_exit(SOON).await.code(), Some(0));
        kit::eventually("the request is requeued", SOON, async || {
            world.amqp.ready_count(REQUESTS).await == 1
        })
        .await;
        assert!(world.outcomes.is_empty());
    });
}

#[test]
fn a_second_signal_ends_the_worker_at_once() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked().after(SOON)).await;
        world.unlock("1").await;
        world.trackfinity.wait_count(1, SOON).await;
        world.worker.signal(kit::Signal::TERM);
        world.worker.wait_for_line(|line| line.contains("stopping"), SOON).await;
        world.worker.signal(kit::Signal::INT);
        let signalled = Instant::now();
        assert_eq!(world.worker.wait_exit(SOON).await.code(), Some(1));
        assert!(signalled.elapsed() < Duration::from_secs(2), "{:?}", signalled.elapsed());
        kit::eventually("the request is requeued", SOON, async || {
            world.amqp.ready_count(REQUESTS).await == 1
        })
        .await;
    });
}
