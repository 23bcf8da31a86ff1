//! Faults that are somebody's own: a listener's, a sender's, an operator's. They must hold up nobody else.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::chaos::Chaos;
use crate::crew;
use crate::journal::{Fault, Journal, Postponed};
use crate::plan::{Kind, Plan};

/// Where a policy limits deliveries: requests are given up sooner, and dead letters thrown out of their queue.
const LIMITED: &str = r"^trackfinity\.unlock\.(requests|dead)$";
const LIMIT: &str = r#"{"delivery-limit":3}"#;
const POLICY: &str = "soak-limit";
/// Policies that an operator may set under way: which queues, what, and what it means.
const SHORT_RETRIES: [&str; 3] =
    [r"^trackfinity\.unlock\.retry\.", r#"{"message-ttl":300}"#, "a policy shortens the retry queues' times"];
const BACKLOG_LIMIT: [&str; 3] =
    [r"^trackfinity\.unlock\.requests$", r#"{"max-length":20}"#, "a policy limits the backlog of requests"];
const RETENTION: [&str; 3] = [
    r"^trackfinity\.unlock\.history$",
    r#"{"max-age":"30D"}"#,
    "a policy changes how long outcomes are kept",
];
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
            let sort = "a listener's queue is full";
            let fault = Fault::new(sort, format!("{sort} for {lasts:.1} s")).postponing(Postponed::Refused);
            let fault = self.journal.began(fault);
            self.audience.fill().await;
            self.hold(plan.lasts).await;
            self.audience.make_room();
            fault
        } else {
            let sort = "a listener's queue does not answer";
            let fault = Fault::new(sort, format!("{sort} for {lasts:.1} s")).postponing(Postponed::Late);
            let fault = self.journal.began(fault);
            insist(self.journal, async || self.audience.suspend(self.broker, true).await).await;
            self.hold(plan.lasts).await;
            insist(self.journal, async || self.audience.suspend(self.broker, false).await).await;
            fault
        };
        self.journal.healed(fault);
    }

    /// Each ends the sessions of the workers it is delivered to.
    pub async fn publish_bad_ids(&self, plan: Plan) {
        let count = 1 + plan.lasts.as_millis() % MAX_BAD_IDS;
        let sort = "a sender's ids cannot be read";
        let fault = Fault::new(sort, format!("{sort}, {count} messages")).cutting_off(self.crew.running());
        let fault = self.journal.began(fault);
        for _ in 0..count {
            self.bad_ids.publish().await;
        }
        self.journal.healed(fault);
    }

    /// A policy of the broker's limits deliveries, and an operator looks at dead letters, which are deliveries.
    pub async fn limit_deliveries(&self, plan: Plan) -> usize {
        let lasts = plan.lasts.as_secs_f64();
        let sort = "a policy limits deliveries";
        let fault = Fault { limits_deliveries: true, ..Fault::new(sort, format!("{sort} for {lasts:.1} s")) };
        let fault = self.journal.began(fault);
        self.set_policy(LIMITED, LIMIT).await;
        let until = Instant::now() + plan.lasts;
        let mut browses = 0;
        while Instant::now() < until && !self.stop.is_cancelled() {
            self.browse().await;
            browses += 1;
            self.hold(Duration::from_millis(200)).await;
        }
        self.clear_policy().await;
        self.journal.say(&format!("  the policy is gone after {browses} browses of dead letters"));
        fault
    }

    /// An operator changes a policy, and takes it back.
    pub async fn change_policies(&self, plan: Plan) -> usize {
        let [queues, policy, what] = match plan.kind {
            Kind::ShortRetries => SHORT_RETRIES,
            Kind::BacklogLimit => BACKLOG_LIMIT,
            _ => RETENTION,
        };
        let lasts = plan.lasts.as_secs_f64();
        let fault = self.journal.began(Fault::new(what, format!("{what} for {lasts:.1} s")));
        self.set_policy(queues, policy).await;
        self.hold(plan.lasts).await;
        self.clear_policy().await;
        fault
    }

    async fn set_policy(&self, queues: &str, policy: &str) {
        let set = ["set_policy", "--apply-to", "queues", POLICY, queues, policy];
        insist(self.journal, async || self.broker.node(0).rabbitmqctl(&set).await.map(drop)).await;
    }

    async fn clear_policy(&self) {
        let clear = ["clear_policy", POLICY];
        insist(self.journal, async || self.broker.node(0).rabbitmqctl(&clear).await.map(drop)).await;
    }

    async fn browse(&self) {
        let summary = crew::dead_letters(&self.broker.urls().join(","), "summary").start();
        let status = summary.wait_exit(BROWSE_TIMEOUT).await;
        // 1: some were not seen, as when RabbitMQ moved them meanwhile; it says so.
        if !matches!(status.code(), Some(0 | 1)) {
            let said = summary.stderr().join(" ");
            self.journal.complain(format!("dead letters could not be browsed: {status}: {said}"));
        }
    }
}

/// Until it is done, or was tried too often.
pub async fn insist(journal: &Journal, call: impl AsyncFn() -> Result<(), String>) {
    for tries in 1.. {
        match call().await {
            Ok(()) => return,
            Err(error) if tries == TRIES => return journal.complain(error),
            Err(_) => sleep(BETWEEN_TRIES).await,
        }
    }
}
