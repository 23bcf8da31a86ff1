//! The examples for other services, as their one command runs them, against a real broker and the
//! worker. `scripts/get-clients` gets what they need, and says how to get what it cannot.

use std::path::Path;

use kit::{AMQPValue, Answer, FieldTable, Process, Program};
use serde_json::{Value, json};

use crate::world::{RESULTS, SOON, World, header, id, text};

/// A first run may have packages to get, or a program to build.
const SET_UP: std::time::Duration = std::time::Duration::from_secs(240);
const LIMIT: std::time::Duration = std::time::Duration::from_secs(300);

fn example(world: &World, arguments: &[&str]) -> Program {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let management = world.ctx.node().management_url();
    let program = Program::new(root.join("scripts/example"))
        .args(arguments)
        .env("AMQP_URL", world.ctx.amqp_url())
        .env("MANAGEMENT_URL", management);
    with_build_and_package_settings(program)
}

/// The variables of this environment that decide how programs are built and packages are got.
pub fn with_build_and_package_settings(mut program: Program) -> Program {
    // What was built already is built the same way.
    for name in [
        "CARGO_HOME",
        "CARGO_INCREMENTAL",
        "CARGO_TARGET_DIR",
        "RUSTFLAGS",
        "RUSTUP_HOME",
        "RUSTUP_TOOLCHAIN",
    ] {
        if let Some(value) = std::env::var_os(name) {
            program = program.env(name, value);
        }
    }
    let packages = [
        "PIP_",
        "npm_config_",
        "NPM_CONFIG_",
        "NODE_EXTRA_CA_CERTS",
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
    ];
    for (name, value) in std::env::vars_os() {
        if packages.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            program = program.env(name, value);
        }
    }
    program
}

async fn run(world: &World, arguments: &[&str]) -> (Option<i32>, Process) {
    let process = world.ctx.start(&example(world, arguments));
    let code = process.wait_exit(SET_UP).await.code();
    (code, process)
}

fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).expect("a trace id")
}

/// The example sends a request as it should, waits for its outcome, and prints it.
fn publishes_and_waits(language: &'static str) {
    // It shows how a CloudEvent is sent, without a trace.
    let is_traced = language != "cloud-event";
    kit::run_within(LIMIT, async |ctx| {
        let world = World::start(ctx, |call| match call.field("customer_id").as_deref() {
            Some("191") => Answer::unlocked(),
            _ => Answer::status(404),
        })
        .await;
        // A true first, so that the worker believes a 404.
        for (customer, status, code) in [("191", "unlocked", 0), ("404", "refused", 1)] {
            let (exit, process) = run(&world, &[language, customer]).await;
            let said = (process.stdout(), process.stderr());
            assert_eq!(exit, Some(code), "{said:#?}");
            let [printed] = &said.0[..] else { panic!("{said:#?}") };
            let printed: Value = serde_json::from_str(printed).expect("JSON");
            let published = world.outcomes.next(SOON).await;
            assert_eq!(printed, published.json());
            assert_eq!(printed["status"], status);
            assert_eq!(printed["request"], json!({"customer_id": customer}));
            let request_id = text(&printed["request_id"]);
            assert!(
                request_id.len() >= 32 && said.1.iter().any(|line| line.contains(&request_id)),
                "{said:#?}"
            );
            let call = world.trackfinity.calls().pop().expect("a call");
            let (sent, came) = (call.header("traceparent"), header(&published, "traceparent"));
            assert_eq!((sent.is_some(), came.is_some()), (is_traced, is_traced));
            assert_eq!(sent.map(trace_id), came.as_deref().map(trace_id));
        }
        // The dead letter is the request as the example published it.
        let dead_letter = world.dead_letters().await.pop().expect("a dead letter");
        assert!(dead_letter.properties.message_id().is_some());
        assert_eq!(header(&dead_letter, "traceparent").is_some(), is_traced, "the example's own trace");
        world.stop().await;
    });
}

#[test]
fn the_rust_example_publishes_and_waits() {
    publishes_and_waits("rust");
}

#[test]
fn the_python_example_publishes_and_waits() {
    publishes_and_waits("python");
}

#[test]
fn the_node_example_publishes_and_waits() {
    publishes_and_waits("node");
}

#[test]
fn the_php_example_publishes_and_waits() {
    publishes_and_waits("php");
}

#[test]
fn the_shell_example_publishes_and_waits() {
    publishes_and_waits("shell");
}

#[test]
fn a_cloud_event_of_the_official_sdk_is_a_request() {
    publishes_and_waits("cloud-event");
}

#[test]
fn a_service_that_may_write_to_the_exchange_alone_gets_its_reply() {
    kit::run_within(LIMIT, async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let management = world.ctx.vhost().management();
        let user = format!("service-{}", world.ctx.vhost().name());
        management.create_user(&user, "p", "").await;
        management.set_permissions(&user, "^$", r"^trackfinity\.unlock$", "^$").await;
        let url = world.ctx.vhost().amqp_url_as(&user, "p");
        let mut exits = Vec::new();
        for language in ["python", "node"] {
            let program = example(&world, &[language, "191"]).env("AMQP_URL", &url);
            exits.push((world.ctx.start(&program).wait_exit(SET_UP).await.code(), language));
        }
        management.delete_user(&user).await;
        assert_eq!(exits, [(Some(0), "python"), (Some(0), "node")]);
    });
}

#[test]
fn an_example_without_a_queue_for_requests_says_that_nothing_was_published() {
    kit::run_within(LIMIT, async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let management = world.ctx.vhost().management();
        management.delete_binding("trackfinity.unlock", "trackfinity.unlock.requests", "request").await;
        for language in ["rust", "python", "node", "php", "shell"] {
            let (exit, process) = run(&world, &[language, "191"]).await;
            let said = process.stderr().join("\n");
            assert!(exit.is_some_and(|code| code != 0), "{language}: {said}");
            assert!(!said.contains("no outcome") && !said.contains("\npublished"), "{language}: {said}");
            assert!(process.stdout().is_empty(), "{language}: {:?}", process.stdout());
        }
        assert_eq!(world.trackfinity.count(), 0);
    });
}

#[test]
fn the_listener_handles_each_refusal_once_and_follows_its_trace() {
    kit::run_within(LIMIT, async |ctx| {
        let world = World::start(ctx, |_| Answer::status(400)).await;
        let database = std::env::temp_dir().join(format!("unlocker-{}.sqlite", uuid::Uuid::now_v7()));
        let arguments = ["listen", database.to_str().expect("UTF-8")];
        let listen = async || {
            let listener = world.ctx.start(&example(&world, &arguments));
            listener.wait_for_line(|line| line.starts_with("listening on "), SET_UP).await;
            listener
        };
        let listener = listen().await;
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let mut headers = FieldTable::default();
        let parent = format!("00-{trace}-b7ad6b7169203331-01");
        headers.insert("traceparent".into(), AMQPValue::LongString(parent.into()));
        world.publish(id("m-1").with_headers(headers), r#"{"customer_id":191}"#).await;
        let line = listener.wait_for_line(|line| line.starts_with("m-1 was refused"), SOON).await;
        let expected =
            format!(r#"m-1 was refused: http_400, request {{"customer_id": "191"}}, trace {trace}"#);
        assert_eq!(line, expected);
        let outcome = world.outcomes.next(SOON).await;
        // The same again, as after a crash, and to a listener that was away meanwhile.
        let again = async || {
            let copy = outcome.properties.clone();
            world.amqp.publish(RESULTS, "unlock.refused", copy, &outcome.body).await;
        };
        again().await;
        listener.wait_for_line(|line| line == "m-1/0 came again", SOON).await;
        // It may end at any moment, also before it has acknowledged.
        listener.signal(kit::Signal::TERM);
        listener.wait_exit(SOON).await;
        again().await;
        // A later version may add fields; a listener of today takes them.
        let mut newer = outcome.json();
        newer["request_id"] = json!("m-2");
        newer["a_field_of_tomorrow"] = json!({"x": 1});
        world.amqp.publish(RESULTS, "unlock.refused", id("m-2/0"), newer.to_string().as_bytes()).await;
        let listener = listen().await;
        listener.wait_for_line(|line| line.starts_with("m-2 was refused"), SOON).await;
        assert_eq!(listener.stdout()[0], "m-1/0 came again");
        let management = world.ctx.vhost().management();
        let left =
            async || management.queue("shop.unlock-refused").await.map(|queue| queue["messages"].clone());
        kit::eventually("all are acknowledged", SOON, async || left().await == Some(json!(0))).await;
        listener.signal(kit::Signal::TERM);
        listener.wait_exit(SOON).await;
        std::fs::remove_file(database).expect("removed");
    });
}
