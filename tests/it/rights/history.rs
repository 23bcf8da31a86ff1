//! The permissions that the history needs: each role reads the stream, and nothing else is added.

use std::{fs, path::Path};

use super::*;
use crate::{
    console::http::Request,
    gateway::world::{Gateway, json},
    manifests::apply_topology_with_history,
};

const ON: (&str, &str) = ("HISTORY__ENABLED", "true");
const STREAM: &str = "trackfinity.unlock.history";

/// Of a user that only searches.
pub fn granted_to_search() -> [String; 3] {
    granted_in("topology-operator-history/users.yaml", "history")
}

/// As deploy/topology-operator-history replaces them.
pub fn granted_with_history(role: &str) -> [String; 3] {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/topology-operator-history/kustomization.yaml");
    let patches = fs::read_to_string(path).expect("the patches");
    let (_, patch) = patches.split_once(&format!("name: trackfinity-unlock-{role}\n")).expect("a patch");
    let (_, patch) = patch.split_once("path: /spec/permissions/read\n").expect("of the right to read");
    let (_, value) = patch.split_once("value: ").expect("a value");
    let read = value.lines().next().expect("a line").to_owned();
    let [configure, write, _] = granted(role);
    [configure, write, read]
}

async fn checked(ctx: &Context, url: &str, role: &str, is_on: bool) -> Process {
    let program = bare(url, &["check", "--role", role]).env("UNLOCKER__HISTORY__ENABLED", is_on.to_string());
    let check = ctx.start(&program);
    check.wait_exit(SOON).await;
    check
}

fn shows(check: &Process, start: &str, part: &str) {
    let found = check.stdout().into_iter().any(|line| line.starts_with(start) && line.contains(part));
    assert!(found, "no {start} … {part}: {:#?}", check.stdout());
}

#[test]
fn with_the_history_each_role_needs_no_more_than_is_documented() {
    kit::run_within(Duration::from_secs(120), async |ctx| {
        apply_topology_with_history(ctx.vhost().management(), ctx.vhost().name()).await;
        let (worker, gateway) = (User::create(&ctx, "worker").await, User::create(&ctx, "gateway").await);
        let (operator, support) = (User::create(&ctx, "operator").await, User::create(&ctx, "support").await);
        worker.grant(&granted_with_history("worker")).await;
        gateway.grant(&granted_with_history("gateway")).await;
        operator.grant(&granted_with_history("operator")).await;
        support.grant(&granted_to_search()).await;
        work(&ctx, &worker.url(), &[DECLARE_NOT, ON]).await;

        // The outcomes of these requests are in the stream.
        let search = ctx.start(&bare(&support.url(), &["history", "--customer-id", "refused", "--json"]));
        assert!(search.wait_exit(SOON).await.success(), "{:#?}", search.stderr());
        let found: Vec<serde_json::Value> =
            search.stdout().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0]["status"], "refused");
        let nothing = ctx.start(&bare(&support.url(), &["history", "--customer-id", "nobody"]));
        assert!(nothing.wait_exit(SOON).await.success(), "{:#?}", nothing.stderr());
        assert!(
            nothing.stderr().iter().any(|line| line.starts_with("nothing since")),
            "{:#?}",
            nothing.stderr()
        );

        let front = Gateway::start(&ctx, &gateway.url(), &[ON]).await;
        let taken = front.post(json(r#"{"customer_id":"191"}"#)).await;
        assert_eq!(taken.status, 202);
        let poll = front.post(Request::new("GET", &taken.headers["location"])).await;
        assert_eq!(poll.status, 200);
        assert!(poll.body.contains("pending"), "{poll:?}");

        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let program = unlocker(&worker.url(), &trackfinity.url()).arg("check");
        let program = program.env("UNLOCKER__BROKER__DECLARE", "false");
        let check = ctx.start(&program.env("UNLOCKER__HISTORY__ENABLED", "true"));
        check.wait_exit(SOON).await;
        assert!(failures(&check).is_empty(), "{:#?}", check.stdout());
        shows(&check, "ok    queue trackfinity.unlock.history", "exists");
        for (user, role) in [(&gateway, "gateway"), (&operator, "console")] {
            let check = checked(&ctx, &user.url(), role, true).await;
            assert!(failures(&check).is_empty(), "{:#?}", check.stdout());
        }
        for user in [worker, gateway, operator, support] {
            user.delete().await;
        }
    });
}

#[test]
fn whoever_may_not_read_the_history_is_told_the_right_that_is_missing() {
    kit::run(async |ctx| {
        apply_topology_with_history(ctx.vhost().management(), ctx.vhost().name()).await;
        let user = User::create(&ctx, "less").await;
        for (granted_as, role) in [("gateway", "gateway"), ("operator", "console")] {
            user.grant(&granted(granted_as)).await;
            let check = checked(&ctx, &user.url(), role, true).await;
            names_alone(&check, "read on queue", STREAM);
            let off = checked(&ctx, &user.url(), role, false).await;
            assert!(failures(&off).is_empty(), "{:#?}", off.stdout());
        }
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        user.grant(&granted("worker")).await;
        let program = unlocker(&user.url(), &trackfinity.url()).arg("check");
        let program = program.env("UNLOCKER__BROKER__DECLARE", "false");
        let check = ctx.start(&program.env("UNLOCKER__HISTORY__ENABLED", "true"));
        check.wait_exit(SOON).await;
        names_alone(&check, "read on queue", STREAM);
        let search = ctx.start(&bare(&user.url(), &["history"]));
        assert_eq!(search.wait_exit(SOON).await.code(), Some(1));
        let said = search.stderr().join("\n");
        assert!(said.contains(&format!("refuses to read stream {STREAM}")), "{said}");
        user.delete().await;
    });
}

#[test]
fn check_says_what_it_sees_of_the_history() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let check = async |settings: &[(&str, &str)]| {
            let mut program = unlocker(ctx.amqp_url(), &trackfinity.url()).arg("check");
            for (name, value) in settings {
                program = program.env(format!("UNLOCKER__{name}"), value);
            }
            let check = ctx.start(&program);
            check.wait_exit(SOON).await;
            assert!(failures(&check).is_empty(), "{:#?}", check.stdout());
            check
        };
        let queue = "queue trackfinity.unlock.history: ";
        shows(&check(&[ON]).await, "ok", &format!("{queue}does not exist yet; `unlocker run` declares it"));
        assert!(check(&[]).await.stdout().iter().all(|line| !line.contains("history: ")), "it is off");
        apply_topology_with_history(ctx.vhost().management(), ctx.vhost().name()).await;
        shows(&check(&[ON]).await, "ok", &format!("{queue}exists as it should be"));
        let off = check(&[]).await;
        shows(&off, "note", &format!("{queue}exists, and keeps outcomes, although history.enabled is false"));
        let differs = check(&[ON, ("HISTORY__MAX_AGE", "30d")]).await;
        shows(&differs, "note", &format!("{queue}exists, and was declared with another retention"));

        // The others need the stream that they read.
        let empty = ctx.node().vhost().await;
        apply_topology(empty.management(), empty.name()).await;
        for role in ["gateway", "console"] {
            let check = checked(&ctx, empty.amqp_url(), role, true).await;
            let missing = failures(&check);
            assert_eq!(missing.len(), 1, "{missing:#?}");
            assert!(missing[0].contains("does not exist, so no outcome is kept"), "{missing:#?}");
            assert!(failures(&checked(&ctx, empty.amqp_url(), role, false).await).is_empty());
        }
    });
}
