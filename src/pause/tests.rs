use super::*;

const LIMITS: PauseLimits = PauseLimits {
    after_failures: 3,
    probe_delay: Duration::from_secs(1),
    probe_max_delay: Duration::from_secs(30),
};
const DOWN: Signal = Signal::Failure(Reason::Http(503));
const WRONG_KEY: Signal = Signal::EndpointFault(Reason::Http(401));

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn paused_by(signal: Signal, now: Instant) -> Pause {
    let mut pause = Pause::new(LIMITS);
    while pause.cause().is_none() {
        pause.observe(signal, now);
    }
    pause
}

#[test]
fn failures_in_a_row_open_the_pause() {
    let (mut pause, now) = (Pause::new(LIMITS), Instant::now());
    for signal in [DOWN, DOWN, Signal::Served, DOWN, DOWN] {
        assert_eq!(pause.observe(signal, now), None);
    }
    assert_eq!(pause.cause(), None);
    let cause = Cause::Failures(Reason::Http(503));
    assert_eq!(pause.observe(DOWN, now), Some(Notice::Paused(cause, seconds(1))));
    assert_eq!(pause.probe_at(), Some(now + seconds(1)));
}

#[test]
fn one_endpoint_fault_opens_the_pause() {
    let (mut pause, now) = (Pause::new(LIMITS), Instant::now());
    let cause = Cause::EndpointFault(Reason::Http(401));
    assert_eq!(pause.observe(WRONG_KEY, now), Some(Notice::Paused(cause, seconds(1))));
    assert!(cause.advice().contains("ADMIN_API_ALLOWED_IPS"));
}

#[test]
fn a_429_pauses_for_as_long_as_it_asks_and_a_later_one_prolongs_it() {
    let now = Instant::now();
    let mut pause = paused_by(Signal::RateLimited(seconds(7)), now);
    assert_eq!(pause.probe_at(), Some(now + seconds(7)));
    pause.observe(Signal::RateLimited(seconds(9)), now);
    pause.observe(Signal::RateLimited(seconds(2)), now);
    assert_eq!(pause.probe_at(), Some(now + seconds(9)));
}

#[test]
fn a_429_that_asks_for_no_wait_is_probed_at_growing_distances() {
    let mut now = Instant::now();
    let mut pause = paused_by(Signal::RateLimited(Duration::ZERO), now);
    let mut waits = Vec::new();
    for _ in 0..4 {
        let probe_at = pause.probe_at().expect("a probe is due");
        waits.push((probe_at - now).as_secs());
        now = probe_at;
        pause.begin_probe();
        pause.end_probe(Some(Signal::RateLimited(Duration::ZERO)), now);
    }
    assert_eq!(waits, [1, 2, 4, 8]);
}

#[test]
fn a_429_that_comes_late_outlasts_a_probe_that_is_served() {
    let now = Instant::now();
    let mut pause = paused_by(DOWN, now);
    pause.begin_probe();
    pause.observe(Signal::RateLimited(seconds(300)), now);
    pause.end_probe(Some(Signal::Served), now + seconds(1));
    assert_eq!(pause.cause(), Some(Cause::RateLimited));
    assert_eq!(pause.probe_at(), Some(now + seconds(300)));
    pause.begin_probe();
    pause.end_probe(Some(Signal::Served), now + seconds(301));
    assert_eq!(pause.cause(), None);
}

#[test]
fn a_pause_that_was_not_told_of_ends_without_a_word() {
    let now = Instant::now();
    let mut pause = paused_by(DOWN, now);
    for (second, told) in [(1, true), (2, false), (3, false)] {
        pause.begin_probe();
        let notice = pause.end_probe(Some(Signal::Served), now + seconds(second));
        assert_eq!(notice.is_some(), told, "{second}");
        pause.observe(WRONG_KEY, now + seconds(70));
        let _flapping = pause.observe(DOWN, now);
        pause = Pause { said: false, ..pause };
    }
}

#[test]
fn replies_to_calls_under_way_do_not_end_a_pause_but_tell_a_worse_cause() {
    let now = Instant::now();
    let mut pause = paused_by(DOWN, now);
    assert_eq!(pause.observe(Signal::Served, now), None);
    assert!(pause.cause().is_some());
    let cause = Cause::EndpointFault(Reason::Http(401));
    assert_eq!(pause.observe(WRONG_KEY, now), Some(Notice::Paused(cause, seconds(1))));
    pause.observe(DOWN, now);
    assert_eq!(pause.cause(), Some(cause));
}

#[test]
fn probes_come_at_doubling_distances_up_to_the_longest() {
    let mut now = Instant::now();
    let mut pause = paused_by(DOWN, now);
    let mut waits = Vec::new();
    for _ in 0..7 {
        let probe_at = pause.probe_at().expect("a probe is due");
        waits.push((probe_at - now).as_secs());
        now = probe_at;
        pause.begin_probe();
        assert_eq!(pause.probe_at(), None);
        pause.end_probe(Some(DOWN), now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn a_served_probe_ends_the_pause() {
    let now = Instant::now();
    let mut pause = paused_by(WRONG_KEY, now);
    pause.begin_probe();
    let notice = pause.end_probe(Some(Signal::Served), now + seconds(5));
    assert_eq!(notice, Some(Notice::Resumed(seconds(5))));
    assert_eq!(pause.cause(), None);
    for _ in 0..2 {
        pause.observe(DOWN, now);
    }
    assert_eq!(pause.cause(), None);
}

#[test]
fn a_probe_that_came_to_no_call_is_due_again_at_once() {
    let now = Instant::now();
    let mut pause = paused_by(DOWN, now);
    pause.begin_probe();
    assert_eq!(pause.end_probe(None, now), None);
    assert_eq!(pause.probe_at(), Some(now));
}

#[test]
fn why_is_said_once_and_again_after_a_minute() {
    let mut now = Instant::now();
    let mut pause = paused_by(WRONG_KEY, now);
    let mut said = Vec::new();
    for second in 1..=130 {
        now += seconds(1);
        pause.begin_probe();
        if pause.end_probe(Some(WRONG_KEY), now).is_some() {
            said.push(second);
        }
    }
    assert_eq!(said, [60, 120]);
}
