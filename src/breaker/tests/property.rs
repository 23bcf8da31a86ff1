//! While some requests are always served, every request ends, and no pause is longer than those that
//! fail can make it. Simulates a queue, its tiers and one worker in steps.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// How a request is answered.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Healthy,
    AlwaysFails,
    AlwaysForbidden,
    /// Fails this often, and is then served.
    FailsFirst(u32),
}

#[derive(Clone, Copy, Debug)]
struct Request {
    id: usize,
    kind: Kind,
    calls: u32,
    attempts: u32,
}

impl Request {
    fn answer(&mut self) -> CallResult {
        self.calls += 1;
        match self.kind {
            Kind::Healthy => SERVED,
            Kind::AlwaysFails => DOWN,
            Kind::AlwaysForbidden => FORBIDDEN,
            Kind::FailsFirst(times) if self.calls <= times => DOWN,
            Kind::FailsFirst(_) => SERVED,
        }
    }
}

const MAX_ATTEMPTS: u32 = 12;
/// The ids of requests that come later start here.
const LATER_IDS: usize = 1_000_000;
/// Stops a run that would not end.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// One worker that makes one call after the other, each of 50 ms.
struct Simulation {
    breaker: Breaker,
    now: Instant,
    queue: VecDeque<Request>,
    tiers: BTreeMap<Instant, Vec<Request>>,
    /// Requests that ended, by whether they were served.
    ended: Vec<(Request, bool)>,
    longest_pause: Duration,
    paused_since: Option<Instant>,
}

impl Simulation {
    fn new(requests: Vec<Request>) -> Self {
        let limits = BreakerLimits { after_failures: 10, ..LIMITS };
        Self {
            breaker: Breaker::new(limits),
            now: Instant::now(),
            queue: requests.into(),
            tiers: BTreeMap::new(),
            ended: Vec::new(),
            longest_pause: Duration::ZERO,
            paused_since: None,
        }
    }

    fn run(&mut self, count: usize) {
        let end = self.now + A_DAY;
        // A healthy request comes every two seconds until all others have ended.
        let (mut next_id, mut next_at) = (LATER_IDS, self.now);
        while self.now < end
            && self.ended.iter().filter(|(request, _)| request.id < LATER_IDS).count() < count
        {
            while next_at <= self.now {
                self.queue.push_back(Request { id: next_id, kind: Kind::Healthy, calls: 0, attempts: 0 });
                (next_id, next_at) = (next_id + 1, next_at + Duration::from_secs(2));
            }
            let (back, still) =
                std::mem::take(&mut self.tiers).into_iter().partition(|(at, _)| *at <= self.now);
            let back: BTreeMap<Instant, Vec<Request>> = back;
            self.tiers = still;
            self.queue.extend(back.into_values().flatten());
            self.step();
            self.watch_pause();
        }
    }

    fn step(&mut self) {
        match self.breaker.pause() {
            None => match self.queue.pop_front() {
                Some(mut request) => {
                    let result = self.call(&mut request);
                    let started = self.now - Duration::from_millis(50);
                    let (judgement, _) =
                        self.breaker.record(&request.id.to_string(), started, result, self.now);
                    self.settle(request, result, judgement);
                }
                None => self.now += Duration::from_millis(100),
            },
            Some(pause) if pause.probe_at.is_some_and(|at| at > self.now) || self.queue.is_empty() => {
                self.now += Duration::from_millis(100);
            }
            Some(_) => self.probe(),
        }
    }

    fn probe(&mut self) {
        self.breaker.begin_probe();
        let mut tried = Vec::new();
        let judgement = loop {
            let Some(mut request) = self.next_for_probe() else {
                match self.breaker.probe_exhausted(self.now).0 {
                    ProbeStep::Over(judgement) => break judgement,
                    _ => break self.breaker.ping_answered(true, self.now).0,
                }
            };
            let started = self.now;
            let result = self.call(&mut request);
            let id = request.id.to_string();
            let (step, _) = self.breaker.probe_answered(&id, started, result, self.now);
            tried.push((request, result));
            match step {
                ProbeStep::TryAnother => {}
                ProbeStep::Ping => break self.breaker.ping_answered(true, self.now).0,
                ProbeStep::Over(judgement) => break judgement,
            }
        };
        for (request, result) in tried {
            self.settle(request, result, judgement);
        }
    }

    /// A request that has just failed goes behind the others, if there are any.
    fn next_for_probe(&mut self) -> Option<Request> {
        for _ in 0..self.queue.len() {
            let request = self.queue.pop_front()?;
            if !self.breaker.has_just_failed(&request.id.to_string()) {
                return Some(request);
            }
            self.queue.push_back(request);
        }
        // Within a probe all requests are different.
        let fresh = matches!(&self.breaker.phase, Phase::Probing { tried, .. } if tried.is_empty());
        if fresh { self.queue.pop_front() } else { None }
    }

    fn call(&mut self, request: &mut Request) -> CallResult {
        self.now += Duration::from_millis(50);
        request.answer()
    }

    fn settle(&mut self, mut request: Request, result: CallResult, judgement: Judgement) {
        let counts = judgement == Judgement::Counts && matches!(result, CallResult::Failure(_));
        request.attempts += u32::from(counts);
        let ends = request.attempts >= MAX_ATTEMPTS || judgement == Judgement::OwnFault;
        if result == SERVED || ends {
            self.ended.push((request, result == SERVED));
            return;
        }
        let tier = Duration::from_secs(1 << request.attempts.saturating_sub(1).min(10));
        self.tiers.entry(self.now + tier).or_default().push(request);
    }

    fn watch_pause(&mut self) {
        if self.breaker.pause().is_some() {
            let since = *self.paused_since.get_or_insert(self.now);
            self.longest_pause = self.longest_pause.max(self.now - since);
        } else {
            self.paused_since = None;
        }
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Healthy),
        3 => Just(Kind::AlwaysFails),
        1 => Just(Kind::AlwaysForbidden),
        2 => (1..8_u32).prop_map(Kind::FailsFirst),
    ]
}

/// The longest pause that these requests can cause: each probe tries five of them, or one after an
/// endpoint fault, and the last probe finds one that is served.
fn longest_possible_pause(requests: &[Request]) -> Duration {
    let count = |is: fn(&Kind) -> bool| requests.iter().filter(|request| is(&request.kind)).count();
    let failing = count(|kind| !matches!(kind, Kind::Healthy));
    let forbidden = count(|kind| matches!(kind, Kind::AlwaysForbidden));
    let probes = failing.div_ceil(PROBE_REQUESTS) + forbidden + 2;
    let delays =
        std::iter::successors(Some(LIMITS.probe_delay), |wait| Some((*wait * 2).min(LIMITS.probe_max_delay)));
    // Beside the waits there are the calls, of 50 ms each, and the simulation's steps, of 100 ms.
    delays.take(probes).map(|wait| wait + Duration::from_millis(400)).sum()
}

fn check(kinds: impl IntoIterator<Item = Kind>) -> Result<(), TestCaseError> {
    let requests: Vec<_> =
        kinds.into_iter().enumerate().map(|(id, kind)| Request { id, kind, calls: 0, attempts: 0 }).collect();
    let (count, longest) = (requests.len(), longest_possible_pause(&requests));
    let mut simulation = Simulation::new(requests);
    simulation.run(count);
    prop_assert!(simulation.longest_pause <= longest, "{:?} > {longest:?}", simulation.longest_pause);
    let ended: Vec<_> = simulation.ended.iter().filter(|(request, _)| request.id < LATER_IDS).collect();
    prop_assert_eq!(ended.len(), count);
    for (request, served) in &simulation.ended {
        let should = matches!(request.kind, Kind::Healthy | Kind::FailsFirst(_));
        prop_assert_eq!(*served, should, "{:?}", request);
    }
    Ok(())
}

#[test]
fn behind_forty_that_fail_the_pause_lasts_for_the_probes_that_try_them() -> Result<(), TestCaseError> {
    let fails_for_a_while = [5, 3, 5].map(Kind::FailsFirst);
    check(std::iter::repeat_n(Kind::AlwaysFails, 37).chain(fails_for_a_while))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn while_some_are_always_served_pauses_are_bounded_and_every_request_ends(
        // More that always fail than the 24 requests of one bad shard.
        kinds in proptest::collection::vec(kind(), 0..60),
        at_the_head in 0..25_usize,
    ) {
        check(std::iter::repeat_n(Kind::AlwaysFails, at_the_head).chain(kinds))?;
    }
}
