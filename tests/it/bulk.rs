//! `unlocker publish --from`: many requests, and which of them were not taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use kit::{Answer, Context, Process, Program};
use serde_json::json;

use crate::world::{EXCHANGE, REQUEST, REQUESTS, SOON, World, start_worker, text};

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("unlocker-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.0.join("requests.jsonl");
        fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn publish(url: &str, from: &Path) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker"))
        .env("UNLOCKER__BROKER__URL", url)
        .args(["publish", "--from"])
        .arg(from)
}

/// So many valid lines, numbered from 1 by their message ids.
fn requests(count: usize) -> String {
    (1..=count).fold(String::new(), |mut text, line| {
        writeln!(text, r#"{{"customer_id":{line},"message_id":"{line}"}}"#).expect("a line");
        text
    })
}

/// The numbers of the lines of which this was said.
fn said(publish: &Process, what: &str) -> Vec<usize> {
    let number = |line: &String| {
        let (number, said) = line.strip_prefix("line ")?.split_once(": ")?;
        said.starts_with(what).then(|| number.parse().expect("a number"))
    };
    publish.stdout().iter().filter_map(number).collect()
}

fn last_line(publish: &Process) -> String {
    publish.stdout().pop().expect("a line")
}

/// The topology, and nobody who takes requests from it.
async fn declare(ctx: &Context) {
    let worker = start_worker(ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
    worker.signal(kit::Signal::TERM);
    assert!(worker.wait_exit(SOON).await.success());
}

#[test]
fn every_line_is_a_request_or_is_named_with_its_fault() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let scratch = Scratch::new();
        let long = "9".repeat(70_000);
        let file = scratch.file(&format!(
            "{}\n\n{}\r\n{}\nnot json\n{{}}\n{{\"orderid\":{long}}}\n{}",
            r#"{"customer_id":123456789012345678901234567890,"message_id":"one","correlation_id":"c-1"}"#,
            r#"{"subscription_id":"s","message_id":"two","note":{"more":1}}"#,
            r#"{"customer_id":1.5}"#,
            r#"{"orderid":"last"}"#,
        ));
        // From stdin: the other way to give it.
        let program = Program::new("sh")
            .args(["-c", r#"cat "$1" | exec "$0" publish --from -"#, env!("CARGO_BIN_EXE_unlocker")])
            .arg(&file)
            .env("UNLOCKER__BROKER__URL", world.ctx.amqp_url());
        let publish = world.ctx.start(&program);
        assert_eq!(publish.wait_exit(SOON).await.code(), Some(1), "{:?}", publish.stderr());
        let lines = publish.stdout();
        for (line, fault) in lines.iter().zip([
            "line 4: invalid: bad_identifier: customer_id is neither",
            "line 5: invalid: malformed: ",
            "line 6: invalid: no_identifier: ",
            "line 7: invalid: too_large: ",
        ]) {
            assert!(line.starts_with(fault), "{line}");
        }
        assert!(lines[4].starts_with("published 3 of 7 requests in ") && lines[4].ends_with(", 4 invalid"));
        assert_eq!(lines.len(), 5, "{lines:#?}");
        let outcomes = world.outcomes(3).await;
        assert_eq!(outcomes["one"]["request"], json!({"customer_id": "123456789012345678901234567890"}));
        assert_eq!(outcomes["two"]["request"], json!({"subscription_id": "s"}));
        let given = outcomes.keys().find(|id| id.len() == 36).expect("an id was given");
        assert_eq!(outcomes[given]["request"], json!({"orderid": "last"}));
        let correlated =
            world.outcomes.all().into_iter().find(|outcome| outcome.json()["request_id"] == "one");
        let properties = correlated.expect("the outcome").properties;
        assert_eq!(properties.correlation_id().as_ref().map(|id| id.as_str()), Some("c-1"));
    });
}

/// A program that reads requests from a pipe, and the pipe's other end.
async fn publish_from_pipe(ctx: &Context, url: &str, scratch: &Scratch) -> (Process, fs::File) {
    let pipe = scratch.0.join("pipe");
    let made = Program::new("mkfifo").arg(&pipe).start();
    assert!(made.wait_exit(SOON).await.success());
    let publish = ctx.start(&publish(url, &pipe));
    let opened = tokio::task::spawn_blocking(move || fs::File::options().write(true).open(pipe));
    (publish, opened.await.expect("opens").expect("opens"))
}

#[test]
fn requests_are_published_as_they_come_and_a_signal_ends_it_with_a_count() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let scratch = Scratch::new();
        let (publish, mut writer) = publish_from_pipe(&world.ctx, world.ctx.amqp_url(), &scratch).await;
        for count in 1..=3 {
            writeln!(writer, r#"{{"customer_id":{count}}}"#).expect("written");
            world.outcomes.wait_count(1, SOON).await;
        }
        publish.wait_for_line(|line| line.starts_with("3 confirmed, "), SOON).await;
        publish.signal(kit::Signal::INT);
        assert_eq!(publish.wait_exit(SOON).await.code(), Some(1));
        assert!(last_line(&publish).starts_with("published 3 of 3 requests in "));
        let stderr = publish.stderr().join("\n");
        assert!(stderr.contains("stopped after line 3: by a signal"), "{stderr}");
        drop(writer);
    });
}

#[test]
fn a_terminal_shows_how_far_it_is() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let scratch = Scratch::new();
        let file = scratch.file(&requests(5000));
        // script gives the program a terminal.
        let command = format!("{} publish --from {}", env!("CARGO_BIN_EXE_unlocker"), file.display());
        let program = Program::new("script")
            .args(["-qec", &command, "/dev/null"])
            .env("TERM", "xterm")
            .env("UNLOCKER__BROKER__URL", ctx.amqp_url());
        let publish = ctx.start(&program);
        assert_eq!(publish.wait_exit(SOON).await.code(), Some(0), "{:?}", publish.stdout());
        let shown = publish.stdout().join("\n");
        assert!(shown.contains(" confirmed, ") && shown.contains("left"), "{shown:?}");
        assert!(shown.contains("published 5000 of 5000 requests in "), "{shown:?}");
        assert_eq!(ctx.amqp().await.ready_count(REQUESTS).await, 5000);
    });
}

#[test]
fn lines_that_no_queue_receives_are_named_and_no_others() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let count = 20_000;
        let scratch = Scratch::new();
        let file = scratch.file(&requests(count));
        let amqp = ctx.amqp().await;
        let publish = ctx.start(&publish(ctx.amqp_url(), &file));
        // The queue comes and goes behind the exchange, so that routed and unrouted ones are in
        // flight side by side.
        let channel = amqp.channel().await;
        let status = loop {
            for bind in [false, true] {
                if bind {
                    let options = lapin::options::QueueBindOptions::default();
                    let bound = channel.queue_bind(
                        REQUESTS.into(),
                        EXCHANGE.into(),
                        REQUEST.into(),
                        options,
                        kit::FieldTable::default(),
                    );
                    bound.await.expect("bound");
                } else {
                    let unbound = channel.queue_unbind(
                        REQUESTS.into(),
                        EXCHANGE.into(),
                        REQUEST.into(),
                        kit::FieldTable::default(),
                    );
                    unbound.await.expect("unbound");
                }
            }
            if let Some(status) = publish.try_exit() {
                break status;
            }
            // Else the broker is busy with nothing but this.
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(status.code(), Some(1));
        publish.wait_exit(SOON).await;
        let unrouted = said(&publish, "unrouted");
        let named: BTreeSet<usize> = unrouted.iter().copied().collect();
        assert_eq!(named.len(), unrouted.len(), "none is named twice");
        let queued = amqp.ready_count(REQUESTS).await as usize;
        let queued = amqp.consume_queue(REQUESTS).await.wait_count(queued, SOON).await;
        let published: BTreeSet<usize> = queued
            .iter()
            .map(|message| message.properties.message_id().as_ref().expect("an id").as_str())
            .map(|id| id.parse().expect("a line"))
            .collect();
        assert!(!named.is_empty() && !published.is_empty(), "{} unrouted", named.len());
        let both: Vec<_> = published.intersection(&named).collect();
        assert!(both.is_empty(), "published, and said to be not: {both:?}");
        assert_eq!(published.len() + named.len(), count);
        let sum = format!("published {} of {count} requests in ", published.len());
        assert!(last_line(&publish).starts_with(&sum), "{}", last_line(&publish));
        let stderr = publish.stderr().join("\n");
        assert!(stderr.contains("no queue is bound to exchange trackfinity.unlock"), "{stderr}");
    });
}

#[test]
fn lines_that_a_full_queue_refuses_are_named() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let limit = json!({"max-length": 100});
        ctx.vhost().management().set_policy("full", "requests$", limit).await;
        let scratch = Scratch::new();
        let file = scratch.file(&requests(5000));
        let amqp = ctx.amqp().await;
        let publish = async || {
            let publish = ctx.start(&publish(ctx.amqp_url(), &file));
            publish.wait_exit(SOON).await;
            publish
        };
        // A policy takes a moment.
        let full = async || !said(&publish().await, "refused").is_empty();
        kit::eventually("the queue is full", SOON, full).await;
        let before = amqp.drain(REQUESTS).await.len();
        assert!(before < 10_000);
        let publish = publish().await;
        assert_eq!(publish.try_exit().and_then(|status| status.code()), Some(1));
        let refused: BTreeSet<_> = said(&publish, "refused").into_iter().collect();
        let published = amqp.drain(REQUESTS).await;
        let ids = published.iter().map(|message| message.json()["customer_id"].as_u64().expect("a number"));
        assert!(ids.into_iter().all(|id| !refused.contains(&(id as usize))));
        assert_eq!(published.len() + refused.len(), 5000);
        assert!(publish.stderr().join("\n").contains("it may be full"));
    });
}

#[test]
fn a_lost_connection_ends_it_with_what_is_not_known() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        for lost_in_flight in [true, false] {
            let (line, url) = ctx.cutter().await;
            let scratch = Scratch::new();
            let (publish, mut writer) = publish_from_pipe(&ctx, &url, &scratch).await;
            writer.write_all(requests(3).as_bytes()).expect("written");
            kit::eventually("three", SOON, async || amqp.ready_count(REQUESTS).await == 3).await;
            publish.wait_for_line(|line| line.starts_with("3 confirmed, "), SOON).await;
            if lost_in_flight {
                line.half_open();
                writer.write_all(requests(7).as_bytes()).expect("written");
                publish.wait_for_line(|line| line.starts_with("3 confirmed, 7 in flight, "), SOON).await;
            }
            line.cut().await;
            assert_eq!(publish.wait_exit(SOON).await.code(), Some(1));
            let sum = last_line(&publish);
            let expected =
                if lost_in_flight { "published 3 of 10 requests" } else { "published 3 of 3 requests" };
            assert!(sum.starts_with(expected), "{sum}");
            assert_eq!(sum.contains("7 not known to be published"), lost_in_flight, "{sum}");
            let stderr = publish.stderr().join("\n");
            let stopped = if lost_in_flight { "stopped after line 10: " } else { "stopped after line 3: " };
            assert!(stderr.contains(stopped), "{stderr}");
            amqp.drain(REQUESTS).await;
        }
    });
}

#[test]
fn without_the_topology_nothing_is_published_and_it_says_what_to_do() {
    kit::run(async |ctx| {
        let scratch = Scratch::new();
        let file = scratch.file(&requests(10));
        let publish_it = ctx.start(&publish(ctx.amqp_url(), &file));
        assert_eq!(publish_it.wait_exit(SOON).await.code(), Some(1));
        let stderr = publish_it.stderr().join("\n");
        assert!(stderr.contains("`unlocker run` declares it"), "{stderr}");
        let missing = ctx.start(&publish(ctx.amqp_url(), Path::new("/no/such/file")));
        assert_eq!(missing.wait_exit(SOON).await.code(), Some(1));
        assert!(missing.stderr().join("\n").contains("/no/such/file cannot be read"));
        let both = ctx.start(&publish(ctx.amqp_url(), &file).args(["--customer-id", "1"]));
        assert_eq!(both.wait_exit(SOON).await.code(), Some(2));
    });
}

#[test]
fn many_lines_give_one_outcome_each() {
    kit::run(async |ctx| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        let scratch = Scratch::new();
        let publish = world.ctx.start(&publish(world.ctx.amqp_url(), &scratch.file(&requests(2000))));
        assert_eq!(publish.wait_exit(SOON).await.code(), Some(0));
        assert!(last_line(&publish).starts_with("published 2000 of 2000 requests in "));
        let outcomes: BTreeMap<_, _> = world.outcomes(2000).await;
        let asked: BTreeSet<_> =
            outcomes.iter().map(|(id, outcome)| (id.clone(), text(&outcome["status"]))).collect();
        assert_eq!(asked, (1..=2000).map(|line| (line.to_string(), "unlocked".to_owned())).collect());
    });
}
