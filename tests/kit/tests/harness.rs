//! The harness always cleans up.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kit::{Context, Program, Properties, RabbitNode};

const SOON: Duration = Duration::from_secs(10);

/// Runs a test that has to fail, and returns its panic's text.
fn failure(test: impl AsyncFnOnce(Context), limit: Duration) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| kit::run_within(limit, test))).expect_err("it fails");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).expect("a panic with a text")
}

fn vhosts() -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let vhosts = RabbitNode::shared().await.management("/").get("/api/vhosts").await.expect("the list");
        vhosts
            .as_array()
            .expect("a list")
            .iter()
            .map(|vhost| vhost["name"].as_str().unwrap().to_owned())
            .collect()
    })
}

fn runs(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_test_publishes_and_receives_in_a_vhost_of_its_own() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        let inbox = amqp.consume_into("amq.topic", "unlock.#").await;
        amqp.publish("amq.topic", "unlock.unlocked", Properties::default(), b"1").await;
        amqp.publish("amq.topic", "unlock.refused", Properties::default(), b"2").await;
        assert_eq!(inbox.next(SOON).await.body, b"1");
        assert_eq!(inbox.next(SOON).await.routing_key, "unlock.refused");
        assert!(!amqp.try_publish("amq.topic", "other", Properties::default(), b"3").await);

        amqp.declare_queue("q", Default::default()).await;
        amqp.publish_all("", "q", (0..100).map(|n| (Properties::default(), vec![n]))).await;
        assert_eq!(amqp.ready_count("q").await, 100);
        let drained = amqp.drain("q").await;
        assert!(drained.iter().map(|message| message.body[0]).eq(0..100));
        assert!(!amqp.queue_exists("none").await);
    });
}

#[test]
fn the_management_api_changes_the_vhost() {
    kit::run(async |ctx| {
        let amqp = ctx.amqp().await;
        let management = ctx.vhost().management();
        amqp.declare_queue("a b/ü", Default::default()).await;
        management
            .post(
                &format!("/api/bindings/{}/e/amq.direct/q/a%20b%2F%C3%BC", ctx.vhost().name()),
                serde_json::json!({"routing_key": "k/1"}),
            )
            .await
            .expect("a binding");
        assert_eq!(management.bindings().await.len(), 1);
        management.delete_binding("amq.direct", "a b/ü", "k/1").await;
        assert!(management.bindings().await.is_empty());
        amqp.publish("", "a b/ü", Properties::default(), b"1").await;
        management.purge("a b/ü").await;
        assert_eq!(amqp.ready_count("a b/ü").await, 0);
        management.set_policy("short", "^a", serde_json::json!({"max-length": 1})).await;
        management.delete_policy("short").await;
        let user = format!("{}-user", ctx.vhost().name());
        management.create_user(&user, "se/cret", "").await;
        management.set_permissions(&user, "^$", "^$", ".*").await;
        let other = kit::Amqp::connect(&ctx.vhost().amqp_url_as(&user, "se/cret")).await;
        let connection = kit::eventually("the user's connection is listed", SOON, async || {
            management.connections().await.into_iter().find(|connection| connection["user"] == user.as_str())
        })
        .await;
        management.close_connection(connection["name"].as_str().unwrap()).await;
        kit::eventually("the connection is closed", SOON, async || !other.connection().status().connected())
            .await;
        management.delete_user(&user).await;
        management.delete_queue("a b/ü").await;
        assert!(management.queue("a b/ü").await.is_none());
    });
}

#[test]
fn a_panic_leaves_no_vhost_and_no_process() {
    let seen = Arc::new(Mutex::new(None));
    let noted = seen.clone();
    let text = failure(
        async move |ctx| {
            let process = ctx.start(&Program::new("/bin/sleep").arg("1000"));
            *noted.lock().unwrap() = Some((ctx.vhost().name().to_owned(), process.pid()));
            std::mem::forget(process);
            panic!("on purpose");
        },
        SOON,
    );
    assert_eq!(text, "on purpose");
    let (vhost, pid) = seen.lock().unwrap().take().expect("the test ran");
    assert!(!runs(pid));
    assert!(!vhosts().contains(&vhost));
}

#[test]
fn a_test_that_hangs_is_ended() {
    let began = Instant::now();
    let text = failure(async |_ctx| std::future::pending().await, Duration::from_millis(200));
    assert!(text.contains("longer than 200ms"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_panic_in_the_background_fails_the_test_at_once() {
    let text = failure(
        async |ctx| {
            ctx.spawn(async { panic!("in the background") });
            std::future::pending().await
        },
        SOON,
    );
    assert_eq!(text, "in the background");
}

#[test]
fn what_never_comes_is_named_with_what_was_seen_last() {
    let text = failure(
        async |_ctx| {
            let mut looks = 0;
            kit::eventually("the moon", Duration::from_millis(100), async || {
                looks += 1;
                Err::<(), _>("clouds")
            })
            .await;
        },
        SOON,
    );
    assert!(text.contains("the moon") && text.ends_with("last seen: clouds"), "{text}");
}
