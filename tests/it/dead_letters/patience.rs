//! Slow readers, alarms, and others who browse meanwhile.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
};

use kit::NodeOptions;
use serde_json::json;

use super::*;
use crate::world::{REQUESTS, RESULTS};

/// A command whose output no one reads, as behind `less`. It is killed at the end of the test.
struct Unread(Child);

impl Unread {
    fn start(ctx: &Context, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unlocker"));
        command.env("UNLOCKER__BROKER__URL", ctx.amqp_url()).arg("dead-letters").args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().expect("a process"))
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("a process").is_none()
    }

    /// Sends SIGTERM.
    fn terminate(&self) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill");
        assert!(sent.success());
    }

    /// Reads all output. Returns the number of lines and whether the command succeeded.
    fn read(mut self) -> (usize, bool) {
        let mut text = String::new();
        self.0.stdout.take().expect("stdout").read_to_string(&mut text).expect("text");
        (text.lines().count(), self.0.wait().expect("a status").success())
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn an_export_that_no_one_reads_keeps_no_dead_letter() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 1000).await;
        let mut export = Unread::start(&ctx, &["export"]);
        // It has consumed when fewer are ready, and requeued when all are ready again.
        kit::eventually("it has begun", SOON, async || amqp.ready_count(DEAD).await < 1000).await;
        kit::eventually("all are back", SOON, async || amqp.ready_count(DEAD).await == 1000).await;
        assert!(export.is_running());
        let output = run_command(&ctx, &["summary", "--json"]).await;
        assert_eq!((output.code, &output.json()[0]["count"]), (Some(0), &json!(1000)), "{}", output.text());
        assert!(export.is_running());
        assert_eq!(tokio::task::spawn_blocking(move || export.read()).await.expect("read"), (1000, true));
    });
}

#[test]
fn a_discard_whose_output_no_one_reads_continues_to_its_end() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 1500).await;
        let outcomes = amqp.consume_into(RESULTS, "unlock.discarded").await;
        let plan = plan(&ctx, &["discard", "--note", "over"]).await;
        let digest = plan["digest"].as_str().expect("a digest");
        let mut discard = Unread::start(&ctx, &["discard", "--confirm", digest, "--json"]);
        outcomes.wait_count(1500, SOON).await;
        kit::eventually("none is left", SOON, async || amqp.ready_count(DEAD).await == 0).await;
        kit::eventually("the lock is free", SOON, async || {
            run_command(&ctx, &["summary"]).await.code == Some(0)
        })
        .await;
        assert!(discard.is_running());
        assert_eq!(tokio::task::spawn_blocking(move || discard.read()).await.expect("read"), (1501, true));
    });
}

#[test]
fn the_second_signal_ends_a_change_whose_output_no_one_reads() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 1500).await;
        let plan = plan(&ctx, &["discard", "--note", "over"]).await;
        let digest = plan["digest"].as_str().expect("a digest");
        let mut discard = Unread::start(&ctx, &["discard", "--confirm", digest, "--json"]);
        kit::eventually("it is done", SOON, async || {
            amqp.ready_count(DEAD).await == 0 && run_command(&ctx, &["summary"]).await.code == Some(0)
        })
        .await;
        discard.terminate();
        // Two signals that come at once may count as one.
        kit::eventually("it has ended", SOON, async || {
            let is_running = discard.is_running();
            if is_running {
                discard.terminate();
            }
            !is_running
        })
        .await;
    });
}

#[test]
fn during_a_replay_others_see_the_remaining_dead_letters_and_who_holds_the_rest() {
    kit::run(async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 20).await;
        let plan = plan(&ctx, &["replay"]).await;
        let digest = plan["digest"].as_str().expect("a digest");
        // No worker runs, so the replay waits for the first outcome. At this rate five are held.
        let replay = ctx.start(
            &Program::new(env!("CARGO_BIN_EXE_unlocker"))
                .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
                .args(["dead-letters", "replay", "--confirm", digest, "--rate", "1/m", "--actor", "alice"]),
        );
        kit::eventually("the first is replayed", SOON, async || amqp.ready_count(REQUESTS).await == 1).await;
        kit::eventually("the others can be seen", SOON, async || amqp.ready_count(DEAD).await == 15).await;
        for args in [&["summary", "--json"][..], &["list", "--json"]] {
            let output = run_command(&ctx, args).await;
            assert_eq!(output.code, Some(1), "{}", output.text());
            let text = output.text();
            assert!(text.contains("saw 15 of 19; alice by command line (replay, since 20"), "{text}");
            assert!(text.contains("has taken 4 of them"), "{text}");
        }
        assert_eq!(run_command(&ctx, &["show", "r-12", "--json"]).await.code, Some(0));
        assert_eq!(run_command(&ctx, &["export"]).await.stdout.len(), 15);
        let output = run_command(&ctx, &["discard", "--note", "over", "--id", "r-12", "--json"]).await;
        let digest = output.json()[0]["digest"].as_str().expect("a digest").to_owned();
        let second = run_command(&ctx, &["discard", "--confirm", &digest]).await;
        assert!(second.code == Some(1) && second.text().contains("locked by alice"), "{}", second.text());
        assert!(replay.try_exit().is_none());
        replay.signal(kit::Signal::INT);
        let stopped = ended(&replay).await;
        assert_eq!(stopped.code, Some(1));
        let text = stopped.text();
        let stopped = "stopped: on request; 1 request replayed: 1 without an outcome yet; 19 are untouched";
        assert!(text.contains(stopped), "{text}");
        assert!(!text.contains("failed again"), "{text}");
        kit::eventually("the others are back", SOON, async || amqp.ready_count(DEAD).await == 19).await;
        assert_eq!(run_command(&ctx, &["summary", "--json"]).await.json()[0]["count"], 19);
    });
}

#[test]
fn during_a_memory_alarm_a_change_and_a_publish_end_at_the_first_signal() {
    kit::run_on_own_node_within(SOON * 4, NodeOptions::default(), async |ctx| {
        declare(&ctx).await;
        let amqp = ctx.amqp().await;
        publish_dead_letters(&amqp, 5).await;
        let replay_plan = plan(&ctx, &["replay"]).await;
        let discard_plan = plan(&ctx, &["discard", "--note", "over"]).await;
        let digest = |plan: &Value| plan["digest"].as_str().expect("a digest").to_owned();
        ctx.node().memory_alarm(true).await;
        for args in [
            [
                "replay",
                "--confirm",
                &digest(&replay_plan),
                "--keep-going",
                "--rate",
                "100/s",
                "--wait",
                "1ms",
            ],
            ["discard", "--confirm", &digest(&discard_plan), "--json", "--until", "1h", "--since", "10000h"],
        ] {
            let change = ctx.start(&command(&ctx, &args));
            kit::eventually("it holds dead letters", SOON, async || amqp.ready_count(DEAD).await == 0).await;
            change.signal(kit::Signal::TERM);
            let output = ended(&change).await;
            assert_eq!(output.code, Some(1), "{}", output.text());
            kit::eventually("all are back", SOON, async || amqp.ready_count(DEAD).await == 5).await;
        }
        let lines = std::env::temp_dir().join(format!("alarm-{}.jsonl", std::process::id()));
        std::fs::write(&lines, "{\"customer_id\":1}\n".repeat(2000)).expect("a file");
        let publish = ctx.start(
            &Program::new(env!("CARGO_BIN_EXE_unlocker"))
                .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
                .args(["publish", "--from", lines.to_str().expect("UTF-8")]),
        );
        publish.wait_for_line(|line| line.contains("short of memory or disk"), SOON).await;
        publish.signal(kit::Signal::INT);
        let output = ended(&publish).await;
        std::fs::remove_file(&lines).expect("removed");
        assert_eq!(output.code, Some(1), "{}", output.text());
        assert!(output.text().contains("not known to be published"), "{}", output.text());
        // Nobody has to stop what waits for one confirm.
        let publish = ctx.start(
            &Program::new(env!("CARGO_BIN_EXE_unlocker"))
                .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
                .args(["publish", "--customer-id", "1", "--wait", "--timeout", "1s"]),
        );
        let output = ended(&publish).await;
        assert_eq!(output.code, Some(1), "{}", output.text());
        assert!(output.text().contains("has not confirmed"), "{}", output.text());
        let output = ended(&ctx.start(&command(&ctx, &["discard", "--note", "over"]))).await;
        assert_eq!(output.code, Some(1), "{}", output.text());
        assert!(output.text().contains("has not confirmed the plan"), "{}", output.text());
        ctx.node().memory_alarm(false).await;
    });
}
