//! Programs under test, and what ends them.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kit::{NodeOptions, Program, RabbitNode, Signal, eventually};

const SOON: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").args(["-c", script])
}

#[tokio::test]
async fn both_outputs_are_kept_by_line() {
    let process = shell("echo one; echo $GREETING >&2; printf last; exit 3").env("GREETING", "two").start();
    assert_eq!(process.wait_for_line(|line| line.contains("tw"), SOON).await, "two");
    assert_eq!(process.wait_exit(SOON).await.code(), Some(3));
    assert_eq!((process.stdout(), process.stderr()), (vec!["one".into(), "last".into()], vec!["two".into()]));
}

#[tokio::test]
async fn signals_reach_the_program() {
    let process = shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done").start();
    process.wait_for_line(|line| line == "ready", SOON).await;
    process.stop();
    eventually("it is stopped", SOON, async || state(process.pid()) == "T").await;
    process.cont();
    process.signal(Signal::TERM);
    assert!(process.wait_exit(SOON).await.success());
    assert!(process.stdout().contains(&"bye".into()));
}

#[tokio::test]
async fn a_killed_program_is_gone_and_so_is_a_dropped_one() {
    let process = shell("exec sleep 1000").start();
    process.kill9();
    assert_eq!(process.wait_exit(SOON).await.signal(), Some(9));
    let process = shell("exec sleep 1000").start();
    let pid = process.pid();
    drop(process);
    assert!(!runs(pid));
}

#[tokio::test]
async fn what_a_killed_program_has_started_is_gone_too() {
    let process = shell("sleep 1000 & echo $!; wait").start();
    let child = process.wait_for_line(|_| true, SOON).await.parse().expect("a pid");
    process.kill9();
    eventually("its child is gone", SOON, async || !runs(child)).await;
}

#[tokio::test]
async fn use_of_cpu_and_memory_is_measured() {
    let process = shell("while :; do :; done").start();
    eventually("it used 50 ms", SOON, async || process.cpu_time() > Duration::from_millis(50)).await;
    assert!((100_000..100_000_000).contains(&process.rss()), "{}", process.rss());
}

#[tokio::test]
#[should_panic(expected = "ended without the line")]
async fn waiting_for_a_line_ends_with_the_program() {
    shell("echo other").start().wait_for_line(|line| line == "this", SOON).await;
}

/// Not a test: what `a_test_process_killed_by_force_takes_everything_along` starts and kills.
#[tokio::test]
#[ignore = "started by another test"]
async fn holds_a_node_and_a_program() {
    let node = RabbitNode::start_own(NodeOptions::default()).await;
    let process = shell("exec sleep 1000").start();
    println!("\nholds {} {}", node.address().1, process.pid());
    std::future::pending().await
}

#[tokio::test]
async fn a_test_process_killed_by_force_takes_everything_along() {
    let mut child = Command::new(std::env::current_exe().expect("this test's binary"))
        .args(["--exact", "holds_a_node_and_a_program", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the same binary starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line =
        lines.map_while(Result::ok).find(|line| line.starts_with("holds ")).expect("it says what it holds");
    let mut words = line.split(' ').skip(1).map(|word| word.parse::<u32>().expect("a number"));
    let (port, pid) = (words.next().unwrap() as u16, words.next().unwrap());
    assert!(runs(pid));
    let leftovers = format!("kit-rabbitmq-{}-", child.id());

    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    eventually("the program is gone", SOON, async || !runs(pid)).await;
    eventually("the node is gone", SOON, async || std::net::TcpStream::connect(("127.0.0.1", port)).is_err())
        .await;
    eventually("its processes and files are gone", SOON, async || {
        let directory = std::fs::read_dir(std::env::temp_dir()).expect("a directory");
        let file = directory
            .flatten()
            .map(|entry| entry.file_name())
            .find(|name| name.to_string_lossy().contains(&leftovers));
        match file {
            Some(name) => Err(format!("{name:?}")),
            None => Ok(()),
        }
    })
    .await;
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && state(pid) != "Z"
}

fn state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().next().unwrap_or("").to_owned()
}
