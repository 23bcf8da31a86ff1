//! The permissions in RabbitMQ that docs/production.md lists: they are sufficient, and
//! `unlocker check` names each that is missing.

mod console;
mod gateway;
mod history;
mod operator;
mod topics;

use std::{fs, path::Path, time::Duration};

use kit::{Answer, Context, Process, Program, Trackfinity};

use crate::{
    manifests::{apply_topology, objects},
    telemetry,
    world::{DEAD, EXCHANGE, REQUEST, RESULTS, SOON, id, start_worker, text, unlocker},
};

/// The permissions of a worker that declares the topology.
const ALL: &str = r"^trackfinity\.unlock(\..+)?$";
const ALL_AND_REPLIES: &str = r"^(trackfinity\.unlock(\..+)?|amq\.default)$";
const DECLARE_NOT: (&str, &str) = ("BROKER__DECLARE", "false");

/// Configure, write, read, as deploy/topology-operator grants them.
pub fn granted(role: &str) -> [String; 3] {
    granted_in("topology-operator/users.yaml", role)
}

fn granted_in(file: &str, role: &str) -> [String; 3] {
    let name = format!("trackfinity-unlock-{role}");
    let users = objects(file);
    let permission = users
        .iter()
        .find(|object| object["kind"] == "Permission" && object["metadata.name"] == name)
        .unwrap_or_else(|| panic!("no permission {name}"));
    ["configure", "write", "read"].map(|what| permission[&format!("spec.permissions.{what}")].clone())
}

/// A command with no setting but the address of RabbitMQ.
fn bare(url: &str, args: &[&str]) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker")).env("UNLOCKER__BROKER__URL", url).args(args)
}

/// A RabbitMQ user, deleted at the end.
pub struct User<'a> {
    ctx: &'a Context,
    pub name: String,
}

impl<'a> User<'a> {
    pub async fn create(ctx: &'a Context, role: &str) -> Self {
        let name = format!("{role}-{}", ctx.vhost().name());
        ctx.vhost().management().create_user(&name, "p", "").await;
        Self { ctx, name }
    }

    pub async fn grant(&self, [configure, write, read]: &[String; 3]) {
        self.ctx.vhost().management().set_permissions(&self.name, configure, write, read).await;
    }

    pub fn url(&self) -> String {
        self.ctx.vhost().amqp_url_as(&self.name, "p")
    }

    pub async fn delete(self) {
        self.ctx.vhost().management().delete_user(&self.name).await;
    }
}

async fn check(ctx: &Context, url: &str, trackfinity: &Trackfinity, declare: bool) -> Process {
    let program = unlocker(url, &trackfinity.url()).arg("check");
    let check = ctx.start(&program.env("UNLOCKER__BROKER__DECLARE", declare.to_string()));
    check.wait_exit(SOON).await;
    check
}

/// Missing rights, one each, and all other faults.
fn failures(check: &Process) -> Vec<String> {
    let is_one = |line: &String| {
        line.starts_with("      - ")
            || line.starts_with("FAIL") && !line.starts_with("FAIL  rights in RabbitMQ")
    };
    check.stdout().into_iter().filter(is_one).collect()
}

/// Unlocks, refuses, retries and replies, because each needs its own permissions.
async fn work(ctx: &Context, url: &str, settings: &[(&str, &str)]) {
    let trackfinity = Trackfinity::start(|call| match call.field("customer_id").as_deref() {
        Some("refused") => Answer::status(400),
        Some("retried") if call.n < 4 => Answer::status(503),
        _ => Answer::unlocked(),
    });
    let ops = format!("127.0.0.1:{}", kit::free_port());
    let settings: Vec<_> = settings.iter().copied().chain([("OPS__LISTEN", ops.as_str())]).collect();
    let worker = start_worker(ctx, url, &trackfinity.url(), &settings).await;
    let amqp = ctx.amqp().await;
    let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
    let replies = amqp.consume_into("amq.direct", "replies").await;
    for customer in ["unlocked", "refused", "retried"] {
        let properties = id(customer).with_reply_to(replies.queue().into());
        let body = format!(r#"{{"customer_id":"{customer}"}}"#);
        amqp.publish(EXCHANGE, REQUEST, properties, body.as_bytes()).await;
    }
    let ended = outcomes.wait_count(3, SOON).await;
    let mut statuses: Vec<_> = ended.iter().map(|outcome| text(&outcome.json()["status"])).collect();
    statuses.sort();
    assert_eq!(statuses, ["refused", "unlocked", "unlocked"]);
    replies.wait_count(3, SOON).await;
    assert_eq!(amqp.ready_count(DEAD).await, 1);
    kit::eventually("the dead letter is counted", SOON, async || {
        let text = telemetry::scrape(&format!("http://{ops}")).await;
        telemetry::sample(&text, "unlocker_queue_messages", &[("queue", "dead")]) == Some(1.0)
    })
    .await;
    let refused: Vec<_> =
        worker.stderr().into_iter().filter(|line| line.contains("refused for user")).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    worker.signal(kit::Signal::TERM);
    assert!(worker.wait_exit(SOON).await.success());
}

#[test]
fn the_documented_table_is_what_is_granted() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/production.md");
    let docs = fs::read_to_string(docs).expect("the docs");
    for (role, rights) in [
        ("worker, `broker.declare = true`", [ALL, ALL_AND_REPLIES, ALL].map(ToOwned::to_owned)),
        ("worker, `broker.declare = false`", granted("worker")),
        ("producer", granted("producer")),
        ("gateway", granted("gateway")),
        ("listener, with queues named `trackfinity.outcomes.…`", granted("listener")),
        ("operator: the console, and people on call", granted("operator")),
        ("support, `unlocker history`", history::granted_to_search()),
    ] {
        let cells = rights.map(|names| format!("`{}` |", names.replace('|', r"\|")));
        let row = format!("| {role} | {}", cells.join(" "));
        assert!(docs.lines().any(|line| line == row), "no row {row}");
    }
    for role in ["worker", "gateway", "operator"] {
        let [_, _, read] = history::granted_with_history(role);
        let cell = format!("| `{}` |", read.replace('|', r"\|"));
        assert!(docs.lines().any(|line| line.ends_with(&cell)), "no row with {cell}");
    }
}

#[test]
fn the_least_rights_suffice_for_a_topology_that_is_declared_already() {
    kit::run(async |ctx| {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let user = User::create(&ctx, "worker").await;
        user.grant(&granted("worker")).await;
        work(&ctx, &user.url(), &[DECLARE_NOT]).await;
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let check = check(&ctx, &user.url(), &trackfinity, false).await;
        assert!(failures(&check).is_empty(), "{:#?}", check.stdout());
        user.delete().await;
    });
}

#[test]
fn the_rights_on_the_prefix_suffice_to_declare_everything() {
    kit::run(async |ctx| {
        let user = User::create(&ctx, "declarer").await;
        user.grant(&[ALL.into(), ALL_AND_REPLIES.into(), ALL.into()]).await;
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let before = check(&ctx, &user.url(), &trackfinity, true).await;
        assert!(failures(&before).is_empty(), "{:#?}", before.stdout());
        assert!(ctx.vhost().management().queues().await.is_empty(), "nothing is written");
        work(&ctx, &user.url(), &[]).await;
        user.delete().await;
    });
}

#[test]
fn each_missing_right_is_named() {
    kit::run_within(Duration::from_secs(120), async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let user = User::create(&ctx, "less").await;
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;

        let full = granted("worker");
        let mut tried = 0;
        for (at, permission) in ["configure", "write", "read"].into_iter().enumerate() {
            if full[at] == "^$" {
                continue;
            }
            let names = full[at].trim_start_matches("^(").trim_end_matches(")$");
            let names: Vec<_> = names.split('|').collect();
            for left_out in &names {
                let rest: Vec<_> = names.iter().filter(|name| name != &left_out).copied().collect();
                let mut less = full.clone();
                less[at] = format!("^({})$", rest.join("|"));
                user.grant(&less).await;
                let check = check(&ctx, &user.url(), &trackfinity, false).await;
                match left_out.strip_suffix(r"\..+") {
                    // All tiers at once.
                    Some(_) => assert_eq!(failures(&check).len(), 11, "{:#?}", failures(&check)),
                    None => names_alone(&check, permission, &left_out.replace('\\', "")),
                }
                tried += 1;
            }
        }
        assert_eq!(tried, 4 + 4);

        for (at, permission, name) in [
            (0, "configure on exchange", "trackfinity.unlock.retry"),
            (0, "configure on queue", "trackfinity.unlock.retry.1s"),
            (1, "write on queue", "trackfinity.unlock.requests"),
            (1, "write on exchange", "trackfinity.unlock"),
            (2, "read on queue", "trackfinity.unlock.retry.1024s"),
            (2, "read on exchange", "trackfinity.unlock.retry"),
        ] {
            let mut less = [ALL, ALL_AND_REPLIES, ALL].map(ToOwned::to_owned);
            less[at] = less[at].replace('^', &format!("^(?!{}$)", name.replace('.', r"\.")));
            user.grant(&less).await;
            let check = check(&ctx, &user.url(), &trackfinity, true).await;
            names_alone(&check, permission, name);
        }
        user.delete().await;
    });
}

fn names_alone(check: &Process, permission: &str, name: &str) {
    let found = failures(check);
    assert_eq!(found.len(), 1, "without {permission} {name}: {found:#?}");
    let (said, _) = found[0].split_once(',').expect("what for");
    assert!(said.contains(permission) && said.ends_with(name), "without {permission} {name}: {}", found[0]);
}

#[test]
fn producers_and_listeners_need_no_more_than_is_documented() {
    kit::run(async |ctx| {
        apply_topology(ctx.vhost().management(), ctx.vhost().name()).await;
        let (producer, listener) =
            (User::create(&ctx, "producer").await, User::create(&ctx, "listener").await);
        producer.grant(&granted("producer")).await;
        listener.grant(&granted("listener")).await;
        let listening = kit::Amqp::connect(&listener.url()).await;
        let queue = "trackfinity.outcomes.shop";
        listening.declare_queue(queue, kit::FieldTable::default()).await;
        let channel = listening.channel().await;
        let bound = channel.queue_bind(
            queue.into(),
            RESULTS.into(),
            "unlock.#".into(),
            Default::default(),
            Default::default(),
        );
        bound.await.expect("bound");
        let outcomes = listening.consume_queue(queue).await;

        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let publishing = kit::Amqp::connect(&producer.url()).await;
        publishing.publish(EXCHANGE, REQUEST, id("1"), br#"{"customer_id":1}"#).await;
        assert_eq!(outcomes.next(SOON).await.json()["status"], "unlocked");
        producer.delete().await;
        listener.delete().await;
    });
}
