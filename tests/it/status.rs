//! `unlocker status`: what waits, who consumes, and what is dead-lettered.

use kit::{Answer, Context, Program};
use serde_json::Value;

use crate::world::{SOON, World, id};

fn status(amqp_url: &str) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker")).env("UNLOCKER__BROKER__URL", amqp_url).arg("status")
}

async fn run(ctx: &Context, program: &Program) -> (Option<i32>, Vec<String>, Vec<String>) {
    let process = ctx.start(program);
    let code = process.wait_exit(SOON).await.code();
    (code, process.stdout(), process.stderr())
}

async fn json(ctx: &Context, program: Program) -> (Option<i32>, Value) {
    let (code, stdout, stderr) = run(ctx, &program.arg("--json")).await;
    assert_eq!(stdout.len(), 1, "{stdout:#?} {stderr:#?}");
    (code, serde_json::from_str(&stdout[0]).expect("JSON"))
}

#[test]
fn what_waits_and_what_is_dead_lettered_is_shown() {
    kit::run(async |ctx| {
        let ops = format!("127.0.0.1:{}", kit::free_port());
        let world = World::start_with(ctx, &[("OPS__LISTEN", &ops)], |_| Answer::status(404)).await;
        let url = world.ctx.amqp_url();
        let (code, document) = json(&world.ctx, status(url)).await;
        assert_eq!(code, Some(0), "{document:#}");
        assert_eq!((&document["workers_consuming"], &document["requests_waiting"]), (&1.into(), &0.into()));
        assert_eq!(
            (&document["dead_letters"]["count"], &document["dead_letters"]["oldest"]),
            (&0.into(), &Value::Null)
        );
        assert_eq!(document["retries_waiting"].as_object().expect("tiers").len(), 11);

        // Without a binding proof of its address the first 404 is asked about by a ping, which fails.
        world.trackfinity.answer_with(|_| Answer::status(400));
        for request in ["a", "b"] {
            world.unlock(request).await;
        }
        world.publish(id("c"), b"no JSON").await;
        world.outcomes(3).await;
        world.amqp.publish("trackfinity.unlock.retry", "1024s", id("d"), br#"{"customer_id":1}"#).await;
        let with_ops = || status(url).args(["--ops", &format!("http://{ops}")]);
        let (code, document) = json(&world.ctx, with_ops()).await;
        assert_eq!(code, Some(0), "{document:#}");
        assert_eq!(document["retries_waiting"]["1024s"], 1);
        assert_eq!(document["dead_letters"]["groups"][0]["reason"], "http_400");
        assert_eq!(document["dead_letters"]["groups"][0]["count"], 2);
        assert_eq!(
            (&document["workers"][0]["status"], &document["workers"][0]["paused"]),
            (&"ready".into(), &Value::Null)
        );
        let (code, lines, _) = run(&world.ctx, &with_ops()).await;
        assert_eq!(code, Some(0), "{lines:#?}");
        for (label, value) in [
            ("workers consuming", "1"),
            ("paused", &format!("no, ready  [http://{ops}]")),
            ("requests waiting", "0"),
            ("waiting for a retry", "1: 1 in 1024s"),
            ("given up by RabbitMQ", "0"),
        ] {
            assert!(lines.contains(&format!("{label:<22}{value}")), "{label}: {lines:#?}");
        }
        assert!(
            lines.iter().any(|line| line.starts_with("dead letters          3, the oldest ")),
            "{lines:#?}"
        );
        assert!(lines.iter().any(|line| line.trim() == "2  refused  http_400"), "{lines:#?}");
    });
}

#[test]
fn a_pause_is_explained_and_a_silent_worker_is_named() {
    kit::run(async |ctx| {
        let ops = format!("127.0.0.1:{}", kit::free_port());
        let settings =
            [("OPS__LISTEN", ops.as_str()), ("PAUSE__PROBE_DELAY", "1h"), ("PAUSE__PROBE_MAX_DELAY", "1h")];
        let world = World::start_with(ctx, &settings, |_| Answer::status(401)).await;
        world.unlock("191").await;
        world.worker.wait_for_line(|line| line.contains("paused"), SOON).await;
        let silent = format!("http://127.0.0.1:{}", kit::free_port());
        let program =
            status(world.ctx.amqp_url()).args(["--ops", &format!("http://{ops}/readyz"), "--ops", &silent]);
        let paused = async || {
            let (code, lines, stderr) = run(&world.ctx, &program).await;
            assert_eq!(code, Some(1), "{lines:#?}");
            assert!(
                stderr.iter().any(|line| line.contains(&format!("the worker at {silent}"))),
                "{stderr:#?}"
            );
            let is_explained = |line: &String| {
                line.starts_with("paused                yes: ") && line.contains("401") && line.contains(&ops)
            };
            lines.iter().any(is_explained) && lines.contains(&"workers consuming     0".to_owned())
        };
        kit::eventually("the pause is shown", SOON, paused).await;
    });
}

#[test]
fn a_rabbitmq_without_the_topology_or_out_of_reach_is_reported() {
    kit::run(async |ctx| {
        let (code, lines, stderr) = run(&ctx, &status(ctx.amqp_url())).await;
        assert_eq!(code, Some(1), "{lines:#?}");
        assert!(lines.contains(&"requests waiting      unknown".to_owned()), "{lines:#?}");
        assert_eq!(stderr.len(), 1, "{stderr:#?}");
        let line = "not seen: no queue of the prefix trackfinity.unlock exists: correct topology.prefix";
        assert!(stderr[0].contains(line), "{stderr:#?}");
        ctx.amqp().await.declare_queue("trackfinity.unlock.requests", kit::FieldTable::default()).await;
        let (_, lines, stderr) = run(&ctx, &status(ctx.amqp_url())).await;
        assert!(lines.contains(&"requests waiting      0".to_owned()), "{lines:#?}");
        let line = "these queues do not exist: trackfinity.unlock.retry.1s, ";
        assert!(stderr.len() == 1 && stderr[0].contains(line), "{stderr:#?}");
        let nowhere = format!("amqp://127.0.0.1:{}", kit::free_port());
        assert_eq!(run(&ctx, &status(&nowhere)).await.0, Some(69));
    });
}
