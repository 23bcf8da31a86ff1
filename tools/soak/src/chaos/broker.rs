//! What is done to RabbitMQ.

use super::*;
use crate::isolation::insist;
use crate::journal::Postponed;
use crate::leaders;

/// More than any disk has.
const DISK_LIMIT: &str = "1000000GB";
const DEFAULT_DISK_LIMIT: &str = "50MB";

impl Chaos<'_> {
    pub(super) async fn play_on_broker(&self, plan: Plan) {
        let (lasts, workers) = (plan.lasts.as_secs_f64(), self.crew.running());
        let node = self.broker.node(plan.node);
        let which = match self.broker.nodes().len() {
            1 => "the broker".to_owned(),
            nodes => format!("node {}", 1 + plan.node % nodes),
        };
        let began = |sort: &str, what: String| Fault::new(sort, what).cutting_off(workers);
        let late = |sort: &str, what: String| Fault::new(sort, what).postponing(Postponed::Late);
        let fault = match plan.kind {
            Kind::KillBroker => {
                let what = format!("kill -9 {which}, started again after {lasts:.1} s");
                let fault = self.journal.began(began("SIGKILL of the broker", what));
                node.kill().await;
                self.hold(plan.lasts).await;
                node.restart().await;
                fault
            }
            Kind::FreezeBroker => {
                let what = format!("{which} freezes for {lasts:.1} s");
                let fault = late("the broker freezes", what).cutting_off(workers);
                let fault = self.journal.began(fault);
                node.freeze().await;
                self.hold(plan.lasts).await;
                node.thaw().await;
                fault
            }
            Kind::MemoryAlarm => {
                let fault =
                    self.journal.began(late("a memory alarm", format!("a memory alarm for {lasts:.1} s")));
                node.memory_alarm(true).await;
                self.hold(plan.lasts).await;
                node.memory_alarm(false).await;
                fault
            }
            Kind::DiskAlarm => {
                let fault =
                    self.journal.began(late("a disk alarm", format!("a disk alarm for {lasts:.1} s")));
                let limit = async |limit: &str| {
                    insist(self.journal, async || {
                        node.rabbitmqctl(&["set_disk_free_limit", limit]).await.map(drop)
                    })
                    .await;
                };
                limit(DISK_LIMIT).await;
                self.hold(plan.lasts).await;
                limit(DEFAULT_DISK_LIMIT).await;
                fault
            }
            Kind::MoveLeaders => {
                let what = "the leaders of queues and stream move";
                let fault = self.journal.began(late(what, what.into()));
                leaders::move_all(self.broker, plan.node, self.journal).await;
                fault
            }
            Kind::DeliveryLimit => self.limit_deliveries(plan).await,
            Kind::ShortRetries | Kind::BacklogLimit | Kind::Retention => self.change_policies(plan).await,
            _ => {
                let what = "the broker closes all connections";
                let fault = self.journal.began(began(what, what.into()));
                for node in self.broker.nodes() {
                    node.close_all_connections().await;
                }
                fault
            }
        };
        self.journal.healed(fault);
    }
}
