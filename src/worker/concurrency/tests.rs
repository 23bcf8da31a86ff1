mod simulation;

use std::f64::consts::TAU;

use fastrand::Rng;

use super::*;
use simulation::{Service, Simulation, Trackfinity};

const CAPACITIES: [usize; 3] = [8, 64, 400];

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// 40 to 60 ms.
fn even(rng: &mut Rng) -> f64 {
    0.04 + 0.02 * rng.f64()
}

/// Log-normal: a median of 50 ms, a mean of 82.4 ms, and one in a hundred over 510 ms.
fn long_tailed(rng: &mut Rng) -> f64 {
    let (u, v) = (1.0 - rng.f64(), rng.f64());
    0.05 * ((-2.0 * u.ln()).sqrt() * (TAU * v).cos()).exp()
}

/// Each with its mean.
const SERVICES: [(&str, Service, f64); 2] = [("even", even, 0.05), ("long-tailed", long_tailed, 0.0824)];

/// Runs for this many seconds; returns which share of its capacity Trackfinity used.
fn share(simulation: &mut Simulation, mean: f64, seconds: f64) -> f64 {
    let max = simulation.trackfinity.capacity as f64 / mean;
    simulation.run(secs(seconds)) / max
}

fn each(mut test: impl FnMut(&str, Trackfinity, f64)) {
    for (name, service, mean) in SERVICES {
        for capacity in CAPACITIES {
            test(&format!("{name}, {capacity}"), Trackfinity::new(capacity, service), mean);
        }
    }
}

#[test]
fn nearly_all_of_the_capacity_is_used_within_seconds_and_the_limit_is_not_much_above_it() {
    each(|name, trackfinity, mean| {
        let capacity = trackfinity.capacity as f64;
        let mut simulation = Simulation::adaptive(trackfinity);
        simulation.run(secs(3.0));
        let (mut shares, mut levels) = (0.0, Vec::new());
        for _second in 0..30 {
            shares += share(&mut simulation, mean, 1.0);
            levels.push(simulation.level(0));
        }
        let share = shares / 30.0;
        let average = levels.iter().sum::<f64>() / 30.0;
        let max = levels.into_iter().fold(0.0, f64::max);
        eprintln!("{name}: {share:.3} of the capacity, with {average:.0} in flight, {max:.0} at most");
        assert!(share > 0.9, "{name}: {share}");
        assert!(average <= 2.0 * capacity + 16.0 && max <= 3.0 * capacity + 16.0, "{name}: {average}, {max}");
    });
}

#[test]
fn where_trackfinity_turns_away_calls_beyond_its_capacity_few_are_turned_away() {
    each(|name, mut trackfinity, mean| {
        trackfinity.turns_away = true;
        let few = trackfinity.capacity == 8;
        let mut simulation = Simulation::adaptive(trackfinity);
        simulation.run(secs(10.0));
        let (served, turned_away) = (simulation.served, simulation.turned_away);
        let share = share(&mut simulation, mean, 60.0);
        let (served, turned_away) = (simulation.served - served, simulation.turned_away - turned_away);
        let turned_away = turned_away as f64 / (served + turned_away) as f64;
        let pauses = simulation.workers[0].pauses;
        eprintln!("{name}: {share:.3} of all, {turned_away:.4} turned away, {pauses} pauses");
        // With so small a capacity, one call too many soon means ten failures in a row, and a
        // pause.
        assert!(share > if few { 0.7 } else { 0.85 }, "{name}: {share}");
        assert!(turned_away < if few { 0.06 } else { 0.02 }, "{name}: {turned_away}");
    });
}

#[test]
fn the_limit_follows_a_fall_of_the_capacity_and_its_return_within_five_seconds() {
    // Also at and near the moments at which a baseline is measured.
    for moment in [20.0, 20.1, 25.5, 29.9] {
        each(|name, trackfinity, mean| {
            if trackfinity.capacity == 400 && moment != 25.5 {
                return;
            }
            let mut simulation = Simulation::adaptive(trackfinity);
            simulation.run(secs(moment - 1.0));
            let before = simulation.in_flight();
            simulation.run(secs(1.0));
            simulation.trackfinity.capacity /= 4;
            simulation.run(secs(5.0));
            let after = simulation.in_flight();
            simulation.trackfinity.capacity *= 4;
            simulation.run(secs(5.0));
            let back = share(&mut simulation, mean, 5.0);
            eprintln!("{name}, {moment} s: {before} in flight, then {after}; {back:.2} of all again");
            // Few calls that differ much: it takes longer to be sure.
            if name != "long-tailed, 8" {
                assert!(after <= before / 2, "{name}, {moment} s: {before} in flight, then {after}");
            }
            assert!(back > 0.85, "{name}, {moment} s: {back}");
        });
    }
}

#[test]
fn a_tenth_of_failures_costs_nothing() {
    each(|name, mut trackfinity, mean| {
        trackfinity.failing = 0.1;
        let mut simulation = Simulation::adaptive(trackfinity);
        simulation.run(secs(3.0));
        let from_the_start = share(&mut simulation, mean, 30.0);
        simulation.trackfinity.failing = 0.0;
        simulation.run(secs(20.0));
        simulation.trackfinity.failing = 0.1;
        let later = share(&mut simulation, mean, 30.0);
        eprintln!("{name}: {from_the_start:.3}, {later:.3} of all");
        assert!(from_the_start > 0.85 && later > 0.85, "{name}: {from_the_start}, {later}");
    });
}

#[test]
fn the_baseline_follows_when_trackfinity_becomes_slower_for_good() {
    for moment in [20.0, 20.1, 25.5, 29.9] {
        each(|name, trackfinity, mean| {
            if trackfinity.capacity == 400 && moment != 25.5 {
                return;
            }
            let mut simulation = Simulation::adaptive(trackfinity);
            simulation.run(secs(moment));
            simulation.trackfinity.slowness = 3.0;
            simulation.run(secs(15.0));
            let share = share(&mut simulation, 3.0 * mean, 20.0);
            eprintln!("{name}, {moment} s: {share:.3} of all");
            assert!(share > 0.8, "{name}, {moment} s: {share}");
        });
    }
}

#[test]
fn several_workers_measure_at_the_same_moment_and_so_see_their_common_queue() {
    for (name, service, mean) in SERVICES {
        let mut simulation = Simulation::new(Trackfinity::new(64, service), &[None; 3]);
        simulation.run(secs(5.0));
        for minute in 0..6 {
            if minute == 3 {
                simulation.join(None);
            }
            let share = share(&mut simulation, mean, 60.0);
            let levels = (0..simulation.workers.len()).map(|worker| simulation.level(worker).round());
            let levels: Vec<_> = levels.collect();
            eprintln!("{name}: {share:.3} of all; {levels:?}");
            assert!(share > 0.9, "{name}: {share}");
            assert!(levels.iter().sum::<f64>() < 6.0 * 64.0, "{name}: {levels:?}");
        }
    }
}

#[test]
fn with_slow_answers_the_limit_only_takes_longer_to_find() {
    let mut simulation = Simulation::adaptive(Trackfinity::new(50, |rng| 4.0 + 2.0 * rng.f64()));
    simulation.run(secs(60.0));
    let share = share(&mut simulation, 5.0, 120.0);
    assert!(share > 0.9, "{share}");
    assert!(simulation.level(0) < 116.0, "{}", simulation.level(0));
}

#[test]
fn with_fast_answers_the_workers_own_time_does_not_lower_the_limit() {
    let fast = || Trackfinity::new(2, |_| 0.000_5);
    let fixed = Simulation::new(fast(), &[Some(64)]).run(secs(5.0));
    let mut simulation = Simulation::adaptive(fast());
    simulation.run(secs(1.0));
    let found = simulation.run(secs(5.0));
    assert!(found > 0.95 * fixed, "{found} of {fixed} a second");
}

#[test]
fn a_limit_that_is_not_reached_does_not_grow_and_none_passes_2000() {
    let mut idle = Simulation::adaptive(Trackfinity::new(64, even));
    idle.trickle(secs(0.02));
    idle.run(secs(1.0));
    let before = idle.level(0);
    idle.run(secs(600.0));
    assert_eq!(idle.level(0), before);
    let mut simulation = Simulation::adaptive(Trackfinity::new(10_000, |_| 1.0));
    simulation.run(secs(60.0));
    assert_eq!(simulation.level(0), 2000.0);
}

fn auto(rate: Option<f64>) -> (ConcurrencyLimit, Instant) {
    let now = Instant::now();
    let rate = rate.and_then(RateLimit::new);
    (ConcurrencyLimit::new(Concurrency::Auto, rate, now, now + MAX_BASELINE_INTERVAL), now)
}

/// Records this many calls, one every ten milliseconds.
fn calls(limit: &mut ConcurrencyLimit, count: usize, now: &mut Instant, waited: Duration) {
    for _call in 0..count {
        *now += secs(0.01);
        let in_flight = limit.current().into();
        limit.record(Call { took: secs(0.05), waited, served: true }, in_flight, *now);
    }
}

#[test]
fn the_rate_limit_bounds_the_limit_and_calls_that_wait_for_it_do_not_raise_it() {
    let fixed = |rate| {
        let (rate, now) = (RateLimit::new(rate), Instant::now());
        ConcurrencyLimit::new(Concurrency::Fixed(64.try_into().unwrap()), rate, now, now).current()
    };
    assert_eq!([fixed(2.0), fixed(1.0), fixed(0.5), fixed(0.001)], [64, 60, 30, 1]);
    let (mut limit, mut now) = auto(Some(0.05));
    assert_eq!(limit.current(), 3);
    calls(&mut limit, 900, &mut now, Duration::ZERO);
    assert_eq!((limit.current(), limit.prefetch(now)), (3, 3));
    let (mut limit, mut now) = auto(None);
    calls(&mut limit, 900, &mut now, secs(0.06));
    assert_eq!(limit.current(), 8);
    calls(&mut limit, 90, &mut now, secs(0.04));
    assert!(limit.current() >= 16, "{limit:?}");
}

#[test]
fn after_a_pause_the_limit_starts_again_lower() {
    let (mut limit, mut now) = auto(None);
    calls(&mut limit, 900, &mut now, Duration::ZERO);
    let before = limit.current();
    assert!(before >= 64, "{limit:?}");
    limit.start_session(now);
    assert_eq!(limit.current(), before, "a new session is no pause");
    limit.resume(before.into(), now);
    assert_eq!(limit.current(), 8);
    let resumed = now;
    while now < resumed + secs(20.0) {
        calls(&mut limit, 1, &mut now, Duration::ZERO);
        assert!(limit.current() < before, "{limit:?}");
    }
    assert!(limit.current() > before / 2, "{limit:?}");
    for expected in [8, 4, 2, 1, 1] {
        limit.resume(0, now);
        assert_eq!(limit.current(), expected);
    }
}

#[test]
fn the_prefetch_is_a_power_of_two_and_shrinks_late() {
    let (mut limit, now) = auto(None);
    let mut prefetch = |level: f64, seconds: f64| {
        let ConcurrencyLimit::Auto(adaptive) = &mut limit else { unreachable!() };
        adaptive.level = level;
        limit.prefetch(now + secs(seconds))
    };
    assert_eq!([prefetch(8.0, 0.0), prefetch(8.9, 0.0), prefetch(9.0, 0.0)], [8, 8, 16]);
    assert_eq!([prefetch(100.0, 1.0), prefetch(33.0, 2.0), prefetch(33.0, 60.0)], [128, 128, 128]);
    assert_eq!([prefetch(32.0, 61.0), prefetch(32.0, 70.9), prefetch(32.0, 71.0)], [128, 128, 32]);
    assert_eq!([prefetch(8.0, 72.0), prefetch(9.0, 81.0), prefetch(8.0, 83.0)], [32, 32, 32]);
    assert_eq!([prefetch(1025.0, 84.0), prefetch(2000.0, 84.0)], [2000, 2000]);
}

#[test]
fn all_workers_measure_at_the_same_multiples_by_the_clock() {
    let now = Instant::now() + secs(10_000.0);
    let until = |interval, mark| until_multiple(secs(interval), mark, now);
    assert_eq!(until(10.0, now + secs(3.0)), secs(3.0));
    assert_eq!(until(10.0, now + secs(43.0)), secs(3.0));
    assert_eq!(until(10.0, now - secs(43.0)), secs(7.0));
    assert_eq!(until(10.0, now - secs(640.0)), secs(10.0));
    assert_eq!(until(20.0, now + secs(640.0)), secs(20.0));
}
