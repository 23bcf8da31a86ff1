//! The command line: `check`, `publish`, `sandbox`, `schema`, and the exit codes.

use kit::{Answer, Program, Trackfinity};
use serde_json::{Value, json};

use crate::world::{SOON, World, id, start_worker, text, unlocker};

fn bare() -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker"))
}

#[test]
fn publish_with_wait_prints_the_outcome() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let publish = unlocker(world.ctx.amqp_url(), "http://127.0.0.1:1").args([
            "publish",
            "--customer-id",
            "191",
            "--orderid",
            "7",
            "--wait",
            "--timeout",
            "20s",
        ]);
        let publish = world.ctx.start(&publish);
        assert_eq!(publish.wait_exit(SOON).await.code(), Some(0));
        let outcome: Value = serde_json::from_str(&publish.stdout().join("\n")).expect("JSON");
        assert_eq!(outcome["status"], "unlocked");
        assert_eq!(outcome["request"], json!({"customer_id": "191", "orderid": "7"}));
        let warned = world.worker.stderr().iter().any(|line| line.contains("WARN"));
        assert!(!warned, "a direct reply is not called undeliverable");
    });
}

#[test]
fn publish_with_wait_fails_unless_the_outcome_is_unlocked() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::json(422, "{}")).await;
        let wait = ["publish", "--customer-id", "191", "--wait", "--timeout", "20s"];
        let publish = world.ctx.start(&unlocker(world.ctx.amqp_url(), "http://127.0.0.1:1").args(wait));
        assert_eq!(publish.wait_exit(SOON).await.code(), Some(1));
        let outcome: Value = serde_json::from_str(&publish.stdout().join("\n")).expect("JSON");
        assert_eq!((&outcome["status"], &outcome["reason"]), (&json!("refused"), &json!("http_422")));
    });
}

#[test]
fn publish_sets_the_priority_and_the_expiration_of_one_request_and_of_many() {
    kit::run(async |ctx| {
        let worker = start_worker(&ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
        worker.signal(kit::Signal::TERM);
        worker.wait_exit(SOON).await;
        let file = std::env::temp_dir().join(format!("unlocker-{}.jsonl", uuid::Uuid::now_v7()));
        std::fs::write(&file, r#"{"customer_id":2,"request_id":"from-a-line"}"#).expect("a file");
        let file = file.to_str().expect("UTF-8");
        for request in [["--customer-id", "1"], ["--from", file]] {
            let delivery = ["--priority", "7", "--expires-in", "10m"];
            let publish = bare().env("UNLOCKER__BROKER__URL", ctx.amqp_url()).arg("publish");
            let publish = ctx.start(&publish.args(request).args(delivery));
            assert_eq!(publish.wait_exit(SOON).await.code(), Some(0), "{:?}", publish.stderr());
        }
        std::fs::remove_file(file).expect("removed");
        let requests = ctx.amqp().await.drain(crate::world::REQUESTS).await;
        assert_eq!(requests.len(), 2);
        for request in &requests {
            assert_eq!(request.properties.priority(), &Some(7));
            let expiration = request.properties.expiration().as_ref().map(|text| text.as_str());
            assert_eq!(expiration, Some("600000"));
        }
        let ids = requests.iter().filter_map(|request| request.properties.message_id().as_ref());
        assert!(ids.map(|id| id.as_str()).any(|id| id == "from-a-line"));
    });
}

#[test]
fn publish_needs_the_broker_alone_and_prints_the_request_id() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let publish = bare().env("UNLOCKER__BROKER__URL", world.ctx.amqp_url()).args([
            "publish",
            "--subscription-id",
            "s",
            "--message-id",
            "m-1",
        ]);
        let publish = world.ctx.start(&publish);
        assert_eq!(publish.wait_exit(SOON).await.code(), Some(0));
        assert_eq!(publish.stdout(), ["published m-1"]);
        let outcome = world.outcome().await;
        assert_eq!(outcome["request_id"], "m-1");
        assert_eq!(outcome["request"], json!({"subscription_id": "s"}));
    });
}

#[test]
fn publish_to_a_broker_without_the_topology_says_so() {
    kit::run(async |ctx| {
        let publish =
            bare().env("UNLOCKER__BROKER__URL", ctx.amqp_url()).args(["publish", "--customer-id", "1"]);
        let publish = ctx.start(&publish);
        assert_eq!(publish.wait_exit(SOON).await.code(), Some(1));
        let said = publish.stderr().join("\n");
        assert!(said.contains("not published") && said.contains("unlocker run"), "{said}");
    });
}

#[test]
fn check_without_declare_asks_for_no_right_to_configure_but_the_lock() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let management = ctx.vhost().management();
        let user = format!("looker-{}", ctx.vhost().name());
        management.create_user(&user, "p", "").await;
        management.set_permissions(&user, r"^trackfinity\.unlock\.dead\.lock$", ".*", ".*").await;
        let url = ctx.vhost().amqp_url_as(&user, "p");
        let check = ctx.start(
            &unlocker(&url, &trackfinity.url()).arg("check").env("UNLOCKER__BROKER__DECLARE", "false"),
        );
        let status = check.wait_exit(SOON).await;
        management.delete_user(&user).await;
        assert_eq!(status.code(), Some(0), "{:#?}", check.stdout());
    });
}

#[test]
fn check_has_a_line_a_check_and_masks_secrets() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let check = async || {
            let check = ctx.start(&unlocker(ctx.amqp_url(), &trackfinity.url()).arg("check"));
            let status = check.wait_exit(SOON).await;
            (status.code(), check.stdout())
        };
        let (code, lines) = check().await;
        assert_eq!(code, Some(0), "{lines:#?}");
        assert_eq!(lines.last().expect("a verdict"), "ready: 24 checks passed");
        assert!(ctx.vhost().management().queues().await.is_empty(), "nothing is written");
        assert_eq!(lines.iter().filter(|line| line.contains("does not exist yet")).count(), 18);
        let worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let (code, lines) = check().await;
        assert_eq!(code, Some(0), "{lines:#?}");
        assert_eq!(lines.iter().filter(|line| line.starts_with("ok ")).count(), 1 + 2 + 4 + 14 + 1 + 2);
        assert!(!lines.iter().any(|line| line.contains("the-key") || line.contains("the-user")));
        trackfinity.answer_with(|_| Answer::status(401));
        let (code, lines) = check().await;
        assert_eq!(code, Some(1));
        let finding = lines.iter().find(|line| line.starts_with("FAIL")).expect("a finding");
        assert!(finding.contains("401"), "{finding}");
        assert!(
            lines.iter().any(|line| line.contains("fix: ") && line.contains("ADMIN_API_ALLOWED_IPS")),
            "{lines:#?}"
        );
        assert!(
            lines.last().expect("a verdict").starts_with("not ready: 1 fault in 24 checks: Trackfinity"),
            "{lines:#?}"
        );
        drop(worker);
    });
}

#[test]
fn exit_codes_tell_settings_from_an_unreachable_broker_and_a_wrong_command_line() {
    kit::run(async |ctx| {
        let nowhere = format!("amqp://127.0.0.1:{}", kit::free_port());
        let rows = [
            ("settings", bare().args(["run"]).env("UNLOCKER__WORKER__CONCURRENCY", "0"), 78),
            ("settings", bare().args(["check"]).env("UNLOCKER__NO__SUCH_KEY", "1"), 78),
            ("broker", unlocker(&nowhere, "http://127.0.0.1:1").arg("check"), 69),
            ("broker", unlocker(&nowhere, "http://127.0.0.1:1").args(["publish", "--customer-id", "1"]), 69),
            ("command line", bare().args(["publish"]), 2),
            ("command line", bare().args(["publish", "--wait"]), 2),
            ("command line", unlocker(&nowhere, "http://127.0.0.1:1").args(["publish", "--orderid", " "]), 2),
            ("command line", bare().args(["fly"]), 2),
            ("done", bare().args(["--version"]), 0),
        ];
        for (row, program, code) in rows {
            let process = ctx.start(&program);
            assert_eq!(process.wait_exit(SOON).await.code(), Some(code), "{row}: {:?}", process.stderr());
        }
    });
}

#[test]
fn every_fault_of_the_settings_is_listed_at_once() {
    kit::run(async |ctx| {
        let run = bare()
            .args(["run"])
            .env("UNLOCKER__TRACKFINITY__BASE_URL", "ftp://example.com")
            .env("UNLOCKER__TRACKFINITY__TIMEOUT", "soon")
            .env("UNLOCKER__WORKER__CONCURRENTCY", "1");
        let run = ctx.start(&run);
        assert_eq!(run.wait_exit(SOON).await.code(), Some(78));
        let said = run.stderr().join("\n");
        for key in [
            "trackfinity.base_url",
            "UNLOCKER__TRACKFINITY__BASE_URL",
            "trackfinity.timeout",
            "trackfinity.api_key",
            "trackfinity.api_username",
            "UNLOCKER__WORKER__CONCURRENTCY",
            "did you mean UNLOCKER__WORKER__CONCURRENCY?",
        ] {
            assert!(said.contains(key), "{key} is not in:\n{said}");
        }
    });
}

#[test]
fn run_keeps_trying_a_broker_that_is_not_there() {
    kit::run(async |ctx| {
        let (line, url) = ctx.cutter().await;
        line.cut().await;
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let worker = ctx.start(&unlocker(&url, &trackfinity.url()).arg("run"));
        worker.wait_for_line(|line| line.contains("RabbitMQ cannot be reached"), SOON).await;
        line.restore().await;
        worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
        worker.signal(kit::Signal::INT);
        assert_eq!(worker.wait_exit(SOON).await.code(), Some(0));
    });
}

#[test]
fn the_sandbox_stands_in_for_trackfinity() {
    kit::run(async |ctx| {
        let sandbox = bare().args([
            "sandbox",
            "--listen",
            "127.0.0.1:0",
            "--latency",
            "5ms",
            "--fail",
            "503:0.0",
            "--locked-customers",
            "191,192",
            "--first",
            "192=503",
        ]);
        let sandbox = ctx.start(&sandbox);
        let line = sandbox.wait_for_line(|line| line.contains("listening on"), SOON).await;
        let url = line.rsplit(' ').next().expect("a URL").to_owned();
        let worker = start_worker(&ctx, ctx.amqp_url(), &url, &[]).await;
        let amqp = ctx.amqp().await;
        let outcomes = amqp.consume_into(crate::world::RESULTS, "unlock.#").await;
        for customer in ["191", "192", "193"] {
            let body = format!(r#"{{"customer_id":{customer}}}"#);
            amqp.publish(crate::world::EXCHANGE, "request", id(customer), body.as_bytes()).await;
        }
        for outcome in outcomes.wait_count(3, SOON).await {
            let outcome = outcome.json();
            let (status, attempts) = match text(&outcome["request_id"]).as_str() {
                "191" => ("unlocked", 1),
                "192" => ("unlocked", 2),
                _ => ("refused", 1),
            };
            assert_eq!(
                (&outcome["status"], &outcome["attempts"]),
                (&json!(status), &json!(attempts)),
                "{outcome}"
            );
        }
        assert!(
            sandbox.stdout().iter().any(|line| line.contains("PATCH /api/customer/unlock  customer_id=191"))
        );
        sandbox.signal(kit::Signal::TERM);
        assert_eq!(sandbox.wait_exit(SOON).await.code(), Some(0));
        drop(worker);
    });
}

#[test]
fn schema_prints_a_json_schema_for_each_message() {
    kit::run(async |ctx| {
        for (message, field) in [("request", "customer_id"), ("outcome", "first_received_at")] {
            let schema = ctx.start(&bare().args(["schema", message]));
            assert_eq!(schema.wait_exit(SOON).await.code(), Some(0));
            let schema: Value = serde_json::from_str(&schema.stdout().join("\n")).expect("JSON");
            assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
            assert!(schema["properties"][field].is_object(), "{schema:#}");
        }
    });
}

#[test]
fn a_secret_in_a_file_is_used_and_never_logged() {
    kit::run(async |ctx| {
        let directory = std::env::temp_dir().join(format!("unlocker-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&directory).expect("a directory");
        let file = directory.join("key");
        std::fs::write(&file, "from-a-file\n").expect("a file");
        let trackfinity = Trackfinity::start(|_| Answer::unlocked());
        let program = bare()
            .arg("run")
            .env("RUST_LOG", "trace,lapin=trace")
            .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
            .env("UNLOCKER__OPS__LISTEN", "")
            .env("UNLOCKER__TRACKFINITY__BASE_URL", trackfinity.url())
            .env("UNLOCKER__TRACKFINITY__API_KEY_FILE", &file)
            .env("UNLOCKER__TRACKFINITY__API_USERNAME", "secret-user");
        let worker = ctx.start(&program);
        worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
        ctx.amqp()
            .await
            .publish(crate::world::EXCHANGE, "request", id("1"), br#"{"customer_id":"hidden-id"}"#)
            .await;
        trackfinity.wait_count(1, SOON).await;
        worker.signal(kit::Signal::TERM);
        worker.wait_exit(SOON).await;
        std::fs::remove_dir_all(&directory).expect("removed");
        assert_eq!(trackfinity.calls()[0].header("api-key"), Some("from-a-file"));
        let logged = worker.stderr().join("\n");
        let password = ctx.amqp_url().split([':', '@']).nth(2).expect("a password").to_owned();
        for secret in ["from-a-file", "secret-user", &format!(":{password}@")] {
            assert!(!logged.contains(secret), "{secret} was logged");
        }
        let at_info =
            |line: &&String| line.contains(r#""level":"INFO""#) || line.contains(r#""level":"WARN""#);
        assert!(!worker.stderr().iter().filter(at_info).any(|line| line.contains("hidden-id")));
    });
}
