//! What is done to our own processes.

use tokio::time::Instant;

use super::*;
use crate::isolation::insist;
use crate::journal::Postponed;
use crate::slot::Slot;

/// How long a stop waits for a call to be in flight.
const MID_CALL_WITHIN: Duration = Duration::from_secs(1);

impl Chaos<'_> {
    pub(super) async fn play_on_process(&self, plan: Plan, slot: &Slot) {
        let (lasts, name, workers) = (plan.lasts.as_secs_f64(), slot.name, slot.workers());
        let fault = |sort: &str, what: String| {
            Fault::new(format!("{sort} {}", slot.role.name()), what).cutting_off(workers)
        };
        let late = |sort: &str, what: String| match workers {
            0 => fault(sort, what),
            _ => fault(sort, what).postponing(Postponed::Late),
        };
        let fault = match plan.kind {
            Kind::Kill => {
                let what = format!("kill -9 {name}, started again after {lasts:.1} s");
                let fault = self.journal.began(fault("SIGKILL of", what));
                self.crew.kill(slot);
                self.hold(plan.lasts).await;
                self.crew.start(slot);
                fault
            }
            Kind::Freeze => {
                let fault =
                    self.journal.began(late("SIGSTOP of", format!("{name} freezes for {lasts:.1} s")));
                let process = slot.process().filter(|process| process.try_exit().is_none());
                if let Some(process) = process {
                    process.stop();
                    self.hold(plan.lasts).await;
                    if process.try_exit().is_none() {
                        process.cont();
                    }
                }
                fault
            }
            Kind::Cut => {
                let what = format!("the line of {name} to the broker is cut for {lasts:.1} s");
                let fault = self.journal.began(fault("a cut line of", what));
                slot.cut().await;
                self.hold(plan.lasts).await;
                slot.restore().await;
                fault
            }
            Kind::HalfOpen | Kind::LoseToBroker | Kind::LoseFromBroker => {
                let (sort, way, to_broker, from_broker) = match plan.kind {
                    Kind::HalfOpen => ("a full partition of", "to and from", true, true),
                    Kind::LoseToBroker => ("a partition towards the broker of", "to", true, false),
                    _ => ("a partition from the broker of", "from", false, true),
                };
                let what = format!("all bytes of {name} {way} the broker are lost for {lasts:.1} s");
                let fault = self.journal.began(late(sort, what));
                slot.drop_bytes(to_broker, from_broker);
                self.hold(plan.lasts).await;
                slot.restore().await;
                fault
            }
            Kind::Delay => {
                let delay = plan.delay();
                let what = format!("bytes of {name} and the broker are {delay:.1?} late for {lasts:.1} s");
                // Nothing is lost by it: no worker is cut off.
                let fault = self.journal.began(late("late bytes of", what).cutting_off(0));
                slot.delay(delay);
                self.hold(plan.lasts).await;
                slot.delay(Duration::ZERO);
                fault
            }
            Kind::ClockJump => {
                let jump = plan.jump;
                let what = format!("the clock of {name} jumps by {jump} s for {lasts:.1} s");
                let clock_off = Duration::from_secs(jump.unsigned_abs());
                let fault = Fault { clock_off, ..fault("a jump of the clock of", what).cutting_off(0) };
                let fault = self.journal.began(fault);
                if let Some(clock) = &slot.clock {
                    clock.set(jump);
                    self.hold(plan.lasts).await;
                    clock.set(0);
                }
                fault
            }
            _ => {
                self.wait_for_a_call().await;
                let calls = self.install.in_flight();
                let what =
                    format!("SIGTERM to {name}, {calls} calls in flight, started again after {lasts:.1} s");
                let fault = self.journal.began(fault("SIGTERM of", what).cutting_off(0));
                self.crew.stop(slot).await;
                self.hold(plan.lasts).await;
                self.crew.start(slot);
                fault
            }
        };
        self.journal.healed(fault);
    }

    pub(super) async fn join_or_leave(&self) {
        let slot = &self.crew.slots[1];
        let fault = if slot.runs() {
            let fault = self.journal.began(Fault::new("a worker leaves", format!("{} leaves", slot.name)));
            self.crew.stop(slot).await;
            fault
        } else {
            let fault = self.journal.began(Fault::new("a worker joins", format!("{} joins", slot.name)));
            self.crew.start(slot);
            fault
        };
        self.journal.healed(fault);
    }

    /// First our own processes, one after the other, then the broker's nodes, as for an upgrade.
    pub(super) async fn restart_everything(&self, plan: Plan) {
        let sort = "a rolling restart of everything";
        let fault = Fault::new(sort, sort).cutting_off(self.crew.running()).postponing(Postponed::Late);
        let fault = self.journal.began(fault);
        for slot in self.crew.slots.iter().filter(|slot| slot.runs()) {
            self.crew.stop(slot).await;
            self.crew.start(slot);
            self.hold(plan.lasts).await;
        }
        for node in self.broker.nodes() {
            for command in ["stop_app", "start_app"] {
                insist(self.journal, async || node.rabbitmqctl(&[command]).await.map(drop)).await;
            }
            self.hold(plan.lasts).await;
        }
        self.journal.healed(fault);
    }

    async fn wait_for_a_call(&self) {
        let until = Instant::now() + MID_CALL_WITHIN;
        while self.install.in_flight() == 0 && Instant::now() < until {
            sleep(Duration::from_millis(1)).await;
        }
    }
}
