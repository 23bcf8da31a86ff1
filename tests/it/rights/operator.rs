//! The rights of an operator on call: they suffice for all that is done with dead letters, and each of
//! them is needed for some of it, which says so where it is missing.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use kit::{Amqp, Program};
use serde_json::Value;

use super::*;

/// What the operator's rights are for: where each stands among configure, write and read, and what
/// it names.
const RIGHTS: [(usize, &str); 14] = [
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

/// Makes dead letters: a worker with rights of its own, and a Trackfinity that can be mended.
struct Letters<'a> {
    amqp: Amqp,
    mended: Arc<AtomicBool>,
    worker: User<'a>,
    _running: (Trackfinity, Process),
}

impl<'a> Letters<'a> {
    async fn of_a_worker(ctx: &'a Context) -> Self {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let worker = User::create(ctx, "worker").await;
        worker.grant(&granted("worker")).await;
        let mended = Arc::new(AtomicBool::new(false));
        let is_mended = Arc::clone(&mended);
        let trackfinity = Trackfinity::start(move |_| match is_mended.load(Ordering::SeqCst) {
            true => Answer::unlocked(),
            false => Answer::status(400),
        });
        let process = start_worker(ctx, &worker.url(), &trackfinity.url(), &[DECLARE_NOT]).await;
        Self { amqp: ctx.amqp().await, mended, worker, _running: (trackfinity, process) }
    }

    /// Lets requests be refused, and mends what refused them.
    async fn bury(&self, ids: [&str; 2]) {
        self.mended.store(false, Ordering::SeqCst);
        let refused = self.amqp.consume_into(RESULTS, "unlock.refused").await;
        for request in ids {
            self.amqp.publish(EXCHANGE, REQUEST, id(request), br#"{"customer_id":191}"#).await;
        }
        refused.wait_count(2, SOON).await;
        self.mended.store(true, Ordering::SeqCst);
    }

    async fn end(self) {
        self.worker.delete().await;
    }
}

/// Somebody at a command line.
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

    /// What a command printed, as JSON, or else all that it said of its failure.
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

    /// Does all that can be done with letters, to their ends.
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

    /// Meets somebody who holds the letters, and is told who it is.
    async fn meet(&self, holder: &str) -> Result<(), String> {
        let said = self.run(&["summary", "--json"]).await.expect_err("not all can be seen");
        if said.contains(&format!("saw 0 of 1; {holder} by command line (replay, since")) {
            Ok(())
        } else {
            Err(said)
        }
    }
}

/// Holds the letters, of which there have to be two, for as long as it runs.
async fn hold(letters: &Letters<'_>, holder: &Operator<'_>) -> Process {
    let unlocked = letters.amqp.consume_into(RESULTS, "unlock.unlocked").await;
    let plan = holder.plan(&["replay"]).await.expect("a plan");
    let replay = holder.start(&["replay", "--confirm", &plan, "--rate", "1/h"]);
    unlocked.next(SOON).await;
    replay
}

/// Without whatever matches `left_out`.
fn without(rights: &[String; 3], at: usize, left_out: &str) -> [String; 3] {
    let mut less = rights.clone();
    less[at] = less[at].replacen('^', &format!("^(?!{left_out}$)"), 1);
    less
}

#[test]
fn an_operator_needs_no_more_than_is_documented() {
    kit::run(async |ctx| {
        let letters = Letters::of_a_worker(&ctx).await;
        let user = User::create(&ctx, "operator").await;
        user.grant(&granted("operator")).await;
        let operator = Operator { ctx: &ctx, name: "tester", url: user.url() };
        let ids = ["discarded", "replayed"];
        letters.bury(ids).await;
        operator.work(ids).await.unwrap_or_else(|said| panic!("{said}"));

        letters.bury(["held", "held-too"]).await;
        let alice = Operator { ctx: &ctx, name: "alice", url: user.url() };
        let holding = hold(&letters, &alice).await;
        operator.meet("alice").await.unwrap_or_else(|said| panic!("{said}"));
        holding.signal(kit::Signal::INT);
        holding.wait_exit(SOON).await;
        user.delete().await;
        letters.end().await;
    });
}

#[test]
fn an_operator_who_lacks_a_right_is_told_which() {
    kit::run_within(Duration::from_secs(240), async |ctx| {
        let letters = Letters::of_a_worker(&ctx).await;
        let user = User::create(&ctx, "less").await;
        let operator = Operator { ctx: &ctx, name: "tester", url: user.url() };
        let full = granted("operator");
        let (to_ask, to_work): (Vec<_>, Vec<_>) =
            RIGHTS.into_iter().partition(|(_, names)| names.ends_with(r"lock\..+"));

        for (n, (at, names)) in to_work.into_iter().enumerate() {
            let ids = [format!("discarded-{n}"), format!("replayed-{n}")];
            let ids = ids.each_ref().map(String::as_str);
            letters.bury(ids).await;
            user.grant(&without(&full, at, names)).await;
            names_it(operator.work(ids).await, at, names);
        }

        letters.bury(["held", "held-too"]).await;
        let alice = Operator { ctx: &ctx, name: "alice", url: ctx.amqp_url().to_owned() };
        let holding = hold(&letters, &alice).await;
        for (at, names) in to_ask {
            user.grant(&without(&full, at, names)).await;
            names_it(operator.meet("alice").await, at, names);
        }
        holding.signal(kit::Signal::INT);
        holding.wait_exit(SOON).await;
        user.delete().await;
        letters.end().await;
    });
}

/// The rights of both.
fn joined(one: &[String; 3], other: &[String; 3]) -> [String; 3] {
    let names = |rights: &str| rights.trim_start_matches('^').trim_end_matches('$').to_owned();
    [0, 1, 2].map(|at| format!("^({}|{})$", names(&one[at]), names(&other[at])))
}

#[test]
fn with_the_page_the_operators_rights_are_checked_too() {
    kit::run_within(Duration::from_secs(120), async |ctx| {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let user = User::create(&ctx, "page").await;
        let check = async |rights: &[String; 3]| {
            user.grant(rights).await;
            let program = unlocker(&user.url(), &trackfinity.url()).arg("check");
            let program = program.env("UNLOCKER__BROKER__DECLARE", "false");
            let check = ctx.start(&program.env("UNLOCKER__ADMIN__LISTEN", "127.0.0.1:8080"));
            check.wait_exit(SOON).await;
            check
        };
        let both = joined(&granted("worker"), &granted("operator"));
        let full = check(&both).await;
        assert!(failures(&full).is_empty(), "{:#?}", full.stdout());
        for (at, names) in RIGHTS {
            let less = check(&without(&both, at, names)).await;
            let name = names.replace(".+", "unlocker-check").replace('\\', "");
            names_alone(&less, ["configure", "write", "read"][at], &name);
        }
        user.delete().await;
    });
}

fn names_it(worked: Result<(), String>, at: usize, names: &str) {
    let permission = ["configure", "write", "read"][at];
    let said = worked.expect_err(&format!("{permission} on {names} is superfluous"));
    let name = match names.strip_suffix(".+") {
        Some(start) => format!("'{}", start.replace('\\', "")),
        None => format!("'{}'", names.replace('\\', "")),
    };
    assert!(
        said.contains("refused for user") && said.contains(&name),
        "without {permission} {names}: {said}"
    );
}
