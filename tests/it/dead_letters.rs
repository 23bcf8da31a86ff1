//! `unlocker dead-letters`: browsing changes nothing, changes need a plan, and nothing is lost.

mod browse;
mod change;
mod correction;
mod interrupted;
mod order;
mod patience;
mod unreadable;

use std::time::Duration;

use kit::{AMQPValue, Amqp, Context, FieldTable, Process, Program, Properties};
use serde_json::Value;

use crate::world::{DEAD, SOON, id, start_worker};

/// The output and the exit code of a command.
struct CommandOutput {
    code: Option<i32>,
    stdout: Vec<String>,
    stderr: Vec<String>,
}

impl CommandOutput {
    /// The lines of stdout as JSON.
    fn json(&self) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        self.stdout.iter().map(parse).collect()
    }

    fn text(&self) -> String {
        format!("{}\n{}", self.stdout.join("\n"), self.stderr.join("\n"))
    }
}

fn command(ctx: &Context, args: &[&str]) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker"))
        .env("UNLOCKER__BROKER__URL", ctx.amqp_url())
        .arg("dead-letters")
        .args(args)
        .args(["--actor", "tester"])
}

async fn ended(process: &Process) -> CommandOutput {
    let code = process.wait_exit(SOON * 2).await.code();
    CommandOutput { code, stdout: process.stdout(), stderr: process.stderr() }
}

async fn run_command(ctx: &Context, args: &[&str]) -> CommandOutput {
    ended(&ctx.start(&command(ctx, args))).await
}

/// Makes a plan and returns it.
async fn plan(ctx: &Context, args: &[&str]) -> Value {
    let output = run_command(ctx, &[args, &["--json"]].concat()).await;
    assert_eq!(output.code, Some(0), "{}", output.text());
    output.json().remove(0)
}

/// Declares the topology, by a worker that starts and stops.
async fn declare(ctx: &Context) {
    let worker = start_worker(ctx, ctx.amqp_url(), "http://127.0.0.1:1", &[]).await;
    worker.signal(kit::Signal::TERM);
    assert!(worker.wait_exit(SOON).await.success());
}

/// A dead letter as a worker publishes it.
fn dead_letter(n: usize) -> (Properties, Vec<u8>) {
    let mut headers = FieldTable::default();
    let text = |value: String| AMQPValue::LongString(value.into());
    headers.insert("unlocker-status".into(), text("refused".to_owned()));
    headers.insert("unlocker-reason".into(), text(format!("http_{}", 400 + n % 5)));
    headers.insert("unlocker-attempts".into(), AMQPValue::LongLongInt(3));
    headers.insert("unlocker-replays".into(), AMQPValue::LongLongInt(0));
    headers.insert("unlocker-request-id".into(), text(format!("r-{n}")));
    headers.insert("unlocker-first-received-at".into(), text("2026-11-01T08:00:00.000Z".to_owned()));
    headers.insert(
        "unlocker-dead-at".into(),
        text(format!("2026-11-01T{:02}:{:02}:{:02}.000Z", 9 + n / 3600, n / 60 % 60, n % 60)),
    );
    headers.insert("unlocker-original-expiration".into(), text("60000".to_owned()));
    headers.insert("theirs".into(), AMQPValue::ByteArray(vec![0xff, n as u8].into()));
    let properties = id(&format!("r-{n}"))
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_priority(1)
        .with_headers(headers);
    (properties, format!(r#"{{"customer_id":"{n}","note":"ü"}}"#).into_bytes())
}

async fn publish_dead_letters(amqp: &Amqp, count: usize) {
    let dead_letters = (0..count).map(dead_letter);
    amqp.publish_all(DEAD, "", dead_letters).await;
    kit::eventually("the dead letters", SOON, async || amqp.ready_count(DEAD).await as usize == count).await;
}

/// The longest wait of a test while another command runs.
const A_WHILE: Duration = Duration::from_secs(20);
