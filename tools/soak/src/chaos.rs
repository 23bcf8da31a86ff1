//! Every few seconds a fault, or two at once; which ones and how long, the seed decides.

mod broker;
mod process;

use std::time::Duration;

use fastrand::Rng;
use kit::TcpCutter;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::audience::Audience;
use crate::bad_ids::BadIds;
use crate::broker::Broker;
use crate::crew::Crew;
use crate::install::Install;
use crate::journal::{Fault, Journal};
use crate::plan::{Kind, Plan, Target};

/// The share of faults that come with a second one, somewhere else.
const TWO_AT_ONCE: f64 = 0.25;
/// How much later a slow collector answers: later than the exporters wait.
const COLLECTOR_DELAY: Duration = Duration::from_secs(12);

pub struct Chaos<'a> {
    pub broker: &'a Broker,
    pub install: &'a Install,
    pub crew: &'a Crew,
    /// To the collector of traces and metrics.
    pub collector: &'a TcpCutter,
    pub audience: &'a Audience,
    pub bad_ids: &'a BadIds,
    pub journal: &'a Journal,
    pub stop: &'a CancellationToken,
}

impl Chaos<'_> {
    /// Until asked to stop. Everything it did is healed when it returns.
    pub async fn run(&self, mut rng: Rng) {
        // Each kind comes once before any comes again.
        let mut deck = Vec::new();
        loop {
            let pause = Duration::from_millis(rng.u64(1_000..3_500));
            let first = Plan::draw(&mut deck, &mut rng);
            let second = (rng.f64() < TWO_AT_ONCE).then(|| Plan::draw(&mut deck, &mut rng));
            self.hold(pause).await;
            if self.stop.is_cancelled() {
                return;
            }
            match second {
                Some(second) if self.are_apart(first.target, second.target) => {
                    tokio::join!(self.play(first), self.play(second));
                }
                Some(second) => {
                    self.play(first).await;
                    if !self.stop.is_cancelled() {
                        self.play(second).await;
                    }
                }
                None => self.play(first).await,
            }
        }
    }

    /// Without the second worker, the first takes its part. The broker is asked to hurt a listener's queue.
    fn are_apart(&self, one: Target, other: Target) -> bool {
        let worker = |target| matches!(target, Target::Process(0 | 1));
        let through_broker = |target| matches!(target, Target::Broker | Target::Listener);
        if one == other || one == Target::Everything || other == Target::Everything {
            return false;
        }
        let workers_apart = !(worker(one) && worker(other)) || self.crew.running() == 2;
        workers_apart && !(through_broker(one) && through_broker(other))
    }

    /// Waits so long, or until asked to stop.
    pub async fn hold(&self, duration: Duration) {
        tokio::select! {
            () = sleep(duration) => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn play(&self, plan: Plan) {
        match plan.target {
            Target::Broker => self.play_on_broker(plan).await,
            Target::Trackfinity => self.play_on_trackfinity(plan).await,
            Target::Listener => self.play_on_listener(plan).await,
            Target::Requests => self.publish_bad_ids(plan).await,
            Target::Collector => self.play_on_collector(plan).await,
            Target::Everything => self.restart_everything(plan).await,
            Target::Process(_) if plan.kind == Kind::JoinOrLeave => self.join_or_leave().await,
            Target::Process(n) => {
                // The second worker comes and goes; the first takes its part meanwhile.
                let places = if n < 2 { [n, 0] } else { [n, n] };
                match places.map(|n| &self.crew.slots[n]).into_iter().find(|slot| slot.runs()) {
                    Some(slot) => self.play_on_process(plan, slot).await,
                    None => self.journal.say("it does not run; nothing is done"),
                }
            }
        }
    }

    async fn play_on_trackfinity(&self, plan: Plan) {
        let lasts = plan.lasts.as_secs_f64();
        let line = &self.install.line;
        let new = |what: &str| Fault::new(what, format!("{what} for {lasts:.1} s"));
        let began = |what: &str| self.journal.began(new(what));
        let fault = match plan.kind {
            Kind::WrongKey => {
                let fault = self.journal.began(Fault { changes_key: true, ..new("a wrong key") });
                self.crew.set_key("not-the-key");
                self.hold(plan.lasts).await;
                self.crew.set_key(crate::install::KEY);
                fault
            }
            Kind::CutTrackfinity => {
                let fault = began("the line to Trackfinity is cut");
                line.cut().await;
                self.hold(plan.lasts).await;
                line.restore().await;
                fault
            }
            Kind::HalfOpenTrackfinity => {
                let fault = began("the line to Trackfinity is half open");
                line.half_open();
                self.hold(plan.lasts).await;
                line.restore().await;
                fault
            }
            _ => {
                let fault = began("bytes to and from Trackfinity are late");
                line.delay(plan.delay());
                self.hold(plan.lasts).await;
                line.delay(Duration::ZERO);
                fault
            }
        };
        self.journal.healed(fault);
    }

    async fn play_on_collector(&self, plan: Plan) {
        let lasts = plan.lasts.as_secs_f64();
        let began = |what: &str| self.journal.began(Fault::new(what, format!("{what} for {lasts:.1} s")));
        let fault = if plan.kind == Kind::SlowCollector {
            let fault = began("a slow collector");
            self.collector.delay(COLLECTOR_DELAY);
            self.hold(plan.lasts).await;
            self.collector.delay(Duration::ZERO);
            fault
        } else {
            let fault = began("a hung collector");
            self.collector.half_open();
            self.hold(plan.lasts).await;
            self.collector.restore().await;
            fault
        };
        self.journal.healed(fault);
    }
}
