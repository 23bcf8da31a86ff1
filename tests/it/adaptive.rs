//! `worker.concurrency = "auto"`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kit::{Answer, Context};
use serde_json::Value;

use crate::world::{EXCHANGE, REQUEST, SOON, World, id};

const LIMIT: Duration = Duration::from_secs(120);
const AUTO: (&str, &str) = ("WORKER__CONCURRENCY", "auto");

/// Serves a number of calls at once, in their order; each takes the same time.
#[derive(Clone)]
struct Capacity {
    /// When each slot is free again.
    free_at: Arc<Mutex<Vec<Instant>>>,
    service: Duration,
}

impl Capacity {
    fn new(count: usize, service: Duration) -> Self {
        let capacity = Self { free_at: Arc::default(), service };
        capacity.set(count);
        capacity
    }

    fn set(&self, count: usize) {
        let mut free_at = self.free_at.lock().expect("no panic while it was locked");
        free_at.sort_by(|one, other| other.cmp(one));
        free_at.resize(count, Instant::now());
    }

    /// How long a call takes that comes now: its wait, and its service.
    fn delay(&self) -> Duration {
        let now = Instant::now();
        let mut free_at = self.free_at.lock().expect("no panic while it was locked");
        let slot = free_at.iter_mut().min().expect("there is a slot");
        *slot = now.max(*slot) + self.service;
        *slot - now
    }

    async fn world(&self, ctx: Context, requests: usize) -> World {
        let capacity = self.clone();
        let world =
            World::start_with(ctx, &[AUTO], move |_| Answer::unlocked().after(capacity.delay())).await;
        world.trackfinity.record(false);
        let requests =
            (0..requests).map(|n| (id(&n.to_string()), format!(r#"{{"customer_id":{n}}}"#).into_bytes()));
        world.amqp.publish_all(EXCHANGE, REQUEST, requests).await;
        world
    }
}

async fn reaches(world: &World, calls: usize) {
    kit::eventually("as many calls as the capacity, and a few that wait", SOON, async || {
        let in_flight = world.trackfinity.in_flight();
        if in_flight >= calls { Ok(()) } else { Err(format!("{in_flight} of {calls} in flight")) }
    })
    .await;
}

/// More than the capacity, but less than twice as much.
fn a_few_more_than(count: usize) -> usize {
    count + count.isqrt() + count / 8
}

fn follows(count: usize, service: Duration, requests: usize) {
    kit::run_within(LIMIT, async |ctx| {
        let capacity = Capacity::new(count, service);
        let world = capacity.world(ctx, requests).await;
        reaches(&world, a_few_more_than(count)).await;
        let reached = world.trackfinity.in_flight();

        capacity.set(count / 4);
        let fell = Instant::now();
        kit::eventually("half as many calls", Duration::from_secs(5), async || {
            let in_flight = world.trackfinity.in_flight();
            if in_flight <= reached / 2 { Ok(()) } else { Err(format!("{in_flight} of {reached} in flight")) }
        })
        .await;
        let halved = fell.elapsed();

        capacity.set(count);
        let returned = Instant::now();
        reaches(&world, a_few_more_than(count)).await;
        let max = world.trackfinity.max_in_flight();
        eprintln!(
            "capacity {count}: {reached} in flight, half of it {halved:?} after the fall to a quarter, all again \
             {:?} after the return, {max} at most",
            returned.elapsed()
        );
        // The limit doubles at first, until it sees that it is too high.
        assert!(max <= 4 * count + 16, "{max} calls in flight");
    });
}

#[test]
fn the_limit_finds_a_capacity_of_8_and_its_fall_to_2() {
    follows(8, Duration::from_millis(50), 4_000);
}

#[test]
fn the_limit_finds_a_capacity_of_64_and_its_fall_to_16() {
    follows(64, Duration::from_millis(100), 12_000);
}

#[test]
fn changes_of_the_prefetch_lose_nothing_and_repeat_nothing() {
    const REQUESTS: usize = 1_500;
    kit::run_within(LIMIT, async |ctx| {
        let capacity = Capacity::new(64, Duration::from_millis(100));
        let world = capacity.world(ctx, REQUESTS).await;
        world.outcomes.wait_count(REQUESTS, SOON).await;
        world.stop().await;
        assert_eq!(world.trackfinity.count(), REQUESTS as u64);
        let lines = world.worker.stderr();
        let prefetches: BTreeSet<u64> = lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|line| line.get("prefetch").or_else(|| line["fields"].get("prefetch"))?.as_u64())
            .collect();
        assert!(prefetches.is_superset(&[1, 8, 16, 32].into()), "{prefetches:?}");
        assert!(!lines.iter().any(|line| line.contains("not consuming")), "the session continued");
    });
}
