//! One JSON object per line, which names the trace of a request and nothing from its body. The same
//! line is repeated once a minute at most, and a reader of stderr that is stuck stops nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use kit::{Answer, Otlp, Process};
use serde_json::Value;

use super::*;
use crate::world::{EXCHANGE, REQUEST, UNDELIVERABLE, id, requests};

/// What a log line at info and above must never contain.
const PRIVATE: [&str; 5] = ["customer-4711", "subscription-4712", "order-4713", "body-4714", "answer-4715"];

fn private_body() -> String {
    let [customer, subscription, order, body, _] = PRIVATE;
    format!(
        r#"{{"customer_id":"{customer}","subscription_id":"{subscription}","orderid":"{order}","note":"{body}"}}"#
    )
}

/// The log lines of a program so far.
pub(super) fn json_lines(program: &Process) -> Vec<Value> {
    let lines = program.stderr();
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The lines about an event.
pub(super) fn of_event(program: &Process, event: &str) -> Vec<Value> {
    json_lines(program).into_iter().filter(|line| line["event"] == event).collect()
}

/// Fails if a line contains something private.
fn assert_nothing_private(lines: &[Value]) {
    for line in lines {
        let text = line.to_string();
        assert!(PRIVATE.iter().all(|private| !text.contains(private)), "{text}");
    }
}

#[test]
fn each_outcome_is_logged_with_its_place_in_the_trace_and_no_line_has_what_the_request_asks_for() {
    kit::run(async |ctx| {
        let otlp = Otlp::start();
        let mut env = to(&otlp);
        env.extend([
            ("UNLOCKER__RETRY__MAX_ATTEMPTS", "1".to_owned()),
            ("UNLOCKER__PAUSE__PROBE_DELAY", "100ms".to_owned()),
        ]);
        let world = world(ctx, &env, |call| match call.n {
            1 => Answer::json(400, r#"{"error":"answer-4715"}"#),
            2 => Answer::json(503, r#"{"error":"answer-4715"}"#),
            3 => Answer::json(401, r#"{"error":"answer-4715"}"#),
            4 => Answer::json(200, r#"{"error":"answer-4715"}"#),
            _ => Answer::unlocked(),
        })
        .await;
        let rows = [
            (REQUEST, "refused", "http_400", Some(400), "m-refused", private_body()),
            (REQUEST, "abandoned", "http_503", Some(503), "m-abandoned", private_body()),
            // 401 first, then, as a probe, an answer that is not true.
            (REQUEST, "refused", "not_true", Some(200), "m-paused", private_body()),
            (
                REQUEST,
                "invalid",
                "malformed",
                None,
                "m-invalid",
                private_body().replace("\"note\"", "body-4714"),
            ),
            (UNDELIVERABLE, "abandoned", "undeliverable", None, "m-given-up", private_body()),
            (REQUEST, "unlocked", "", Some(200), "m-unlocked", private_body()),
        ];
        for (queue, status, _, _, message_id, body) in &rows {
            let properties = id(message_id).with_reply_to("body-4714".into()).with_headers(traced());
            match *queue {
                REQUEST => world.publish(properties, body).await,
                queue => world.amqp.publish("", queue, properties, body.as_bytes()).await,
            }
            let outcome = world.outcome().await;
            assert_eq!(outcome["status"], *status, "{outcome}");
        }
        discard_all(&world).await;
        assert_eq!(world.outcome().await["status"], "discarded");
        world.stop().await;

        let spans = otlp.spans();
        let lines = json_lines(&world.worker);
        assert_nothing_private(&lines);
        for line in &lines {
            let is_own =
                line["target"].as_str().is_some_and(|target| target.starts_with("trackfinity_unlocker"));
            let event = is_own.then_some("event");
            for field in ["timestamp", "level", "message"].into_iter().chain(event) {
                assert!(line[field].is_string(), "{field} in {line}");
            }
        }
        let finished = of_event(&world.worker, "request_finished");
        assert_eq!(finished.len(), rows.len(), "{finished:#?}");
        for ((_, status, reason, http_status, message_id, _), line) in rows.iter().zip(&finished) {
            let text = |field: &str| line[field].as_str().unwrap_or_default();
            assert_eq!(
                (text("level"), text("request_id"), text("status"), text("reason"), text("trace_id")),
                ("INFO", *message_id, *status, *reason, TRACE_ID),
                "{line}"
            );
            assert_eq!(line["http_status"].as_u64(), *http_status, "{line}");
            let span = spans.iter().rfind(|span| span.span_id == text("span_id"));
            let of_span = span.and_then(|span| span.text("messaging.message.id"));
            assert_eq!(of_span, Some(*message_id), "the span of the whole processing");
        }
        let retry = of_event(&world.worker, "retry_scheduled").remove(0);
        assert_eq!(
            (&retry["request_id"], &retry["status"], &retry["reason"], &retry["http_status"]),
            (&"m-paused".into(), &"retry".into(), &"http_401".into(), &401.into())
        );
    });
}

/// Discards all dead letters, by two commands whose logs and audit log must be clean, too.
async fn discard_all(world: &World) {
    let discard = async |arguments: &[&str]| {
        let program = unlocker(world.ctx.amqp_url(), "http://127.0.0.1:1").args(["dead-letters", "discard"]);
        let command = world.ctx.start(&program.args(["--actor", "tester", "--json"]).args(arguments));
        assert!(command.wait_exit(SOON).await.success(), "{:?}", command.stderr());
        assert_nothing_private(&json_lines(&command));
        command
            .stdout()
            .first()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
            .expect("a line")
    };
    let plan = discard(&["--id", "m-refused", "--note", "gone"]).await;
    discard(&["--confirm", plan["digest"].as_str().expect("a digest")]).await;
}

#[test]
fn debug_lines_about_a_request_name_its_trace() {
    kit::run(async |ctx| {
        let world = world(ctx, &[("RUST_LOG", "debug".to_owned())], two_503s).await;
        world.publish(id("m-1").with_reply_to("ignored".into()).with_headers(traced()), private_body()).await;
        assert_eq!(world.outcome().await["attempts"], 3);
        world.stop().await;
        let lines = json_lines(&world.worker);
        let of_it: Vec<_> = lines.iter().filter(|line| line["request_id"] == "m-1").collect();
        assert_eq!(of_it.len(), 2 + 1 + 1, "two retries, the outcome and the reply_to: {of_it:#?}");
        for line in &of_it {
            assert_eq!(line["trace_id"].as_str(), Some(TRACE_ID), "{line}");
            assert_eq!(line["span_id"].as_str().map(str::len), Some(16), "{line}");
        }
        let ours = lines.into_iter().filter(|line| {
            line["target"].as_str().is_some_and(|target| target.starts_with("trackfinity_unlocker"))
        });
        assert_nothing_private(&ours.collect::<Vec<_>>());
    });
}

#[test]
fn a_broker_that_is_down_causes_one_line_a_minute() {
    kit::run(async |ctx| {
        let broker = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("amqp://guest:guest@{}/%2f", broker.local_addr().expect("an address"));
        let worker = ctx.start(&unlocker(&url, "http://127.0.0.1:1").arg("run"));
        for _ in 0..6 {
            // Closes the connection at once.
            drop(tokio::time::timeout(SOON, broker.accept()).await.expect("a try").expect("a connection"));
        }
        let warnings = of_event(&worker, "not_consuming");
        // The system reports the closed connection in two ways, depending on when it sees it.
        let different: BTreeSet<_> = warnings.iter().map(|line| line["message"].as_str()).collect();
        assert!((1..=2).contains(&different.len()), "{warnings:#?}");
        assert_eq!(warnings.len(), different.len(), "a line was repeated: {warnings:#?}");
        assert!(warnings.iter().all(|line| line["left_out"] == 0 && line["next_try_in_ms"].is_u64()));
    });
}

#[test]
fn a_reply_to_that_is_ignored_is_logged_once_a_minute() {
    kit::run(async |ctx| {
        let world = world(ctx, &[], |_| Answer::unlocked()).await;
        let ignored = |n: usize| id(&n.to_string()).with_reply_to("somewhere".into());
        let all = (0..50).map(|n| (ignored(n), br#"{"customer_id":1}"#.to_vec()));
        world.amqp.publish_all(EXCHANGE, REQUEST, all).await;
        world.outcomes.wait_count(50, SOON).await;
        world.stop().await;
        assert_eq!(of_event(&world.worker, "reply_ignored").len(), 1);
    });
}

#[test]
fn a_mistake_in_rust_log_is_named_and_silences_nothing() {
    kit::run(async |ctx| {
        for (rust_log, directive) in
            [("infoo", "infoo"), ("error,trackfinity_unlocker=trase", "trackfinity_unlocker=trase")]
        {
            let program = unlocker(ctx.amqp_url(), "http://127.0.0.1:1").arg("run").env("RUST_LOG", rust_log);
            let worker = ctx.start(&program);
            worker.wait_for_line(|line| line.contains(r#""event":"consuming""#), SOON).await;
            let warnings = of_event(&worker, "rust_log");
            assert_eq!(warnings.len(), 1, "{warnings:#?}");
            assert_eq!(
                (&warnings[0]["level"], &warnings[0]["directive"]),
                (&"WARN".into(), &directive.into())
            );
        }
    });
}

/// A worker whose stderr is never read; it is killed with the test.
struct Unread(Child);

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_reader_of_stderr_that_is_stuck_stops_no_request() {
    // A pipe holds 64 KiB, and each request has a line of 200 bytes.
    const COUNT: usize = 3_000;
    kit::run(async |ctx| {
        let world = world(ctx, &[], |_| Answer::unlocked()).await;
        world.worker.kill9();
        let worker = Command::new(env!("CARGO_BIN_EXE_unlocker"))
            .arg("run")
            .env("UNLOCKER__BROKER__URL", world.ctx.amqp_url())
            .env("UNLOCKER__TRACKFINITY__BASE_URL", world.trackfinity.url())
            .env("UNLOCKER__TRACKFINITY__API_KEY", "key")
            .env("UNLOCKER__TRACKFINITY__API_USERNAME", "user")
            .env("UNLOCKER__OPS__LISTEN", "")
            .stderr(Stdio::piped())
            .spawn();
        let _worker = Unread(worker.expect("it starts"));
        world.amqp.publish_all(EXCHANGE, REQUEST, requests(COUNT)).await;
        world.outcomes.wait_count(COUNT, SOON).await;
    });
}

#[test]
fn the_documents_list_every_event_and_no_other() {
    let sources = sources();
    let logged: BTreeSet<_> =
        sources.split("event = \"").skip(1).filter_map(|after| after.split('"').next()).collect();
    let text = document("docs/logs.md");
    let (_, section) = text.split_once("\n## Events\n").expect("the events");
    let (table, _) = section.split_once("\n## ").expect("a section behind them");
    let cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let listed: BTreeSet<_> = cells.flat_map(|cell| cell.trim_matches('`').split("`, `")).collect();
    assert!(logged.len() > 20, "{logged:?}");
    assert_eq!(listed, logged);
}

#[test]
fn the_runbook_quotes_what_the_program_says() {
    let (sources, runbook) = (sources(), document("docs/runbook.md"));
    for quoted in [
        "not consuming: ",
        "calls are paused: ",
        "a publish failed",
        "RabbitMQ has not confirmed a publish",
        "an outcome is given up",
        "a request could not be settled",
        "RabbitMQ cancelled the consumer",
        "a task panicked",
        "AMQP properties are not UTF-8",
        "RabbitMQ blocks publishing",
        "RabbitMQ does not confirm them",
        "no queue receives",
        "refused the message",
        "RabbitMQ closed the channel",
        "the connection is lost",
        "publish_failed",
        "publish_unconfirmed",
        "topology_wrong",
        "request_finished",
    ] {
        assert!(runbook.contains(quoted), "not in the runbook: {quoted}");
        assert!(sources.contains(quoted), "not in src: {quoted}");
    }
}

fn document(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of all files in src.
fn sources() -> String {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            match entry.is_dir() {
                true => folders.push(entry),
                false => text.push_str(&fs::read_to_string(&entry).expect("a source")),
            }
        }
    }
    text
}
