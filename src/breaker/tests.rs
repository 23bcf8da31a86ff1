mod property;

use super::*;

const LIMITS: BreakerLimits = BreakerLimits {
    after_failures: 3,
    probe_delay: Duration::from_secs(1),
    probe_max_delay: Duration::from_secs(30),
};
const DOWN: CallResult = CallResult::Failure(Reason::Http(503));
const FORBIDDEN: CallResult = CallResult::EndpointFault(Reason::Http(403));
const NO_TUNNEL: CallResult = CallResult::EndpointFault(Reason::ProxyRefused(407));
const SERVED: CallResult = CallResult::Served;
const IS_DOWN: Cause = Cause::Failures(Reason::Http(503));
const IS_FORBIDDEN: Cause = Cause::EndpointFault(Reason::Http(403));

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A breaker and a clock, so that a test reads as a script of answers.
struct Script {
    breaker: Breaker,
    now: Instant,
}

impl Script {
    fn new() -> Self {
        Self { breaker: Breaker::new(LIMITS), now: Instant::now() }
    }

    /// A breaker that was opened by three requests with this result.
    fn open(result: CallResult) -> Self {
        let mut script = Self::new();
        for request in ["a", "b", "c"] {
            script.call(request, result);
        }
        assert!(script.cause().is_some());
        script
    }

    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self
    }

    /// A call that takes a millisecond.
    fn call(&mut self, request: &str, result: CallResult) -> (Judgement, Option<Notice>) {
        let started = self.now;
        self.now += Duration::from_millis(1);
        self.breaker.record(request, started, result, self.now)
    }

    /// The first call of the next probe, when it is due.
    fn probe(&mut self, request: &str, result: CallResult) -> (ProbeStep, Option<Notice>) {
        self.now = self.now.max(self.probe_at().expect("a probe is due"));
        self.breaker.begin_probe();
        self.probe_on(request, result)
    }

    /// The next call of the same probe.
    fn probe_on(&mut self, request: &str, result: CallResult) -> (ProbeStep, Option<Notice>) {
        self.breaker.probe_answered(request, self.now, result, self.now)
    }

    fn cause(&self) -> Option<Cause> {
        self.breaker.pause().map(|pause| pause.cause)
    }

    fn probe_at(&self) -> Option<Instant> {
        self.breaker.pause().and_then(|pause| pause.probe_at)
    }
}

#[test]
fn failures_of_different_requests_in_a_row_open_the_breaker() {
    let mut script = Script::new();
    for (request, result) in [("a", DOWN), ("b", DOWN), ("c", SERVED), ("d", DOWN), ("e", DOWN)] {
        assert_eq!(script.call(request, result), (Judgement::Counts, None));
    }
    let expected = (Judgement::Counts, Some(Notice::Paused(IS_DOWN, seconds(1))));
    assert_eq!(script.call("f", DOWN), expected);
    assert_eq!(script.probe_at(), Some(script.now + seconds(1)));
}

#[test]
fn one_request_that_fails_again_and_again_does_not_open_the_breaker() {
    let mut script = Script::new();
    for _ in 0..100 {
        assert_eq!(script.call("a", DOWN), (Judgement::Counts, None));
        script.call("b", DOWN);
    }
    assert_eq!(script.cause(), None);
}

#[test]
fn an_endpoint_fault_opens_the_breaker_at_once_while_nothing_is_served() {
    let mut script = Script::new();
    let (judgement, notice) = script.call("a", FORBIDDEN);
    assert_eq!(judgement, Judgement::Spared);
    assert_eq!(notice, Some(Notice::Paused(IS_FORBIDDEN, seconds(1))));
    assert!(IS_FORBIDDEN.advice().contains("ADMIN_API_ALLOWED_IPS"));
    let mut later = Script::new();
    later.call("a", SERVED);
    later.wait(11).call("b", FORBIDDEN);
    assert_eq!(later.cause(), Some(IS_FORBIDDEN));
}

#[test]
fn the_next_different_request_decides_about_an_endpoint_fault() {
    let mut script = Script::new();
    script.call("a", SERVED);
    assert_eq!(script.call("b", FORBIDDEN), (Judgement::Spared, None));
    assert_eq!(script.call("b", FORBIDDEN), (Judgement::Spared, None), "the same request decides nothing");
    assert_eq!(script.call("c", SERVED), (Judgement::Counts, None));
    assert_eq!(script.call("d", FORBIDDEN), (Judgement::Spared, None));
    let (judgement, notice) = script.call("e", FORBIDDEN);
    assert_eq!(judgement, Judgement::Spared);
    assert_eq!(notice, Some(Notice::Paused(IS_FORBIDDEN, seconds(1))));
}

#[test]
fn an_endpoint_fault_that_repeats_after_others_were_served_is_the_requests_own() {
    let mut script = Script::new();
    script.call("a", SERVED);
    assert_eq!(script.call("always", FORBIDDEN).0, Judgement::Spared);
    script.call("b", SERVED);
    assert_eq!(script.wait(1).call("always", FORBIDDEN), (Judgement::OwnFault, None));
    assert_eq!(script.cause(), None);
}

#[test]
fn a_proxy_that_refuses_new_tunnels_while_open_ones_serve_others_is_never_a_requests_own_fault() {
    let mut script = Script::new();
    for _ in 0..50 {
        script.wait(1).call("other", SERVED);
        assert_eq!(script.wait(1).call("always", NO_TUNNEL), (Judgement::Spared, None));
    }
    // Nor does it count towards a fault of its own at Trackfinity.
    script.wait(1).call("other", SERVED);
    assert_eq!(script.wait(1).call("always", FORBIDDEN), (Judgement::Spared, None));
    let mut script = Script::open(NO_TUNNEL);
    script.probe("always", NO_TUNNEL);
    assert_eq!(script.probe("other", SERVED).0, ProbeStep::Over(Judgement::Counts));
    assert_eq!(script.call("always", FORBIDDEN).0, Judgement::Spared);
}

#[test]
fn a_proxy_that_refuses_the_tunnel_opens_the_breaker_as_a_wrong_key_does() {
    let is_refused = Cause::EndpointFault(Reason::ProxyRefused(407));
    let mut script = Script::new();
    let (judgement, notice) = script.call("a", NO_TUNNEL);
    assert_eq!((judgement, notice), (Judgement::Spared, Some(Notice::Paused(is_refused, seconds(1)))));
    assert_eq!(script.probe("b", NO_TUNNEL).0, ProbeStep::Over(Judgement::Spared));
    assert_eq!(script.cause(), Some(is_refused));
    // Two different requests, while others were served a moment ago.
    let mut script = Script::new();
    script.call("served", SERVED);
    script.call("a", NO_TUNNEL);
    assert_eq!(script.cause(), None);
    script.call("b", NO_TUNNEL);
    assert_eq!(script.cause(), Some(is_refused));
}

#[test]
fn a_call_that_began_before_the_endpoint_fault_proves_nothing() {
    let mut script = Script::new();
    script.call("a", SERVED);
    let before = script.now;
    script.call("b", FORBIDDEN);
    script.breaker.record("c", before, SERVED, script.now);
    assert_eq!(script.call("b", FORBIDDEN).0, Judgement::Spared);
}

#[test]
fn of_many_requests_with_an_old_endpoint_fault_a_wrong_key_refuses_one_at_most() {
    let mut script = Script::new();
    script.call("a", SERVED);
    for n in 0..64 {
        script.call(&format!("r{n}"), FORBIDDEN);
        script.call(&format!("s{n}"), SERVED);
    }
    // From here on the key is wrong.
    let judgements: Vec<_> = (0..64).map(|n| script.call(&format!("r{n}"), FORBIDDEN).0).collect();
    assert_eq!(judgements.iter().filter(|judgement| **judgement == Judgement::OwnFault).count(), 1);
    script.call("new", FORBIDDEN);
    script.call("newer", FORBIDDEN);
    assert_eq!(script.cause(), Some(IS_FORBIDDEN));
}

#[test]
fn requests_with_faults_of_their_own_one_after_the_other_do_not_open_the_breaker() {
    let mut script = Script::new();
    script.call("a", SERVED);
    for always in ["x", "y", "z"] {
        script.call(always, FORBIDDEN);
        script.call("b", SERVED);
    }
    let mut ended = std::collections::BTreeSet::new();
    for _ in 0..3 {
        for always in ["x", "y", "z"] {
            if !ended.contains(always) && script.wait(1).call(always, FORBIDDEN).0 == Judgement::OwnFault {
                ended.insert(always);
            }
        }
        script.call("c", SERVED);
    }
    assert_eq!(ended.len(), 3);
    assert_eq!(script.cause(), None);
}

#[test]
fn a_429_pauses_for_the_time_it_asks_for_and_a_later_one_prolongs_it() {
    let mut script = Script::new();
    assert_eq!(script.call("a", CallResult::RateLimited(seconds(7))).0, Judgement::Spared);
    let opened = script.now;
    assert_eq!(script.probe_at(), Some(opened + seconds(7)));
    script.call("b", CallResult::RateLimited(seconds(9)));
    let longest = script.now + seconds(9);
    script.call("c", CallResult::RateLimited(seconds(2)));
    assert_eq!(script.probe_at(), Some(longest));
}

#[test]
fn a_429_that_asks_for_no_wait_is_probed_at_growing_intervals() {
    let mut script = Script::new();
    script.call("a", CallResult::RateLimited(Duration::ZERO));
    let mut waits = Vec::new();
    for _ in 0..4 {
        waits.push((script.probe_at().expect("a probe is due") - script.now).as_secs());
        script.probe("a", CallResult::RateLimited(Duration::ZERO));
    }
    assert_eq!(waits, [1, 2, 4, 8]);
}

#[test]
fn a_late_429_keeps_the_breaker_open_although_a_probe_is_served() {
    let mut script = Script::open(DOWN);
    script.call("late", CallResult::RateLimited(seconds(300)));
    let until = script.probe_at().expect("a probe is due");
    script.breaker.begin_probe();
    let (step, notice) = script.probe_on("d", SERVED);
    assert_eq!(step, ProbeStep::Over(Judgement::Spared));
    assert!(matches!(notice, Some(Notice::StillPaused { cause: Cause::RateLimited, .. })));
    assert_eq!(script.probe_at(), Some(until));
    script.probe("d", SERVED);
    assert_eq!(script.cause(), None);
}

#[test]
fn calls_in_flight_when_the_breaker_opens_burn_no_attempt_and_change_nothing() {
    let mut script = Script::open(DOWN);
    assert_eq!(script.call("d", DOWN), (Judgement::Spared, None));
    assert_eq!(script.call("e", FORBIDDEN), (Judgement::Spared, None));
    assert_eq!(script.call("f", SERVED), (Judgement::Counts, None));
    assert_eq!(script.cause(), Some(IS_DOWN));
}

#[test]
fn a_probe_after_failures_tries_five_different_requests_and_then_pings() {
    for (ping, judgement) in [(true, Judgement::Counts), (false, Judgement::Spared)] {
        let mut script = Script::open(DOWN);
        assert_eq!(script.probe("d", DOWN).0, ProbeStep::TryAnother);
        assert!(script.breaker.has_just_failed("d"));
        for request in ["e", "f", "g"] {
            assert_eq!(script.probe_on(request, DOWN).0, ProbeStep::TryAnother);
        }
        assert_eq!(script.probe_on("h", DOWN).0, ProbeStep::Ping);
        assert_eq!(script.breaker.ping_answered(ping, script.now).0, judgement);
        assert_eq!(script.cause(), Some(IS_DOWN));
        assert!(script.breaker.has_just_failed("d") && script.breaker.has_just_failed("h"));
        assert!(!script.breaker.has_just_failed("i"));
    }
}

#[test]
fn the_first_served_request_of_a_probe_ends_the_pause_and_the_failures_of_the_others_count() {
    let mut script = Script::open(DOWN);
    script.probe("d", DOWN);
    script.probe_on("always", FORBIDDEN);
    let (step, notice) = script.probe_on("e", SERVED);
    assert_eq!(step, ProbeStep::Over(Judgement::Counts));
    assert!(matches!(notice, Some(Notice::Resumed(_))));
    assert_eq!(script.cause(), None);
    script.wait(1).call("f", SERVED);
    assert_eq!(script.call("always", FORBIDDEN).0, Judgement::OwnFault);
}

#[test]
fn a_probe_with_fewer_than_five_requests_pings_too() {
    let mut script = Script::open(DOWN);
    script.probe("d", DOWN);
    assert_eq!(script.breaker.probe_exhausted(script.now).0, ProbeStep::Ping);
    assert_eq!(script.breaker.ping_answered(true, script.now).0, Judgement::Counts);
    assert_eq!(script.probe_at(), Some(script.now + seconds(2)));
}

#[test]
fn a_probe_after_an_endpoint_fault_is_one_request_and_burns_nothing() {
    let mut script = Script::open(FORBIDDEN);
    assert_eq!(script.probe("d", FORBIDDEN).0, ProbeStep::Over(Judgement::Spared));
    assert_eq!(script.probe("e", DOWN).0, ProbeStep::Over(Judgement::Spared));
    assert_eq!(script.cause(), Some(IS_DOWN), "from now on the probes are those after failures");
    assert_eq!(script.probe("f", DOWN).0, ProbeStep::TryAnother);
}

#[test]
fn a_probe_with_only_endpoint_faults_does_not_ping() {
    let mut script = Script::open(DOWN);
    script.probe("d", FORBIDDEN);
    for request in ["e", "f", "g"] {
        script.probe_on(request, FORBIDDEN);
    }
    let (step, notice) = script.probe_on("h", FORBIDDEN);
    assert_eq!(step, ProbeStep::Over(Judgement::Spared));
    assert!(matches!(notice, Some(Notice::StillPaused { cause: IS_FORBIDDEN, .. })));
}

#[test]
fn the_interval_between_probes_doubles_up_to_the_maximum() {
    let mut script = Script::open(FORBIDDEN);
    let mut waits = Vec::new();
    for _ in 0..7 {
        waits.push((script.probe_at().expect("a probe is due") - script.now).as_secs_f64().ceil() as u64);
        script.probe("d", FORBIDDEN);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn calls_come_back_step_by_step_after_a_pause() {
    let mut script = Script::open(DOWN);
    assert_eq!(script.breaker.ramp(), None);
    script.probe("d", SERVED);
    let mut ramp = vec![script.breaker.ramp()];
    for request in ["e", "f", "g"] {
        script.call(request, SERVED);
        ramp.push(script.breaker.ramp());
    }
    assert_eq!(ramp, [Some(8), Some(16), Some(32), Some(64)]);
    for n in 0..10 {
        script.call(&n.to_string(), SERVED);
    }
    assert_eq!(script.breaker.ramp(), None);
}

#[test]
fn an_abandoned_probe_is_due_again_at_once() {
    let mut script = Script::open(DOWN);
    script.wait(5);
    script.breaker.begin_probe();
    assert_eq!(script.probe_at(), None);
    script.breaker.abandon_probe(script.now);
    assert_eq!(script.probe_at(), Some(script.now));
}

#[test]
fn a_changed_key_is_probed_at_once() {
    let mut script = Script::open(FORBIDDEN);
    script.breaker.probe_now(script.now);
    assert_eq!(script.probe_at(), Some(script.now));
}

#[test]
fn each_opening_and_closing_gives_a_notice_and_repeats_once_a_minute() {
    let mut script = Script::new();
    for _ in 0..3 {
        let opened = script.call("a", FORBIDDEN).1;
        assert!(matches!(opened, Some(Notice::Paused(IS_FORBIDDEN, _))));
        assert!(matches!(script.probe("b", SERVED).1, Some(Notice::Resumed(_))));
        script.wait(11);
    }
    let mut script = Script::open(FORBIDDEN);
    let opened = script.now;
    let mut noticed = Vec::new();
    while script.now < opened + seconds(200) {
        if script.probe("b", FORBIDDEN).1.is_some() {
            noticed.push((script.now - opened).as_secs());
        }
    }
    assert_eq!(noticed, [60, 120, 180]);
}
