//! Every few seconds a fault, or two at once; which ones and how long, the seed decides.

use std::time::Duration;

use fastrand::Rng;
use kit::RabbitNode;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::audience::Audience;
use crate::bad_ids::BadIds;
use crate::crew::{Crew, Slot};
use crate::install::Install;
use crate::journal::{Journal, Postponed};
use crate::plan::{Kind, Plan, Target};

/// The share of faults that come with a second one, somewhere else.
const TWO_AT_ONCE: f64 = 0.25;
/// How long a stop waits for a call to be in flight.
const MID_CALL_WITHIN: Duration = Duration::from_secs(1);

pub struct Chaos<'a> {
    pub node: &'a RabbitNode,
    pub install: &'a Install,
    pub crew: &'a Crew,
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
        let workers = matches!((one, other), (Target::Worker(_), Target::Worker(_)));
        let through_broker = |target| matches!(target, Target::Broker | Target::Listener);
        let broker = through_broker(one) && through_broker(other);
        one != other && !broker && (!workers || self.crew.running() == self.crew.slots.len())
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
            Target::Worker(_) if plan.kind == Kind::JoinOrLeave => self.join_or_leave().await,
            Target::Worker(n) => {
                // The second worker comes and goes; the first takes its part meanwhile.
                let slot = [n, 0].map(|n| &self.crew.slots[n]).into_iter().find(|slot| slot.runs());
                match slot {
                    Some(slot) => self.play_on_worker(plan, slot).await,
                    None => self.journal.say("no worker runs; nothing is done"),
                }
            }
        }
    }

    async fn play_on_broker(&self, plan: Plan) {
        let (lasts, workers) = (plan.lasts.as_secs_f64(), self.crew.running());
        let began = |what: &str, cut_off| self.journal.began(what.to_owned(), cut_off);
        let fault = match plan.kind {
            Kind::KillBroker => {
                let fault = began(&format!("kill -9 the broker, started again after {lasts:.1} s"), workers);
                self.node.kill().await;
                self.hold(plan.lasts).await;
                self.node.restart().await;
                fault
            }
            Kind::FreezeBroker => {
                let what = format!("the broker freezes for {lasts:.1} s");
                let fault = self.journal.began_postponing(what, workers, Some(Postponed::Late));
                self.node.freeze().await;
                self.hold(plan.lasts).await;
                self.node.thaw().await;
                fault
            }
            Kind::MemoryAlarm => {
                let what = format!("a memory alarm for {lasts:.1} s");
                let fault = self.journal.began_postponing(what, 0, Some(Postponed::Late));
                self.node.memory_alarm(true).await;
                self.hold(plan.lasts).await;
                self.node.memory_alarm(false).await;
                fault
            }
            Kind::DeliveryLimit => self.limit_deliveries(plan).await,
            _ => {
                let fault = began("the broker closes all connections", workers);
                self.node.close_all_connections().await;
                fault
            }
        };
        self.journal.healed(fault);
    }

    async fn play_on_trackfinity(&self, plan: Plan) {
        let lasts = plan.lasts.as_secs_f64();
        let began = |what: &str| self.journal.began(format!("{what} for {lasts:.1} s"), 0);
        let line = &self.install.line;
        let fault = match plan.kind {
            Kind::WrongKey => {
                let fault = began("a wrong key");
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
            _ => {
                let fault = began("the line to Trackfinity is half open");
                line.half_open();
                self.hold(plan.lasts).await;
                line.restore().await;
                fault
            }
        };
        self.journal.healed(fault);
    }

    async fn play_on_worker(&self, plan: Plan, slot: &Slot) {
        let (lasts, name) = (plan.lasts.as_secs_f64(), slot.name);
        let fault = match plan.kind {
            Kind::KillWorker => {
                let what = format!("kill -9 worker {name}, started again after {lasts:.1} s");
                let fault = self.journal.began(what, 1);
                self.crew.kill(slot).await;
                self.hold(plan.lasts).await;
                self.crew.start(slot);
                fault
            }
            Kind::FreezeWorker => {
                let what = format!("worker {name} freezes for {lasts:.1} s");
                let fault = self.journal.began_postponing(what, 1, Some(Postponed::Late));
                let worker = slot.process().filter(|worker| worker.try_exit().is_none());
                if let Some(worker) = worker {
                    worker.stop();
                    self.hold(plan.lasts).await;
                    if worker.try_exit().is_none() {
                        worker.cont();
                    }
                }
                fault
            }
            Kind::CutWorker => {
                let what = format!("the line of worker {name} to the broker is cut for {lasts:.1} s");
                let fault = self.journal.began(what, 1);
                slot.line.cut().await;
                self.hold(plan.lasts).await;
                slot.line.restore().await;
                fault
            }
            Kind::HalfOpenWorker => {
                let what = format!("the line of worker {name} to the broker is half open for {lasts:.1} s");
                let fault = self.journal.began_postponing(what, 1, Some(Postponed::Late));
                slot.line.half_open();
                self.hold(plan.lasts).await;
                slot.line.restore().await;
                fault
            }
            _ => {
                self.wait_for_a_call().await;
                let calls = self.install.in_flight();
                let what = format!(
                    "SIGTERM to worker {name}, {calls} calls in flight, started again after {lasts:.1} s"
                );
                let fault = self.journal.began(what, 0);
                self.crew.stop(slot).await;
                self.hold(plan.lasts).await;
                self.crew.start(slot);
                fault
            }
        };
        self.journal.healed(fault);
    }

    async fn join_or_leave(&self) {
        let slot = &self.crew.slots[1];
        let fault = if slot.runs() {
            let fault = self.journal.began(format!("worker {} leaves", slot.name), 0);
            self.crew.stop(slot).await;
            fault
        } else {
            let fault = self.journal.began(format!("worker {} joins", slot.name), 0);
            self.crew.start(slot);
            fault
        };
        self.journal.healed(fault);
    }

    async fn wait_for_a_call(&self) {
        let until = Instant::now() + MID_CALL_WITHIN;
        while self.install.in_flight() == 0 && Instant::now() < until {
            sleep(Duration::from_millis(1)).await;
        }
    }
}
