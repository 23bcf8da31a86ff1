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

/// Serves so many calls at once, first come, first served; each takes as long.
#[derive(Clone)]
struct Places {
    /// When each is free again.
    free_at: Arc<Mutex<Vec<Instant>>>,
    service: Duration,
}

impl Places {
    fn new(count: usize, service: Duration) -> Self {
        let places = Self { free_at: Arc::default(), service };
        places.set(count);
        places
    }

    fn set(&self, count: usize) {
        let mut free_at = self.free_at.lock().expect("no panic holds the places");
        free_at.sort_by(|one, other| other.cmp(one));
        free_at.resize(count, Instant::now());
    }

    /// How long a call that comes now waits and is served.
    fn delay(&self) -> Duration {
        let now = Instant::now();
        let mut free_at = self.free_at.lock().expect("no panic holds the places");
        let place = free_at.iter_mut().min().expect("there is a place");
        *place = now.max(*place) + self.service;
        *place - now
    }

    async fn world(&self, ctx: Context, requests: usize) -> World {
        let places = self.clone();
        let world = World::start_with(ctx, &[AUTO], move |_| Answer::unlocked().after(places.delay())).await;
        world.trackfinity.record(false);
        let requests =
            (0..requests).map(|n| (id(&n.to_string()), format!(r#"{{"customer_id":{n}}}"#).into_bytes()));
        world.amqp.publish_all(EXCHANGE, REQUEST, requests).await;
        world
    }
}

async fn reaches(world: &World, calls: usize) {
    kit::eventually("as many calls as there are places, and a few that wait", SOON, async || {
        let in_flight = world.trackfinity.in_flight();
        if in_flight >= calls { Ok(()) } else { Err(format!("{in_flight} of {calls} in flight")) }
    })
    .await;
}

/// Between as many calls as there are places and as many again.
fn a_few_more_than(count: usize) -> usize {
    count + count.isqrt() + count / 8
}

fn follows(count: usize, service: Duration, requests: usize) {
    kit::run_within(LIMIT, async |ctx| {
        let places = Places::new(count, service);
        let world = places.world(ctx, requests).await;
        reaches(&world, a_few_more_than(count)).await;
        let reached = world.trackfinity.in_flight();

        places.set(count / 4);
        let fell = Instant::now();
        kit::eventually("half as many calls", Duration::from_secs(5), async || {
            let in_flight = world.trackfinity.in_flight();
            if in_flight <= reached / 2 { Ok(()) } else { Err(format!("{in_flight} of {reached} in flight")) }
        })
        .await;
        let halved = fell.elapsed();

        places.set(count);
        let returned = Instant::now();
        reaches(&world, a_few_more_than(count)).await;
        let most = world.trackfinity.max_in_flight();
        eprintln!(
            "{count} places: {reached} in flight, half of it {halved:?} after three in four went, back {:?} \
             after they came again, {most} at most",
            returned.elapsed()
        );
        // It doubles at first: until it has seen that it is too much.
        assert!(most <= 4 * count + 16, "{most} calls in flight");
    });
}

#[test]
fn eight_places_are_found_and_their_fall_to_two() {
    follows(8, Duration::from_millis(50), 4_000);
}

#[test]
fn sixty_four_places_are_found_and_their_fall_to_sixteen() {
    follows(64, Duration::from_millis(100), 12_000);
}

#[test]
fn other_prefetches_lose_nothing_and_repeat_nothing() {
    const REQUESTS: usize = 1_500;
    kit::run_within(LIMIT, async |ctx| {
        let places = Places::new(64, Duration::from_millis(100));
        let world = places.world(ctx, REQUESTS).await;
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
        assert!(!lines.iter().any(|line| line.contains("not consuming")), "the session went on");
    });
}
