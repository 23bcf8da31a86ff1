//! A simulated Trackfinity, and workers that call it, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use fastrand::Rng;
use tokio::time::Instant;

use super::super::{AdaptiveLimit, Call};

/// How long a worker needs after a call to publish and acknowledge.
const SETTLING: Duration = Duration::from_millis(2);
/// How long it takes to turn away a call.
const REFUSAL: Duration = Duration::from_millis(2);
/// Failures in a row that open the breaker.
const PAUSE_AFTER_FAILURES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// How long Trackfinity works on a call, in seconds.
pub type Service = fn(&mut Rng) -> f64;

pub struct Trackfinity {
    /// Calls served at once.
    pub capacity: usize,
    pub service: Service,
    /// Multiplies the service time.
    pub slowness: f64,
    /// Whether calls beyond the capacity get a 503 at once, instead of waiting.
    pub turns_away: bool,
    /// The share of calls that get a 503 whatever the load is, after the same time as other
    /// answers.
    pub failing: f64,
    pub serving: usize,
    pub waiting: VecDeque<Pending>,
}

impl Trackfinity {
    pub fn new(capacity: usize, service: Service) -> Self {
        Self {
            capacity,
            service,
            slowness: 1.0,
            turns_away: false,
            failing: 0.0,
            serving: 0,
            waiting: VecDeque::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pending {
    worker: usize,
    began: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Served(Pending),
    Failed(Pending),
    Settled(Pending, Duration, bool),
    Arrived(usize),
    Resumed(usize),
}

pub struct Worker {
    limit: Limiter,
    in_flight: usize,
    /// Requests that wait, if they come one by one.
    waiting: Option<usize>,
    failures: u32,
    paused: bool,
    pub pauses: u32,
}

enum Limiter {
    Fixed(u16),
    Auto(Box<AdaptiveLimit>),
}

pub struct Simulation {
    pub trackfinity: Trackfinity,
    pub workers: Vec<Worker>,
    pub served: u64,
    pub turned_away: u64,
    now: Duration,
    start: Instant,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    count: u64,
    rng: Rng,
    arrivals: Option<Duration>,
    /// How much each worker's clock is behind that of the one before.
    skew: Duration,
}

impl Simulation {
    /// A worker that finds its own limit, before an endless backlog.
    pub fn adaptive(trackfinity: Trackfinity) -> Self {
        Self::new(trackfinity, &[None])
    }

    /// Workers with these limits; `None` is one that finds its own.
    pub fn new(trackfinity: Trackfinity, limits: &[Option<u16>]) -> Self {
        let start = Instant::now();
        let mut simulation = Self {
            trackfinity,
            workers: Vec::new(),
            served: 0,
            turned_away: 0,
            now: Duration::ZERO,
            start,
            events: BinaryHeap::new(),
            count: 0,
            rng: Rng::with_seed(7),
            arrivals: None,
            skew: Duration::from_millis(20),
        };
        for limit in limits {
            simulation.join(*limit);
        }
        simulation
    }

    /// Another worker starts.
    pub fn join(&mut self, limit: Option<u16>) {
        let now = self.start + self.now;
        let limit = match limit {
            Some(number) => Limiter::Fixed(number),
            None => {
                let mark = self.start + Duration::from_secs(640) + self.skew * self.workers.len() as u32;
                Limiter::Auto(Box::new(AdaptiveLimit::new(2000, now, mark)))
            }
        };
        self.workers.push(Worker {
            limit,
            in_flight: 0,
            waiting: None,
            failures: 0,
            paused: false,
            pauses: 0,
        });
        self.begin(self.workers.len() - 1);
    }

    /// From now on requests come one by one, and none waits.
    pub fn trickle(&mut self, interval: Duration) {
        self.arrivals = Some(interval);
        for worker in 0..self.workers.len() {
            self.workers[worker].waiting = Some(0);
            self.after(interval, Event::Arrived(worker));
        }
    }

    fn limit(&self, worker: usize) -> u16 {
        match &self.workers[worker].limit {
            Limiter::Fixed(number) => *number,
            Limiter::Auto(adaptive) => adaptive.current(),
        }
    }

    /// The worker's limit while no baseline is measured.
    pub fn level(&self, worker: usize) -> f64 {
        match &self.workers[worker].limit {
            Limiter::Fixed(number) => f64::from(*number),
            Limiter::Auto(adaptive) => adaptive.level,
        }
    }

    /// Calls at Trackfinity.
    pub fn in_flight(&self) -> usize {
        self.trackfinity.serving + self.trackfinity.waiting.len()
    }

    /// Runs for this time; returns how many calls a second were served.
    pub fn run(&mut self, time: Duration) -> f64 {
        let (until, before) = (self.now + time, self.served);
        while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
            if at > until {
                break;
            }
            self.events.pop();
            self.now = at;
            self.happen(event);
        }
        self.now = until;
        (self.served - before) as f64 / time.as_secs_f64()
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse((self.now + delay, self.count, event)));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Served(call) => {
                self.trackfinity.serving -= 1;
                self.served += 1;
                if self.trackfinity.serving < self.trackfinity.capacity
                    && let Some(next) = self.trackfinity.waiting.pop_front()
                {
                    self.serve(next);
                }
                self.after(SETTLING, Event::Settled(call, self.now - call.began, true));
            }
            Event::Failed(call) => self.after(SETTLING, Event::Settled(call, self.now - call.began, false)),
            Event::Settled(call, took, served) => self.settled(call.worker, took, served),
            Event::Arrived(worker) => {
                let interval = self.arrivals.expect("requests arrive");
                self.after(interval, Event::Arrived(worker));
                *self.workers[worker].waiting.as_mut().expect("requests arrive") += 1;
                self.begin(worker);
            }
            Event::Resumed(worker) => {
                let now = self.start + self.now;
                let paused = &mut self.workers[worker];
                paused.paused = false;
                paused.failures = 0;
                if let Limiter::Auto(adaptive) = &mut paused.limit {
                    adaptive.resume(paused.in_flight, now);
                }
                self.begin(worker);
            }
        }
    }

    fn settled(&mut self, index: usize, took: Duration, served: bool) {
        let now = self.start + self.now;
        let worker = &mut self.workers[index];
        if !worker.paused {
            let call = Call { took, waited: Duration::ZERO, served };
            if let Limiter::Auto(adaptive) = &mut worker.limit {
                adaptive.record(call, worker.in_flight, now);
            }
            worker.failures = if served { 0 } else { worker.failures + 1 };
            if worker.failures >= PAUSE_AFTER_FAILURES {
                worker.paused = true;
                worker.pauses += 1;
                self.after(PAUSE, Event::Resumed(index));
            }
        }
        self.workers[index].in_flight -= 1;
        self.begin(index);
    }

    /// Starts requests as the limit allows.
    fn begin(&mut self, index: usize) {
        let limit = usize::from(self.limit(index));
        while self.workers[index].in_flight < limit && !self.workers[index].paused {
            match &mut self.workers[index].waiting {
                None => {}
                Some(0) => return,
                Some(waiting) => *waiting -= 1,
            }
            self.workers[index].in_flight += 1;
            let call = Pending { worker: index, began: self.now };
            if self.rng.f64() < self.trackfinity.failing {
                let took = self.service();
                self.after(took, Event::Failed(call));
            } else if self.trackfinity.serving < self.trackfinity.capacity {
                self.serve(call);
            } else if self.trackfinity.turns_away {
                self.turned_away += 1;
                self.after(REFUSAL, Event::Failed(call));
            } else {
                self.trackfinity.waiting.push_back(call);
            }
        }
    }

    fn serve(&mut self, call: Pending) {
        self.trackfinity.serving += 1;
        let took = self.service();
        self.after(took, Event::Served(call));
    }

    fn service(&mut self) -> Duration {
        let seconds = (self.trackfinity.service)(&mut self.rng) * self.trackfinity.slowness;
        Duration::from_secs_f64(seconds)
    }
}
