//! `broker.token_file` against a RabbitMQ with the plugin for OAuth 2.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use kit::{Answer, Process, Program};
use serde_json::Value;

use super::renewal::Tokens;
use crate::{
    console::http::Request,
    gateway::world::Gateway,
    world::{DEAD, EXCHANGE, REQUEST, RESULTS, SOON, World, id, logged_address, text, unlocker},
};

/// A world whose worker logs in with the token.
async fn start(ctx: kit::Context, tokens: &Tokens) -> (World, String) {
    let trackfinity = kit::Trackfinity::start(|_| Answer::unlocked());
    let program = unlocker(&tokens.url(&ctx), &trackfinity.url())
        .env("UNLOCKER__BROKER__TOKEN_FILE", tokens.file())
        .env("UNLOCKER__OPS__LISTEN", "127.0.0.1:0")
        .arg("run");
    let worker = ctx.start(&program);
    worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
    let ops = logged_address(&worker, "ops_served").await;
    let amqp = ctx.amqp().await;
    let outcomes = amqp.consume_into(RESULTS, "unlock.#").await;
    (World { ctx, trackfinity, amqp, outcomes, worker }, ops)
}

fn logged(process: &Process, event: &str) -> Vec<Value> {
    let lines = process.stderr();
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == event).collect()
}

/// Waits until the event was logged so often.
async fn wait_logged(process: &Process, event: &str, count: usize) {
    kit::eventually(event, SOON, async || match logged(process, event).len() {
        seen if seen >= count => Ok(()),
        seen => Err(format!("{seen}")),
    })
    .await;
}

/// The worker's connections, as RabbitMQ names them: by their ports.
async fn connections(world: &World) -> Vec<String> {
    let listed =
        world.ctx.node().rabbitmqctl(&["-q", "list_connections", "name", "user"]).await.expect("a list");
    let of_worker = listed.lines().filter(|line| line.ends_with("\tunlocker"));
    let mut names: Vec<String> = of_worker.map(str::to_owned).collect();
    names.sort();
    assert_eq!(names.len(), 2, "{listed}");
    names
}

/// Waits until `/readyz` says `ready`, or this code.
async fn readiness(ops: &str, wanted: &str) -> Value {
    kit::eventually(&format!("/readyz {wanted}"), SOON, async || {
        let answer = Request::new("GET", "/readyz").send(ops).await;
        let said: Value = serde_json::from_str(&answer.body).expect("JSON");
        let is_wanted = said["code"] == wanted || answer.status == 200 && wanted == "ready";
        if is_wanted { Ok(said) } else { Err(format!("{} {said}", answer.status)) }
    })
    .await
}

#[test]
fn a_token_renewed_five_times_while_requests_flow_costs_no_session_and_no_request() {
    Tokens::run(async |ctx, mut tokens| {
        tokens.write_first();
        let (world, _ops) = start(ctx, &tokens).await;
        let (flowing, published) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let publisher = world.ctx.amqp().await;
        world.ctx.spawn({
            let (flowing, published) = (Arc::clone(&flowing), Arc::clone(&published));
            async move {
                while flowing.load(Ordering::Relaxed) {
                    let n = published.load(Ordering::Relaxed).to_string();
                    let body = format!(r#"{{"customer_id":"{n}"}}"#);
                    publisher.publish(EXCHANGE, REQUEST, id(&n), body.as_bytes()).await;
                    published.fetch_add(1, Ordering::Relaxed);
                    // No more than a busy machine works off.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        let at_first = connections(&world).await;
        for renewal in 1..=5 {
            // Both ways in which files change.
            match renewal % 2 {
                0 => tokens.write(),
                _ => tokens.swap(),
            }
            wait_logged(&world.worker, "token_updated", renewal).await;
            tokens.due().await;
        }
        flowing.store(false, Ordering::Relaxed);
        // Time for what still waits.
        tokens.write_first();
        let count = published.load(Ordering::Relaxed);
        assert!(count > 200, "only {count} requests flowed");
        // One may still be on its way.
        let outcomes = world.outcomes(count).await;
        assert!((0..count).all(|n| outcomes.contains_key(&n.to_string())), "of {count}: {}", outcomes.len());
        assert!(outcomes.values().all(|outcome| outcome["status"] == "unlocked"));
        for line in logged(&world.worker, "token_updated") {
            assert_eq!(
                (line["connections"].as_u64(), line["updated"].as_u64()),
                (Some(2), Some(2)),
                "{line}"
            );
        }
        assert_eq!(connections(&world).await, at_first, "connections were opened anew");
        let warned = |line: &&String| line.contains(r#""level":"WARN""#);
        assert_eq!(world.worker.stderr().iter().find(warned), None);
    });
}

#[test]
fn a_token_that_expires_is_said_in_readyz_and_log_and_all_is_well_after_the_file_changes() {
    Tokens::run(async |ctx, tokens| {
        tokens.write_first();
        let (world, ops) = start(ctx, &tokens).await;
        let file = tokens.file();
        let gateway =
            Gateway::start(&world.ctx, &tokens.url(&world.ctx), &[("BROKER__TOKEN_FILE", &file)]).await;
        world.unlock("before").await;
        assert_eq!(world.outcome().await["status"], "unlocked");

        tokens.let_expire().await;
        for ops in [&ops, &gateway.ops] {
            let reason = text(&readiness(ops, "login_refused").await["reason"]);
            for part in
                ["refuses the token in broker.token_file", &file, "expired at", "put a new one into the file"]
            {
                assert!(reason.contains(part), "{part}: {reason}");
            }
        }
        for process in [&world.worker, &gateway.process] {
            let is_said = |line: &str| {
                line.contains("refuses the token in broker.token_file") && line.contains("expired at")
            };
            process.wait_for_line(is_said, SOON).await;
        }
        // What comes meanwhile waits.
        let waiting: Vec<String> = (0..5).map(|n| format!("meanwhile-{n}")).collect();
        for customer in &waiting {
            world.unlock(customer).await;
        }
        // A file that is no token changes nothing, and is said.
        tokens.write_text("half a tok");
        wait_logged(&world.worker, "secret_unusable", 1).await;

        tokens.write_first();
        readiness(&ops, "ready").await;
        readiness(&gateway.ops, "ready").await;
        let outcomes = world.outcomes(waiting.len() + 1).await;
        assert!(waiting.iter().all(|customer| outcomes[customer]["status"] == "unlocked"), "{outcomes:#?}");
        let body = crate::gateway::world::json(r#"{"customer_id":"after"}"#);
        assert_eq!(gateway.post(body).await.status, 202);
        // No line has the token.
        for process in [&world.worker, &gateway.process] {
            assert!(!process.stderr().iter().any(|line| line.contains("eyJ")), "{:#?}", process.stderr());
        }
    });
}

#[test]
fn a_replay_that_outlives_its_token_is_given_the_next_one() {
    Tokens::run(async |ctx, mut tokens| {
        let world = World::start(ctx, |_| Answer::unlocked()).await;
        const COUNT: usize = 10;
        for n in 0..COUNT {
            let body = format!(r#"{{"customer_id":"{n}"}}"#);
            world.amqp.publish("", DEAD, id(&n.to_string()), body.as_bytes()).await;
        }
        tokens.write_first();
        let (url, file) = (tokens.url(&world.ctx), tokens.file());
        let operator = |args: &[&str]| {
            let program = Program::new(env!("CARGO_BIN_EXE_unlocker"))
                .env("UNLOCKER__BROKER__URL", &url)
                .env("UNLOCKER__BROKER__TOKEN_FILE", &file)
                .args(["dead-letters", "replay"])
                .args(args);
            world.ctx.start(&program)
        };
        let plan = operator(&["--json"]);
        assert!(plan.wait_exit(SOON).await.success(), "{:#?}", plan.stderr());
        let plan: Value = serde_json::from_str(&plan.stdout().join("")).expect("JSON");
        // It takes 9 s at least, and no token lives longer than 8 s.
        tokens.write();
        let replay = operator(&["--rate", "1/s", "--confirm", &text(&plan["digest"])]);
        while replay.try_exit().is_none() {
            tokens.due().await;
            tokens.write();
        }
        assert!(replay.wait_exit(SOON).await.success(), "{:#?} {:#?}", replay.stdout(), replay.stderr());
        assert_eq!(world.outcomes(COUNT).await.len(), COUNT);
        assert_eq!(world.amqp.ready_count(DEAD).await, 0);
    });
}

#[test]
fn check_says_until_when_the_token_works_and_prints_the_scopes_that_are_enough() {
    Tokens::run(async |ctx, tokens| {
        let trackfinity = kit::Trackfinity::start(|_| Answer::json(200, "true"));
        let check = async |args: &[&str]| {
            let program = unlocker(&tokens.url(&ctx), &trackfinity.url())
                .env("UNLOCKER__BROKER__TOKEN_FILE", tokens.file())
                .args(["check", "--json"])
                .args(args);
            let check = ctx.start(&program);
            let code = check.wait_exit(SOON).await.code();
            (code, serde_json::from_str::<Value>(&check.stdout().join("")).expect("JSON"))
        };
        let find = |document: &Value, start: &str| {
            let checks = document["checks"].as_array().expect("checks").iter();
            let mut found = checks.filter(|check| text(&check["name"]).starts_with(start));
            found.next().cloned().unwrap_or_else(|| panic!("no {start}: {document:#}"))
        };
        let (hour, vhost) = (Duration::from_secs(3600), tokens.vhost());
        // Declares what the other roles need.
        let all = ["configure:*/*/*", "read:*/*/*", "write:*/*/*"];
        tokens.write_text(&tokens.token(&all, hour));
        let program = unlocker(&tokens.url(&ctx), &trackfinity.url())
            .env("UNLOCKER__BROKER__TOKEN_FILE", tokens.file());
        let worker = ctx.start(&program.arg("run"));
        worker.wait_for_line(|line| line.contains(r#""message":"consuming""#), SOON).await;
        for role in ["worker", "gateway", "console"] {
            let nothing = format!("read:{vhost}/nothing/*");
            tokens.write_text(&tokens.token(&[&nothing], hour));
            let (code, document) = check(&["--role", role]).await;
            assert_eq!(code, Some(1), "{document:#}");
            let login = find(&document, "login to RabbitMQ");
            assert!(text(&login["detail"]).contains("which expires at"), "{login}");
            let remedy = text(&find(&document, "rights in RabbitMQ")["remedy"]);
            let scopes: Vec<&str> =
                remedy.lines().filter_map(|line| line.strip_prefix("RESOURCE.")).collect();
            assert!(!scopes.is_empty(), "{remedy}");
            tokens.write_text(&tokens.token(&scopes, hour));
            let (code, document) = check(&["--role", role]).await;
            assert_eq!(code, Some(0), "{role}: {document:#}");
        }
        let names = format!("{vhost}/trackfinity.unlock*");
        let only_refused = ["configure", "read", "write"].map(|permission| match permission {
            "write" => format!("write:{names}/unlock.refused"),
            permission => format!("{permission}:{names}/*"),
        });
        let default = format!("write:{vhost}/amq.default/*");
        let scopes: Vec<&str> = only_refused.iter().chain([&default]).map(String::as_str).collect();
        tokens.write_text(&tokens.token(&scopes, hour));
        let rights = find(&check(&[]).await.1, "rights in RabbitMQ");
        let said = text(&rights["detail"]);
        for status in ["unlocked", "invalid", "refused", "abandoned"] {
            let is_missing =
                said.contains(&format!("write on exchange {RESULTS} with the routing key unlock.{status} "));
            assert_eq!(is_missing, status != "refused", "{said}");
        }
        assert!(said.starts_with("the user lacks 3:"), "{said}");
        tokens.write_text(&tokens.token(&["read:elsewhere/*/*"], hour));
        let (code, document) = check(&[]).await;
        assert_eq!(code, Some(1));
        let reached = find(&document, "RabbitMQ amqp");
        assert!(text(&reached["detail"]).contains("gives no access to virtual host"), "{reached}");
        assert!(text(&reached["remedy"]).contains("RESOURCE.write"), "{reached}");

        let many = "x".repeat(10_000);
        tokens.write_text(&tokens.token(&[&many], hour));
        let (_code, document) = check(&[]).await;
        let reached = find(&document, "RabbitMQ amqp");
        assert!(text(&reached["detail"]).contains("raise initial_frame_max"), "{reached}");

        tokens.write_text(&tokens.token(&all, Duration::ZERO));
        let (code, document) = check(&[]).await;
        assert_eq!(code, Some(1), "refused, not unreachable: {document:#}");
        let login = find(&document, "login to RabbitMQ");
        assert!(login["ok"] == false && text(&login["detail"]).contains("which expired at"), "{login}");
    });
}
