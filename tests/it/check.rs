//! `unlocker check`: its JSON, its roles, the line that grants rights, and what only an incident would show.

use std::{fs, path::PathBuf};

use kit::{Answer, Context, NodeOptions, Program, Trackfinity};
use serde_json::Value;

use crate::world::{SOON, start_worker, text, unlocker};

fn bare(amqp_url: &str) -> Program {
    Program::new(env!("CARGO_BIN_EXE_unlocker")).env("UNLOCKER__BROKER__URL", amqp_url)
}

/// Runs `check --json` and returns its exit code and its document.
async fn check(ctx: &Context, program: Program, args: &[&str]) -> (Option<i32>, Value) {
    let check = ctx.start(&program.args(["check", "--json"]).args(args));
    let code = check.wait_exit(SOON).await.code();
    let printed = check.stdout();
    assert_eq!(printed.len(), 1, "one document: {printed:#?} {:#?}", check.stderr());
    (code, serde_json::from_str(&printed[0]).expect("JSON"))
}

fn faults(document: &Value) -> Vec<&Value> {
    document["checks"].as_array().expect("checks").iter().filter(|check| check["ok"] == false).collect()
}

fn find<'a>(document: &'a Value, name: &str) -> &'a Value {
    let checks = document["checks"].as_array().expect("checks");
    checks
        .iter()
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("no check {name}: {document:#}"))
}

/// The words that a shell makes of a line.
async fn shell_words(line: &str) -> Vec<String> {
    let output =
        tokio::process::Command::new("bash").arg("-c").arg(format!("printf '%s\\n' {line}")).output();
    let output = output.await.expect("bash").stdout;
    String::from_utf8(output).expect("UTF-8").lines().map(str::to_owned).collect()
}

#[test]
fn the_line_for_missing_rights_grants_them_in_each_role() {
    kit::run_on_own_node(NodeOptions::default(), async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let management = ctx.vhost().management();
        let declared = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        for (n, (args, settings)) in [
            (&["--role", "worker"][..], &[][..]),
            (&["--role", "worker"], &[("BROKER__DECLARE", "false")]),
            (&["--role", "gateway"], &[]),
            (&["--role", "console"], &[]),
        ]
        .into_iter()
        .enumerate()
        {
            let user = format!("user{n}-{}", ctx.vhost().name());
            management.create_user(&user, "p", "").await;
            let run = async || {
                let url = ctx.vhost().amqp_url_as(&user, "p");
                let program = match args[1] {
                    "worker" => unlocker(&url, &trackfinity.url()),
                    _ => bare(&url),
                };
                let with = |program: Program, (name, value): &(&str, &str)| {
                    program.env(format!("UNLOCKER__{name}"), value)
                };
                check(&ctx, settings.iter().fold(program, with), args).await
            };
            let paste = async |document: &Value| {
                let faults = faults(document);
                assert_eq!(faults.len(), 1, "{args:?} {settings:?}: {document:#}");
                let remedy = text(&faults[0]["remedy"]);
                let words = shell_words(remedy.lines().next().expect("a line")).await;
                assert_eq!(words[0], "rabbitmqctl", "{remedy}");
                let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
                ctx.node().rabbitmqctl(&args).await.unwrap_or_else(|error| panic!("{error}"));
            };
            // Without any permission RabbitMQ does not even let the user connect.
            let (code, document) = run().await;
            assert_eq!(code, Some(1), "{document:#}");
            paste(&document).await;
            let (code, document) = run().await;
            assert_eq!(code, Some(0), "{args:?} {settings:?}: {document:#}");
            // With too few.
            management.set_permissions(&user, "^nothing$", "^nothing$", "^nothing$").await;
            let (code, document) = run().await;
            assert_eq!(code, Some(1), "{document:#}");
            assert_eq!(faults(&document)[0]["name"], "rights in RabbitMQ");
            paste(&document).await;
            let (code, document) = run().await;
            assert_eq!(code, Some(0), "{args:?} {settings:?}: {document:#}");
            assert_eq!(document["verdict"]["ready"], true);
            management.delete_user(&user).await;
        }
        drop(declared);
    });
}

#[test]
fn the_document_has_the_settings_the_checks_and_a_verdict() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::status(503));
        let (code, document) = check(&ctx, unlocker(ctx.amqp_url(), &trackfinity.url()), &[]).await;
        assert_eq!(code, Some(1));
        assert_eq!(document["role"], "worker");
        let settings = document["settings"].as_array().expect("settings");
        let key = settings.iter().find(|setting| setting["key"] == "trackfinity.api_key").expect("the key");
        assert_eq!(
            (&key["value"], &key["source"]),
            (&"***".into(), &"UNLOCKER__TRACKFINITY__API_KEY".into())
        );
        let faults = faults(&document);
        assert_eq!(faults.len(), 1, "{document:#}");
        assert_eq!(
            (&faults[0]["name"], &faults[0]["remedy"]),
            (&"Trackfinity".into(), &"try again later".into())
        );
        assert_eq!(
            (&document["verdict"]["ready"], &document["verdict"]["faults"]),
            (&false.into(), &1.into())
        );
        assert!(text(&document["verdict"]["text"]).starts_with("not ready: 1 fault in "));
        assert!(!document.to_string().contains("the-key"));
    });
}

#[test]
fn invalid_settings_and_an_unreachable_rabbitmq_are_documents_too() {
    kit::run(async |ctx| {
        let broken = unlocker(ctx.amqp_url(), "ftp://example.com").env("UNLOCKER__WORKER__CONCURRENCY", "0");
        let (code, document) = check(&ctx, broken, &[]).await;
        assert_eq!((code, faults(&document).len()), (Some(78), 2), "{document:#}");
        assert!(find(&document, "worker.concurrency")["remedy"].is_string());
        let nowhere = format!("amqp://127.0.0.1:{}", kit::free_port());
        let (code, document) = check(&ctx, bare(&nowhere), &["--role", "gateway"]).await;
        assert_eq!(code, Some(69), "{document:#}");
        // One of two answers: the fault would show when the first one fails.
        let both = format!("{},{nowhere}", ctx.amqp_url());
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let (code, document) = check(&ctx, unlocker(&both, &trackfinity.url()), &[]).await;
        assert_eq!((code, faults(&document).len()), (Some(1), 1), "{document:#}");
    });
}

#[test]
fn only_a_worker_needs_trackfinity() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        for role in ["gateway", "console"] {
            let (code, document) = check(&ctx, bare(ctx.amqp_url()), &["--role", role]).await;
            assert_eq!(code, Some(0), "{role}: {document:#}");
            assert!(!document.to_string().contains("rackfinity.base_url"), "{document:#}");
        }
        assert!(trackfinity.calls().is_empty());
        let (code, _) = check(&ctx, bare(ctx.amqp_url()), &[]).await;
        assert_eq!(code, Some(78));
    });
}

#[test]
fn a_gateway_without_a_topology_learns_that_it_needs_a_worker() {
    kit::run(async |ctx| {
        let (code, document) = check(&ctx, bare(ctx.amqp_url()), &["--role", "gateway"]).await;
        assert_eq!(code, Some(1));
        let fault = find(&document, "exchange trackfinity.unlock");
        assert!(text(&fault["remedy"]).contains("start a worker"), "{fault}");
        assert!(ctx.vhost().management().queues().await.is_empty(), "nothing is written");
    });
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("unlocker-check-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn what_only_an_incident_would_show_is_tried() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let folder = Folder::new();
        let program = || unlocker(ctx.amqp_url(), &trackfinity.url());
        let worker = ctx.start(&program().arg("run"));
        worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
        let console = || bare(ctx.amqp_url());
        let role = ["--role", "console"];
        let log = folder.0.join("audit.jsonl");
        let audited = console().env("UNLOCKER__CONSOLE__AUDIT_LOG", &log);
        let (code, document) = check(&ctx, audited.clone(), &role).await;
        assert_eq!(code, Some(0), "{document:#}");
        assert_eq!(fs::read_dir(&folder.0).expect("the folder").count(), 0, "nothing stays");
        fs::write(&log, "{}\n").expect("a log");
        assert_eq!(check(&ctx, audited, &role).await.0, Some(0));
        assert_eq!(fs::read_to_string(&log).expect("the log"), "{}\n");
        for path in [folder.0.join("missing/audit.jsonl"), folder.0.clone()] {
            let program = console().env("UNLOCKER__CONSOLE__AUDIT_LOG", &path);
            let (code, document) = check(&ctx, program, &role).await;
            assert_eq!(code, Some(78), "{document:#}");
            assert_eq!(find(&document, "console.audit_log")["ok"], false, "{document:#}");
        }

        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address").to_string();
        let (code, document) = check(&ctx, program().env("UNLOCKER__OPS__LISTEN", &address), &[]).await;
        let note = find(&document, "ops.listen");
        assert_eq!((code, &note["ok"]), (Some(0), &true.into()), "{document:#}");
        assert!(text(&note["remedy"]).contains("this very worker"), "{note}");
        // An address for documentation, which no machine has.
        let (code, document) =
            check(&ctx, program().env("UNLOCKER__OPS__LISTEN", "192.0.2.1:9464"), &[]).await;
        assert_eq!((code, &find(&document, "ops.listen")["ok"]), (Some(1), &false.into()), "{document:#}");
    });
}

#[test]
fn a_gateways_clients_are_read_and_each_fault_in_them_is_named() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let folder = Folder::new();
        let listen = |program: Program| {
            let program = program.env("UNLOCKER__GATEWAY__LISTEN", "0.0.0.0:0");
            program.env("UNLOCKER__GATEWAY__CLIENTS_DIR", &folder.0).env("UNLOCKER__OPS__LISTEN", "")
        };
        let run = async || check(&ctx, listen(bare(ctx.amqp_url())), &["--role", "gateway"]).await;
        let (code, document) = run().await;
        assert_eq!(code, Some(1), "{document:#}");
        assert!(
            text(&find(&document, "gateway.clients_dir")["detail"]).contains("no client"),
            "{document:#}"
        );

        let token = "a-token-of-the-shop-with-32-characters";
        fs::write(folder.0.join("shop"), token).expect("a client");
        fs::write(folder.0.join("billing"), "# rate=20\nanother-token-with-32-characters!\n")
            .expect("a client");
        let (code, document) = run().await;
        assert_eq!(code, Some(0), "{document:#}");
        assert_eq!(find(&document, "gateway.clients_dir")["detail"], "2 clients: billing, shop");

        fs::write(folder.0.join("billing"), "# rate=many\nshort\n").expect("a client");
        let (code, document) = run().await;
        assert_eq!(code, Some(1), "{document:#}");
        assert_eq!(faults(&document).len(), 2, "{document:#}");
        for line in [1, 2] {
            let fault = find(&document, &format!("gateway.clients_dir, billing, line {line}"));
            assert!(!text(&fault["remedy"]).is_empty(), "{fault}");
        }
        assert!(
            !document.to_string().contains(token) && !document.to_string().contains("short"),
            "{document:#}"
        );
    });
}

#[test]
fn a_gateway_without_clients_learns_who_may_send() {
    kit::run(async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address").to_string();
        let program = bare(ctx.amqp_url()).env("UNLOCKER__GATEWAY__LISTEN", &address);
        let (code, document) = check(&ctx, program, &["--role", "gateway"]).await;
        assert_eq!(code, Some(0), "{document:#}");
        assert!(
            text(&find(&document, "gateway.clients_dir")["detail"]).contains("client local"),
            "{document:#}"
        );
        assert!(
            text(&find(&document, "gateway.listen")["remedy"]).contains("this very gateway"),
            "{document:#}"
        );
        let open = bare(ctx.amqp_url()).env("UNLOCKER__GATEWAY__LISTEN", "0.0.0.0:0");
        let (code, document) = check(&ctx, open, &["--role", "gateway"]).await;
        assert_eq!((code, faults(&document).len()), (Some(78), 1), "{document:#}");
    });
}

#[test]
fn a_memory_alarm_is_named_and_no_check_waits_for_its_end() {
    kit::run_on_own_node_within(SOON * 4, NodeOptions::default(), async |ctx| {
        let trackfinity = Trackfinity::start(|_| Answer::json(200, "true"));
        let _worker = start_worker(&ctx, ctx.amqp_url(), &trackfinity.url(), &[]).await;
        ctx.node().memory_alarm(true).await;
        for args in [&["--probe"][..], &["--probe", "--role", "gateway"], &[]] {
            let begun = std::time::Instant::now();
            let (code, document) = check(&ctx, unlocker(ctx.amqp_url(), &trackfinity.url()), args).await;
            assert_eq!(code, Some(1), "{args:?}: {document:#}");
            let alarm = find(&document, "RabbitMQ's alarms");
            assert!(text(&alarm["detail"]).contains("short of memory or disk"), "{alarm:#}");
            assert!(text(&alarm["remedy"]).contains("rabbitmq-diagnostics alarms"), "{alarm:#}");
            let took = begun.elapsed();
            assert!(took < std::time::Duration::from_secs(10), "{args:?}: {took:?}");
        }
        ctx.node().memory_alarm(false).await;
        let (code, document) = check(&ctx, unlocker(ctx.amqp_url(), &trackfinity.url()), &["--probe"]).await;
        assert_eq!(code, Some(0), "{document:#}");
    });
}
