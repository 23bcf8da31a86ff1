//! The permissions of an operator: they are sufficient for all work on dead letters, and each is needed.
//! A command that lacks one names it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use kit::{Amqp, Program};
use serde_json::Value;

use super::*;

/// The operator's permissions: 0 configure, 1 write, 2 read, and the name.
pub(super) const RIGHTS: [(usize, &str); 14] = [
    (0, r"trackfinity\.unlock\.dead\.lock"),
    (0, r"trackfinity\.unlock\.dead\.lock\..+"),
    (0, r"trackfinity\.unlock\.dead\.plans"),
    (0, r"trackfinity\.unlock\.dead\.replays\..+"),
    (1, r"trackfinity\.unlock"),
    (1, r"trackfinity\.unlock\.results"),
    (1, r"trackfinity\.unlock\.dead\.replays\..+"),
    (1, r"amq\.default"),
    (2, r"trackfinity\.unlock\.results"),
    (2, r"trackfinity\.unlock\.dead"),
    (2, r"trackfinity\.unlock\.dead\.lock"),
    (2, r"trackfinity\.unlock\.dead\.lock\..+"),
    (2, r"trackfinity\.unlock\.dead\.plans"),
    (2, r"trackfinity\.unlock\.dead\.replays\..+"),
];

/// What the console alone needs.
const CONSOLE_RIGHTS: [(usize, &str); 5] = [
    (0, r"trackfinity\.unlock\.console"),
    (2, r"trackfinity\.unlock\.console"),
    (2, r"trackfinity\.unlock\.requests"),
    (2, r"trackfinity\.unlock\.undeliverable"),
    (2, r"trackfinity\.unlock\.retry\.8s"),
];

/// Makes dead letters: a worker with its own permissions, and a Trackfinity that refuses or accepts.
struct DeadLetterMaker<'a> {
    amqp: Amqp,
    accepts: Arc<AtomicBool>,
    worker: User<'a>,
    _running: (Trackfinity, Process),
}

impl<'a> DeadLetterMaker<'a> {
    async fn start(ctx: &'a Context) -> Self {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let worker = User::create(ctx, "worker").await;
        worker.grant(&granted("worker")).await;
        let accepts = Arc::new(AtomicBool::new(false));
        let is_accepting = Arc::clone(&accepts);
        let trackfinity = Trackfinity::start(move |_| match is_accepting.load(Ordering::SeqCst) {
            true => Answer::unlocked(),
            false => Answer::status(400),
        });
        let process = start_worker(ctx, &worker.url(), &trackfinity.url(), &[DECLARE_NOT]).await;
        Self { amqp: ctx.amqp().await, accepts, worker, _running: (trackfinity, process) }
    }

    /// Dead-letters requests. After that Trackfinity accepts them.
    async fn dead_letter(&self, ids: [&str; 2]) {
        self.accepts.store(false, Ordering::SeqCst);
        let refused = self.amqp.consume_into(RESULTS, "unlock.refused").await;
        for request in ids {
            self.amqp.publish(EXCHANGE, REQUEST, id(request), br#"{"customer_id":191}"#).await;
        }
        refused.wait_count(2, SOON).await;
        self.accepts.store(true, Ordering::SeqCst);
    }

    async fn end(self) {
        self.worker.delete().await;
    }
}

/// A person who uses the command line.
struct Operator<'a> {
    ctx: &'a Context,
    name: &'static str,
    url: String,
}

impl Operator<'_> {
    fn start(&self, args: &[&str]) -> Process {
        let program = Program::new(env!("CARGO_BIN_EXE_unlocker")).env("UNLOCKER__BROKER__URL", &self.url);
        self.ctx.start(&program.arg("dead-letters").args(args).args(["--actor", self.name]))
    }

    /// The JSON that a command printed, or else all its output.
    async fn run(&self, args: &[&str]) -> Result<Vec<Value>, String> {
        let process = self.start(args);
        match process.wait_exit(SOON * 2).await.success() {
            true => {
                Ok(process.stdout().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect())
            }
            false => {
                Err(format!("{args:?}\n{}\n{}", process.stdout().join("\n"), process.stderr().join("\n")))
            }
        }
    }

    /// Plans, and returns the plan's digest.
    async fn plan(&self, args: &[&str]) -> Result<String, String> {
        Ok(text(&self.run(&[args, &["--json"]].concat()).await?[0]["digest"]))
    }

    /// Does everything that can be done with dead letters.
    async fn work(&self, [first, second]: [&str; 2]) -> Result<(), String> {
        let both = format!("{first},{second}");
        let summary = self.run(&["summary", "--id", &both, "--json"]).await?;
        assert_eq!(summary[0]["count"], 2);
        assert_eq!(self.run(&["list", "--id", &both, "--json"]).await?.len(), 2);
        assert_eq!(self.run(&["export", "--id", &both]).await?.len(), 2);
        let shown = self.run(&["show", first, "--json"]).await?;
        assert_eq!((shown.len(), &shown[0]["dead_letter"]["request_id"]), (1, &Value::from(first)));
        let plan = self.plan(&["discard", "--id", first, "--note", "the customer is gone"]).await?;
        let discarded = self.run(&["discard", "--confirm", &plan, "--json"]).await?;
        assert_eq!(discarded[0]["result"], "discarded");
        let plan = self.plan(&["replay", "--id", second]).await?;
        let replayed = self.run(&["replay", "--confirm", &plan, "--json"]).await?;
        assert_eq!(replayed[0]["result"], "unlocked");
        assert!(self.run(&["list", "--id", &both, "--json"]).await?.is_empty());
        Ok(())
    }

    /// Expects that another operator has locked the dead letters, and that the command names this operator.
    async fn expect_locked_by(&self, owner: &str) -> Result<(), String> {
        let output = self.run(&["summary", "--json"]).await.expect_err("not all can be seen");
        if output.contains(&format!("saw 0 of 1; {owner} by command line (replay, since")) {
            Ok(())
        } else {
            Err(output)
        }
    }
}

/// Starts a slow replay, which locks the dead letters while it runs. There must be two dead letters.
async fn start_replay(maker: &DeadLetterMaker<'_>, owner: &Operator<'_>) -> Process {
    let unlocked = maker.amqp.consume_into(RESULTS, "unlock.unlocked").await;
    let plan = owner.plan(&["replay"]).await.expect("a plan");
    let replay = owner.start(&["replay", "--confirm", &plan, "--rate", "1/h"]);
    unlocked.next(SOON).await;
    replay
}

/// The permissions without those for `left_out`.
pub fn without(rights: &[String; 3], at: usize, left_out: &str) -> [String; 3] {
    let mut less = rights.clone();
    less[at] = less[at].replacen('^', &format!("^(?!{left_out}$)"), 1);
    less
}

#[test]
fn an_operator_needs_no_more_than_is_documented() {
    kit::run(async |ctx| {
        let maker = DeadLetterMaker::start(&ctx).await;
        let user = User::create(&ctx, "operator").await;
        user.grant(&granted("operator")).await;
        let operator = Operator { ctx: &ctx, name: "tester", url: user.url() };
        let ids = ["discarded", "replayed"];
        maker.dead_letter(ids).await;
        operator.work(ids).await.unwrap_or_else(|output| panic!("{output}"));

        maker.dead_letter(["replayed-1h", "waiting"]).await;
        let alice = Operator { ctx: &ctx, name: "alice", url: user.url() };
        let replay = start_replay(&maker, &alice).await;
        operator.expect_locked_by("alice").await.unwrap_or_else(|output| panic!("{output}"));
        replay.signal(kit::Signal::INT);
        replay.wait_exit(SOON).await;
        user.delete().await;
        maker.end().await;
    });
}

#[test]
fn an_operator_who_lacks_a_right_sees_which() {
    kit::run_within(Duration::from_secs(240), async |ctx| {
        let maker = DeadLetterMaker::start(&ctx).await;
        let user = User::create(&ctx, "less").await;
        let operator = Operator { ctx: &ctx, name: "tester", url: user.url() };
        let full = granted("operator");
        let (to_ask, to_work): (Vec<_>, Vec<_>) =
            RIGHTS.into_iter().partition(|(_, names)| names.ends_with(r"lock\..+"));

        for (n, (at, names)) in to_work.into_iter().enumerate() {
            let ids = [format!("discarded-{n}"), format!("replayed-{n}")];
            let ids = ids.each_ref().map(String::as_str);
            maker.dead_letter(ids).await;
            user.grant(&without(&full, at, names)).await;
            assert_names(operator.work(ids).await, at, names);
        }

        maker.dead_letter(["replayed-1h", "waiting"]).await;
        let alice = Operator { ctx: &ctx, name: "alice", url: ctx.amqp_url().to_owned() };
        let replay = start_replay(&maker, &alice).await;
        for (at, names) in to_ask {
            user.grant(&without(&full, at, names)).await;
            assert_names(operator.expect_locked_by("alice").await, at, names);
        }
        replay.signal(kit::Signal::INT);
        replay.wait_exit(SOON).await;
        user.delete().await;
        maker.end().await;
    });
}

#[test]
fn check_names_each_right_that_an_operator_lacks() {
    kit::run_within(Duration::from_secs(120), async |ctx| {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let user = User::create(&ctx, "less").await;
        let check = async |rights: &[String; 3]| {
            user.grant(rights).await;
            let check = ctx.start(&bare(&user.url(), &["check", "--role", "console"]));
            check.wait_exit(SOON).await;
            check
        };
        let full = granted("operator");
        let checked = check(&full).await;
        assert!(failures(&checked).is_empty(), "{:#?}", checked.stdout());
        for (at, names) in RIGHTS.into_iter().chain(CONSOLE_RIGHTS) {
            let less = check(&without(&full, at, names)).await;
            let name = names.replace(".+", "unlocker-check").replace('\\', "");
            names_alone(&less, ["configure", "write", "read"][at], &name);
        }
        user.delete().await;
    });
}

pub fn assert_names(worked: Result<(), String>, at: usize, names: &str) {
    let permission = ["configure", "write", "read"][at];
    let output = worked.expect_err(&format!("{permission} on {names} is superfluous"));
    let name = match names.strip_suffix(".+") {
        Some(start) => format!("'{}", start.replace('\\', "")),
        None => format!("'{}'", names.replace('\\', "")),
    };
    assert!(
        output.contains("refused for user") && output.contains(&name),
        "without {permission} {names}: {output}"
    );
}
