//! Faults that are somebody's own: a listener's, a sender's, an operator's. They must hold up nobody else.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::chaos::Chaos;
use crate::crew;
use crate::journal::Postponed;
use crate::plan::{Kind, Plan};

/// Where a policy limits deliveries: requests are given up sooner, and dead letters thrown out of their queue.
const LIMITED: &str = r"^trackfinity\.unlock\.(requests|dead)$";
const LIMIT: &str = r#"{"delivery-limit":3}"#;
const POLICY: &str = "soak-limit";
/// How often a call to `rabbitmqctl` is tried.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
const BROWSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages that cannot be read, in one fault.
const MAX_BAD_IDS: u128 = 3;

impl Chaos<'_> {
    pub async fn play_on_listener(&self, plan: Plan) {
        let lasts = plan.lasts.as_secs_f64();
        let fault = if plan.kind == Kind::FillListener {
            let what = format!("a listener's queue is full for {lasts:.1} s");
            let fault = self.journal.began_postponing(what, 0, Some(Postponed::Refused));
            self.audience.fill().await;
            self.hold(plan.lasts).await;
            self.audience.make_room();
            fault
        } else {
            let what = format!("a listener's queue does not answer for {lasts:.1} s");
            let fault = self.journal.began_postponing(what, 0, Some(Postponed::Late));
            self.insist(async || self.audience.suspend(self.node, true).await).await;
            self.hold(plan.lasts).await;
            self.insist(async || self.audience.suspend(self.node, false).await).await;
            fault
        };
        self.journal.healed(fault);
    }

    /// Each ends the sessions of the workers it is delivered to.
    pub async fn publish_bad_ids(&self, plan: Plan) {
        let count = 1 + plan.lasts.as_millis() % MAX_BAD_IDS;
        let what = format!("a sender's ids cannot be read, {count} messages");
        let fault = self.journal.began(what, self.crew.running());
        for _ in 0..count {
            self.bad_ids.publish().await;
        }
        self.journal.healed(fault);
    }

    /// A policy of the broker's limits deliveries, and an operator looks at dead letters, which are deliveries.
    pub async fn limit_deliveries(&self, plan: Plan) -> usize {
        let lasts = plan.lasts.as_secs_f64();
        let fault = self.journal.began(format!("a policy limits deliveries for {lasts:.1} s"), 0);
        let set = ["set_policy", "--apply-to", "queues", POLICY, LIMITED, LIMIT];
        self.insist(async || self.node.rabbitmqctl(&set).await.map(drop)).await;
        let until = Instant::now() + plan.lasts;
        let mut browses = 0;
        while Instant::now() < until && !self.stop.is_cancelled() {
            self.browse().await;
            browses += 1;
            self.hold(Duration::from_millis(200)).await;
        }
        self.insist(async || self.node.rabbitmqctl(&["clear_policy", POLICY]).await.map(drop)).await;
        self.journal.say(&format!("  the policy is gone after {browses} browses of dead letters"));
        fault
    }

    async fn browse(&self) {
        let summary = crew::dead_letters(&self.node.amqp_url("/"), "summary").start();
        let status = summary.wait_exit(BROWSE_TIMEOUT).await;
        // 1: some were not seen, as when RabbitMQ moved them meanwhile; it says so.
        if !matches!(status.code(), Some(0 | 1)) {
            let said = summary.stderr().join(" ");
            self.journal.complain(format!("dead letters could not be browsed: {status}: {said}"));
        }
    }

    /// Until it is done, or was tried too often.
    async fn insist(&self, call: impl AsyncFn() -> Result<(), String>) {
        for tries in 1.. {
            match call().await {
                Ok(()) => return,
                Err(error) if tries == TRIES => return self.journal.complain(error),
                Err(_) => sleep(BETWEEN_TRIES).await,
            }
        }
    }
}
