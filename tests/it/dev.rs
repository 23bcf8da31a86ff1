//! `unlocker dev`, as the tests of other services use it.

use std::{collections::BTreeMap, path::Path, time::Duration};

use kit::{Amqp, Context, Process, Program};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    libraries::install,
    world::{SOON, id, text},
};

const PREFIX: &str = "shop.test";

fn dev(ctx: &Context, ops: &str) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker"))
        .args(["dev", "--broker", ctx.amqp_url(), "--prefix", PREFIX])
        .env("UNLOCKER__OPS__LISTEN", ops)
}

async fn start(ctx: &Context, program: &Program) -> Process {
    let dev = ctx.start(program);
    dev.wait_for_line(|line| line.starts_with("ready: "), SOON).await;
    dev
}

async fn stop(dev: &Process) {
    dev.signal(kit::Signal::TERM);
    assert_eq!(dev.wait_exit(SOON).await.code(), Some(0));
}

/// Publishes a request for each identifier, with this as its id. Returns the outcomes by id.
async fn ask(amqp: &Amqp, bodies: &[(&str, &str)]) -> BTreeMap<String, Value> {
    let outcomes = amqp.consume_into(&format!("{PREFIX}.results"), "unlock.#").await;
    for (name, body) in bodies {
        amqp.publish(PREFIX, "request", id(name), body.as_bytes()).await;
    }
    let outcomes = outcomes.wait_count(bodies.len(), SOON).await;
    outcomes.iter().map(|outcome| (text(&outcome.json()["request_id"]), outcome.json())).collect()
}

#[test]
fn dev_answers_as_the_customer_says() {
    kit::run(async |ctx| {
        let dev = start(&ctx, &dev(&ctx, "").args(["--slow", "1500ms"])).await;
        let amqp = ctx.amqp().await;
        let rows = [
            ("191", r#"{"customer_id":191}"#, "unlocked", None, 1),
            ("refused-1", r#"{"customer_id":"refused-1"}"#, "refused", Some("http_404"), 1),
            ("400400", r#"{"customer_id":400400}"#, "refused", Some("http_400"), 1),
            ("failing-1", r#"{"orderid":"failing-1"}"#, "abandoned", Some("http_503"), 3),
            ("502502", r#"{"customer_id":502502}"#, "abandoned", Some("http_502"), 3),
            ("flaky-1", r#"{"subscription_id":"flaky-1"}"#, "unlocked", None, 2),
            ("503200", r#"{"customer_id":503200}"#, "unlocked", None, 2),
            ("no identifier", r#"{"customer":191}"#, "invalid", Some("no_identifier"), 0),
            ("a bad one", r#"{"customer_id":1.5}"#, "invalid", Some("bad_identifier"), 0),
            ("no JSON", "customer 191", "invalid", Some("malformed"), 0),
        ];
        let bodies = rows.map(|(name, body, ..)| (name, body));
        let outcomes = ask(&amqp, &bodies).await;
        for (name, _, status, reason, attempts) in rows {
            let outcome = &outcomes[name];
            let ended =
                (outcome["status"].as_str(), outcome["reason"].as_str(), outcome["attempts"].as_u64());
            assert_eq!(ended, (Some(status), reason, Some(attempts)), "{name}");
        }
        for slow in ["slow-1", "200200"] {
            let asked = Instant::now();
            let outcome = &ask(&amqp, &[(slow, &format!(r#"{{"customer_id":"{slow}"}}"#))]).await[slow];
            assert_eq!(outcome["status"], "unlocked");
            assert!(asked.elapsed() >= Duration::from_millis(1500), "{slow} was answered at once");
        }
        assert!(dev.stdout().iter().any(|line| line.contains("customer_id=refused-1  404")));
        stop(&dev).await;
    });
}

#[test]
fn many_failing_customers_do_not_pause_the_others() {
    kit::run(async |ctx| {
        let dev = start(&ctx, &dev(&ctx, "").arg("--quiet")).await;
        let names: Vec<_> = (0..30).map(|n| format!("failing-{n}")).chain(["191".to_owned()]).collect();
        let bodies = names.iter().map(|name| format!(r#"{{"customer_id":"{name}"}}"#));
        let bodies: Vec<_> = bodies.collect();
        let bodies: Vec<_> =
            names.iter().map(String::as_str).zip(bodies.iter().map(String::as_str)).collect();
        let outcomes = ask(&ctx.amqp().await, &bodies).await;
        assert_eq!(outcomes["191"]["status"], "unlocked");
        assert!(outcomes.values().filter(|outcome| outcome["reason"] == "http_503").count() == 30);
        assert!(!dev.stderr().iter().any(|line| line.contains("paused")), "{:#?}", dev.stderr());
        assert_eq!(dev.stdout().len(), 1, "with --quiet no call is printed");
        stop(&dev).await;
    });
}

#[test]
fn dev_is_ready_within_a_second_and_says_so_to_a_health_check() {
    kit::run(async |ctx| {
        let ops = format!("127.0.0.1:{}", kit::free_port());
        let is_ready = async || {
            let asked = ctx.start(&dev(&ctx, &ops).arg("--is-ready"));
            (asked.wait_exit(SOON).await.code(), asked.stderr().join("\n"))
        };
        let (code, said) = is_ready().await;
        assert_eq!(code, Some(1));
        assert!(said.contains("not ready: nothing answers at"), "{said}");
        let mut fastest = Duration::MAX;
        for first in [true, false, false] {
            let begun = Instant::now();
            let dev = start(&ctx, &dev(&ctx, &ops)).await;
            fastest = fastest.min(begun.elapsed());
            if first {
                assert_eq!(is_ready().await.0, Some(0));
            }
            stop(&dev).await;
        }
        // Of three, because the machine may be busy.
        assert!(fastest < Duration::from_secs(1), "ready after {fastest:?}");
    });
}

#[test]
fn the_tests_in_the_page_about_testing_pass() {
    kit::run_within(Duration::from_secs(300), async |ctx| {
        install(&ctx, "libraries-python").await;
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let program = Path::new(env!("CARGO_BIN_EXE_unlocker")).parent().expect("a folder");
        let path = std::env::var("PATH").expect("a PATH");
        let tests = Program::new(docs.join("libraries/.venv/bin/python"))
            .args(["-m", "pytest", "-p", "no:cacheprovider", "test_shop.py"])
            .directory(docs.join("testing"))
            .env("PATH", format!("{}:{path}", program.display()))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("AMQP_URL", ctx.amqp_url());
        let tests = ctx.start(&tests);
        let status = tests.wait_exit(SOON * 2).await;
        let said = tests.stdout().join("\n");
        assert!(status.success() && said.contains("6 passed"), "{said}");
    });
}

#[test]
fn dev_never_calls_a_trackfinity_that_the_settings_name() {
    kit::run(async |ctx| {
        let real = kit::Trackfinity::start(|_| kit::Answer::status(400));
        let program = dev(&ctx, "")
            .env("UNLOCKER__TRACKFINITY__BASE_URL", real.url())
            .env("UNLOCKER__TRACKFINITY__API_KEY_FILE", "/run/secrets/the-key")
            .env("UNLOCKER__TRACKFINITY__API_USERNAME_FILE", "/run/secrets/the-user");
        let dev = start(&ctx, &program).await;
        let outcomes = ask(&ctx.amqp().await, &[("191", r#"{"customer_id":"191"}"#)]).await;
        assert_eq!(outcomes["191"]["status"], "unlocked");
        assert_eq!(real.count(), 0);
        stop(&dev).await;
    });
}

#[test]
fn dev_that_cannot_start_says_why_and_ends() {
    kit::run(async |ctx| {
        let (host, port) = ctx.node().address();
        let vhost = ctx.vhost().name();
        let nobody = format!("amqp://guest:guest@127.0.0.1:{}", kit::free_port());
        let wrong = format!("amqp://guest:wrong@{host}:{port}/{vhost}");
        for (url, code, sentence) in
            [(nobody, 69, "RabbitMQ cannot be reached: "), (wrong, 1, "RabbitMQ refuses the connection: ")]
        {
            let program = Program::new(env!("CARGO_BIN_EXE_unlocker"))
                .args(["dev", "--broker", &url, "--start-timeout", "1s"])
                .env("UNLOCKER__OPS__LISTEN", "");
            let dev = ctx.start(&program);
            assert_eq!(dev.wait_exit(SOON).await.code(), Some(code), "{url}");
            assert!(dev.stderr().iter().any(|line| line.contains(sentence)), "{:#?}", dev.stderr());
        }
        // The topology cannot be declared.
        ctx.amqp().await.declare_queue(&format!("{PREFIX}.requests"), kit::FieldTable::default()).await;
        let dev = ctx.start(&dev(&ctx, "").args(["--start-timeout", "2s"]));
        assert_eq!(dev.wait_exit(SOON).await.code(), Some(1));
        let sentence = "the worker is not ready within 2s: queue shop.test.requests";
        assert!(dev.stderr().iter().any(|line| line.contains(sentence)), "{:#?}", dev.stderr());
    });
}

#[test]
fn what_an_earlier_run_left_is_purged_if_asked() {
    kit::run(async |ctx| {
        let first = start(&ctx, &dev(&ctx, "").args(["--purge"])).await;
        let amqp = ctx.amqp().await;
        let paused = |line: &str| line.contains("calls are paused");
        amqp.publish(PREFIX, "request", id("401401"), br#"{"customer_id":401401}"#).await;
        first.wait_for_line(paused, SOON).await;
        stop(&first).await;
        let waits = async || {
            let requests = amqp.ready_count(&format!("{PREFIX}.requests")).await;
            requests + amqp.ready_count(&format!("{PREFIX}.retry.1s")).await == 1
        };
        kit::eventually("the request waits", SOON, waits).await;
        let next = start(&ctx, &dev(&ctx, "").arg("--purge")).await;
        let outcomes = ask(&amqp, &[("191", r#"{"customer_id":191}"#)]).await;
        assert_eq!(outcomes["191"]["status"], "unlocked");
        assert!(!next.stderr().iter().any(|line| paused(line)), "{:#?}", next.stderr());
        stop(&next).await;
    });
}
